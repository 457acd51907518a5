"""A search on a local Ray cluster: models come back, and what dies is tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

import openglm
from openglm.errors import InputError
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.fuse import Fuse
from openglm.passes.layers import LayerPruning
from openglm.search import cluster
from openglm.search.bench import Setup
from openglm.search.optimize import optimize
from openglm.search.workers import Job

DEVICE = "cortex-a53-2gb"


@pytest.fixture(scope="module")
def ray() -> object:
    """A cluster of two workers on this machine, for all tests here."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def test_models_come_back(ray: object, bert_folder: Path, sentences: Path, tmp_path: Path) -> None:
    result = optimize(
        str(bert_folder), DEVICE, data=sentences, recipe=(LayerPruning(keep=1), Fuse(), DynamicInt8()),
        max_drop=1.0, threads=1, calibration_samples=8, evaluation_samples=16, ray="auto",
        folder=tmp_path / "study",
    )  # fmt: skip
    trial = result.trials[1]
    assert trial.accepted, trial.candidate.reason
    assert trial.path is not None
    assert trial.path.is_relative_to(tmp_path)
    assert openglm.load(result.best.save(tmp_path / "made")).verify() <= 0.01


def _dies_once(setup: Setup, job: Job, marker: str) -> tuple[str, dict[str, bytes]]:
    import os

    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(1)
    return cluster.evaluate(setup, job)


def test_a_killed_worker(
    ray: object, bert_folder: Path, sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = str(tmp_path / "died")
    monkeypatch.setattr(cluster, "evaluate", lambda setup, job: _dies_once(setup, job, marker))
    result = optimize(
        str(bert_folder), DEVICE, data=sentences, recipe=(Fuse(), DynamicInt8()), max_drop=1.0,
        threads=1, calibration_samples=8, evaluation_samples=16, ray="auto",
    )  # fmt: skip
    assert Path(marker).exists()
    assert result.trials[1].candidate.outcome != "failed", result.trials[1].candidate.reason


def test_no_such_cluster(bert_folder: Path, sentences: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(InputError, match="no Ray cluster at"):
        optimize(
            str(bert_folder), DEVICE, data=sentences, recipe=(Fuse(),), threads=1, calibration_samples=2,
            evaluation_samples=2, ray="127.0.0.1:1",
        )  # fmt: skip
