"""Engines added to bundles: whole models and programs, what fails, and what stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import openglm
from openglm.bundle.store import read_manifest
from openglm.errors import InputError
from openglm.runtimes.engine import engine
from openglm.runtimes.onnxruntime import NAME
from openglm.search.bundled import Bundled
from openglm.targets import subject as room
from openglm.targets.export import compare, export
from openglm.targets.subject import proposed

BOTH = ["mnn", "openvino"]
FIXED = ["executorch", "litert"]
"""Engines whose graphs have fixed sizes."""


def test_a_picture_bundle_runs_on_all_engines(bundle: Path) -> None:
    before = read_manifest(bundle)
    outcomes = export(bundle, ["all"], samples=4, rounds=5)
    assert outcomes[0].engine == NAME
    assert {item.engine for item in outcomes} >= set(BOTH)
    assert all(item.target is not None for item in outcomes if item.engine in BOTH)
    manifest = read_manifest(bundle)
    assert set(before.files) <= set(manifest.files)
    page = (bundle / "report.html").read_text()
    assert all(name in page for name in manifest.files if name != "report.html")
    with openglm.load(bundle, threads=1) as session:
        assert session.verify() == 0
        spec = session.manifest.inputs[0]
        shape = [size if isinstance(size, int) else 1 for size in spec.shape]
        given = {spec.name: np.random.default_rng(1).normal(size=shape).astype(np.float32)}
        expected = session.run(given)
    for target in manifest.targets:
        if not engine(target.engine).runs:
            assert not target.ran
            continue
        assert target.timing is not None
        assert target.speedup is not None
        with openglm.load(bundle, threads=1, runtime=target.engine) as session:
            for name, array in session.run(given).items():
                a, b = array.ravel(), expected[name].ravel()
                assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.97


def test_text_of_any_length(text_bundle: Path, tmp_path: Path) -> None:
    outcomes = export(text_bundle, BOTH, output=tmp_path / "more", samples=6, rounds=5)
    assert all(item.target is not None for item in outcomes), outcomes
    assert not read_manifest(text_bundle).targets, "another output was given"
    for name in BOTH:
        with openglm.load(tmp_path / "more", runtime=name) as session:
            assert session.runtime == name
            for text in ("Yes.", "A kitten lay on the rug and slept until the evening came."):
                (array,) = session.run(text=text).values()
                assert np.isfinite(array).all()


def test_text_on_engines_of_fixed_sizes(text_bundle: Path) -> None:
    outcomes = export(text_bundle, FIXED, sizes={"sequence": [16, 64]}, samples=3, rounds=5)
    assert all(item.target is not None for item in outcomes), outcomes
    texts = ["Yes.", "A kitten lay on the rug and slept."]
    with openglm.load(text_bundle) as session:
        (expected,) = session.run(text=texts).values()
    for name in FIXED:
        with openglm.load(text_bundle, runtime=name) as session:
            (found,) = session.run(text=texts).values()
            assert found.shape == expected.shape
            cosines = (
                (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
            )
            assert cosines.min() > 0.97


def test_lengths_double_up_to_the_longest_text(bert_bundle: Path, conv_bundle: Path) -> None:
    text, picture = (read_manifest(path) for path in (bert_bundle, conv_bundle))
    found = proposed(Bundled.of(bert_bundle, text), text.shape)
    lengths = next(sizes for sizes in found.values() if len(sizes) > 1)
    assert text.processor is not None
    assert lengths[:2] == [16, 32]
    assert lengths[-1] == text.processor["max_length"]
    found = proposed(Bundled.of(conv_bundle, picture), picture.shape)
    assert found == {name: [size] for name, size in picture.shape.items()}


def test_a_program_with_gates(cascade_bundle: Path, tmp_path: Path) -> None:
    outcomes = export(cascade_bundle, BOTH, output=tmp_path / "more", samples=8, rounds=5)
    assert all(item.target is not None for item in outcomes), outcomes
    program = read_manifest(tmp_path / "more").program
    assert len(program.segments) > 1
    for segment in program.segments:
        assert set(segment.models) == {NAME, *BOTH}
    assert [item.target.same_way for item in outcomes if item.target] == [1.0] * 3
    assert "Same way" in (tmp_path / "more" / "report.html").read_text()


def test_rows_that_take_other_ways_through_gates_are_told_of(
    cascade_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small model, which decides about each row, has other weights in the engine."""
    write = room.onnx_file.write

    def spoilt(graph: ir.Model, path: Path) -> None:
        write(_negated(graph) if path.name.startswith("small") else graph, path)

    monkeypatch.setattr(room.onnx_file, "write", spoilt)
    _, outcome = export(cascade_bundle, ["mnn"], output=tmp_path / "more", samples=16, rounds=5)
    assert outcome.target is None
    assert "take the same way through its gates" in outcome.reason


