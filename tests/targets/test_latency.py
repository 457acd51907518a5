"""Models and bundles measured on engines, with nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from openglm.bundle.store import read_manifest
from openglm.errors import InputError
from openglm.runtimes.onnxruntime import NAME
from openglm.targets.export import export
from openglm.targets.latency import latency


def test_a_model_at_several_numbers_of_threads(conv_file: Path) -> None:
    outcomes = latency(conv_file, ["mnn"], threads=[1, 2], samples=4, rounds=5)
    targets = [item.target for item in outcomes if item.target is not None]
    assert [(target.engine, target.host.threads) for target in targets] == [
        (NAME, 1), ("mnn", 1), (NAME, 2), ("mnn", 2),
    ]  # fmt: skip
    assert all(target.timing is not None and target.timing.rounds == 5 for target in targets)
    assert [target.speedup for target in targets[::2]] == [1.0, 1.0]


def test_in_another_precision(conv_file: Path) -> None:
    own, other = latency(conv_file, [NAME, "openvino"], precision="fp16", samples=2, rounds=5)
    assert own.target is not None
    assert other.target is not None
    assert (own.precision, other.precision) == ("fp32", "fp16")
    assert 0 < other.target.difference < 0.01


def test_a_bundles_engines_are_taken_as_they_are(bundle: Path) -> None:
    export(bundle, ["openvino"], precision="fp16", samples=2, rounds=5)
    files = {file: file.stat().st_mtime_ns for file in bundle.iterdir()}
    _, kept, made = latency(bundle, ["openvino", "mnn"], samples=2, rounds=5)
    assert kept.precision == "fp16"
    assert made.target is not None
    assert files == {file: file.stat().st_mtime_ns for file in bundle.iterdir()}
    assert [target.engine for target in read_manifest(bundle).targets] == ["openvino"]


def test_one_that_fails_is_told_of_and_the_others_run(conv_file: Path) -> None:
    own, failed, other = latency(conv_file, ["executorch", "mnn"], precision="fp16", samples=2, rounds=5)
    assert own.target is not None
    assert failed.target is None
    assert failed.reason == "ExecuTorch has no fp16."
    assert other.engine == "mnn"


def test_what_is_asked_wrongly(conv_file: Path, bundle: Path) -> None:
    with pytest.raises(InputError, match="no engine 'mm'"):
        latency(conv_file, ["mm"])
    with pytest.raises(InputError, match="0 threads"):
        latency(conv_file, [NAME], threads=[0])
    with pytest.raises(InputError, match="at its own sizes"):
        latency(bundle, [NAME], dims={"batch": 2})