def _negated(graph: ir.Model) -> ir.Model:
    for value in graph.graph.initializers.values():
        if value.const_value is not None:
            value.const_value = ir.tensor(-value.const_value.numpy(), name=value.name)
    return graph


def test_again_at_another_precision_leaves_nothing_of_the_first(bundle: Path) -> None:
    export(bundle, ["openvino"], precision="fp16", samples=2, rounds=5)
    first = set(read_manifest(bundle).files)
    export(bundle, ["openvino"], precision="fp32", samples=2, rounds=5)
    second = read_manifest(bundle)
    assert {"model_fp16.xml", "model_fp16.bin"} <= first
    assert {"model_fp32.xml", "model_fp32.bin"} <= set(second.files)
    assert not any("fp16" in name for name in second.files)
    assert [target.precision for target in second.targets] == ["fp32"]


class Fault:
    """Puts something in place of an engine's conversion, in the process that does it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self._folder = tmp_path / "site"
        self._folder.mkdir()
        monkeypatch.setenv("PYTHONPATH", str(self._folder))

    def put(self, body: str) -> None:
        (self._folder / "sitecustomize.py").write_text(
            "import sys, os, signal, time\n"
            "if 'openglm.targets.apart' in ' '.join(sys.orig_argv):\n"
            "    from openglm.runtimes.mnn import MNN\n"
            "    def convert(self, source, target, precision):\n"
            f"        {body}\n"
            "    MNN.convert = convert\n"
        )


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os._exit(3)", "exit code 3"),
        ("time.sleep(60)", "after 8 seconds"),
        ("target.write_bytes(b'nothing')", "cannot load"),
        ("raise ValueError('of its own kind')", "of its own kind"),
        ("import shutil; shutil.copyfile(source.plain, target)", "cannot load"),
    ],
)
def test_one_that_fails_takes_nothing_else_down(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, told: str
) -> None:
    Fault(monkeypatch, tmp_path).put(body)
    seconds = 8.0 if "sleep" in body else 120.0
    outcomes = export(bundle, BOTH, precision="fp32", samples=2, rounds=5, seconds=seconds)
    _, failed, made = outcomes
    assert failed.target is None
    assert told in failed.reason
    assert made.target is not None
    manifest = read_manifest(bundle)
    assert [target.engine for target in manifest.targets] == ["openvino"]
    assert not any(name.endswith(".mnn") for name in manifest.files)


def test_other_answers_are_refused_and_the_bundle_stays(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine converts a graph whose weights are others."""
    content = {file.name: file.read_bytes() for file in bundle.iterdir() if file.is_file()}
    write = room.onnx_file.write

    def spoilt(graph: ir.Model, path: Path) -> None:
        for value in graph.graph.initializers.values():
            if value.const_value is not None and value.const_value.size > 100:
                array = value.const_value.numpy()
                value.const_value = ir.tensor(-array, name=value.name)
        write(graph, path)

    monkeypatch.setattr(room.onnx_file, "write", spoilt)
    _, outcome = export(bundle, ["mnn"], samples=2, rounds=5)
    assert outcome.target is None
    assert "answers are not the bundle's" in outcome.reason
    assert content == {file.name: file.read_bytes() for file in bundle.iterdir() if file.is_file()}


def test_engines_are_compared_where_they_are(bundle: Path) -> None:
    export(bundle, BOTH, samples=2, rounds=5)
    content = {file.name: file.read_bytes() for file in bundle.iterdir() if file.is_file()}
    for runtimes, expected in ((["all"], [NAME, *BOTH]), (["mnn", NAME], [NAME, "mnn"])):
        outcomes = compare(bundle, runtimes, samples=3, rounds=5)
        assert [item.engine for item in outcomes] == expected
        own, *others = (item.target for item in outcomes)
        assert own is not None
        assert (own.difference, own.speedup) == (0, 1)
        assert all(target is not None and target.timing is not None for target in others)
    assert content == {file.name: file.read_bytes() for file in bundle.iterdir() if file.is_file()}
    with pytest.raises(InputError, match="no engine 'xyz'"):
        compare(bundle, ["xyz"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"runtimes": ["mnm"]}, "no engine 'mnm'"),
        ({"runtimes": [NAME]}, "Every bundle"),
        ({"runtimes": ["mnn"], "precision": "int3"}, "no precision 'int3'"),
    ],
)
def test_what_is_asked_wrongly(bundle: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        export(bundle, **given)


def test_a_processor_of_an_engine(bundle: Path) -> None:
    label = "onnxruntime:Azure"
    own, other = (item.target for item in compare(bundle, [label], samples=2, rounds=5))
    assert own is not None
    assert other is not None
    assert (other.engine, other.difference) == (label, 0)
    assert not own.elsewhere
    assert other.elsewhere == {"CPU": own.operators["CPU"]}
    with openglm.load(bundle, runtime=label, threads=1) as session:
        assert session.verify() == 0
    with pytest.raises(InputError, match="not for one of its processors"):
        export(bundle, ["openvino:cpu"])


def test_a_session_on_an_engine_that_the_bundle_has_nothing_for(bundle: Path) -> None:
    with pytest.raises(InputError, match="no model for mnn") as caught:
        openglm.load(bundle, runtime="mnn")
    assert "openglm export" in caught.value.advice


def test_auto_takes_the_fastest_that_is_installed(bundle: Path) -> None:
    export(bundle, BOTH, samples=2, rounds=5)
    path = bundle / "openglm.json"
    manifest = json.loads(path.read_text())
    speeds = {"mnn": 3.0, "openvino": 2.0}
    for target in manifest["targets"]:
        target["speedup"] = speeds[target["engine"]]
    path.write_text(json.dumps(manifest))
    with openglm.load(bundle, runtime="auto") as session:
        assert session.runtime == "mnn"
    for target in manifest["targets"]:
        target["speedup"] = 0.5
    path.write_text(json.dumps(manifest))
    with openglm.load(bundle, runtime="auto") as session:
        assert session.runtime == NAME


def test_labels_give_the_metric(write_classifier: Callable[..., Path], tmp_path: Path) -> None:
    labels = [place % 3 % 2 for place in range(40)]
    rows = [
        f"the film was {'good' if label else 'bad'}, part {place}\t{label}"
        for place, label in enumerate(labels)
    ]
    data = tmp_path / "data.tsv"
    data.write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    model = write_classifier(tmp_path / "model", layers=1, classes=2)
    result = openglm.optimize(
        str(model), "mid-range-a76", data=str(data), metric="accuracy", time_limit_s=5, threads=1,
        folder=tmp_path / "study",
    )  # fmt: skip
    made = result.best.save(tmp_path / "bundle")
    _, outcome = export(made, ["openvino"], data=str(data), samples=10, rounds=5)
    assert outcome.target is not None, outcome.reason
    assert outcome.target.quality is not None
    assert outcome.target.quality.metric == "accuracy"
    assert outcome.target.quality.samples == 10
