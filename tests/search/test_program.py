"""A recipe that ends in a program, from the model to a session that lets easy inputs leave."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import openglm  # noqa: E402
from openglm.bundle.manifest import FILE  # noqa: E402
from openglm.bundle.store import read_manifest  # noqa: E402
from openglm.data.dataset import Dataset, Sample  # noqa: E402
from openglm.dynamic.program import PROGRAM_FILE, model_files, open_file  # noqa: E402
from openglm.errors import InputError, VerificationError  # noqa: E402
from openglm.hashing import sha256  # noqa: E402
from openglm.model.model import Model  # noqa: E402
from openglm.passes.recipe import parse  # noqa: E402
from openglm.search import workers  # noqa: E402
from openglm.search.feed import Feed  # noqa: E402
from openglm.search.result import Result  # noqa: E402

nn = torch.nn
DEVICE = "cortex-a53-2gb"
STEPS: list[dict[str, Any]] = [
    {"pass": "early_exit", "after": ["features.0", "features.1"]},
    {"pass": "distil", "steps": 40, "batch_size": 8},
    {"pass": "fuse"},
    {"pass": "program", "max_drop": 0.5, "certainty": 0.8},
]
SETTINGS: dict[str, Any] = {
    "metric": "accuracy", "max_drop": 1.0, "threads": 1, "calibration_samples": 4, "evaluation_samples": 8,
}  # fmt: skip


class Net(nn.Module):
    """Pictures (rows, 3, 12, 12) into three classes; nearly all the work is in the last two stages."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 64, 160, 160)
        self.features = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in pairwise(widths))
        )
        self.head = nn.Linear(160, 3)

    def forward(self, pixel_values: Any) -> Any:
        return self.head(self.features(pixel_values).mean((2, 3)))


def pictures(count: int) -> list[dict[str, Any]]:
    """One colour is the brightest, and is the label."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, 3, 12, 12)).astype(np.float32)
    rows[np.arange(count), np.arange(count) % 3] += 1
    return [{"pixel_values": row, "label": index % 3} for index, row in enumerate(rows)]


class Made(NamedTuple):
    model: Model
    data: list[dict[str, Any]]
    study: Path
    result: Result
    bundle: Path


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("program")
    example = {"pixel_values": torch.zeros(1, 3, 12, 12)}
    model = openglm.AutoModel.wrap(Net().eval(), example, task="image-classification")
    data = pictures(96)
    result = optimize(model, data, folder / "study")
    return Made(model, data, folder / "study", result, result.best.save(folder / "bundle"))


def optimize(model: Model, data: Any, study: Path) -> Result:
    return openglm.optimize(model, DEVICE, data=data, recipe=parse(STEPS), folder=study, **SETTINGS)


def test_a_program_is_made_and_chosen(made: Made) -> None:
    best = made.result.best
    assert best.candidate.code == "early_exit_2 + distil_40 + fuse + program", made.result.explain()
    assert best.trial.path is not None
    assert best.trial.path.name == PROGRAM_FILE
    assert best.candidate.size_bytes == sum(file.stat().st_size for file in model_files(best.trial.path))
    assert best.candidate.notes[0] == "Exits after features.0, features.1."
    assert best.candidate.notes[-1].startswith("Inputs leave at exit ")
    assert "calibrating" in best.candidate.spent


def test_manifest_and_report_name_the_programs_files(made: Made) -> None:
    manifest = read_manifest(made.bundle)
    segments = [segment.models["onnxruntime"] for segment in manifest.program.segments]
    assert segments == [f"segment_{place}.onnx" for place in range(2)]
    assert [gate.kind for gate in manifest.program.gates] == ["confidence"]
    page = (made.bundle / "report.html").read_text(encoding="utf-8")
    for name in segments:
        assert manifest.files[name].sha256 == sha256(made.bundle / name)
        assert name in page
        assert manifest.files[name].sha256 in page
    models = model_files(made.bundle / FILE)
    assert {file.name for file in models} <= set(manifest.files)
    assert manifest.after.size_bytes == sum(file.stat().st_size for file in models)
    assert not {"model.onnx", PROGRAM_FILE} & set(manifest.files)
    assert [step["pass"] for step in manifest.recipe] == [step["pass"] for step in STEPS]
    assert sum(segment.work for segment in manifest.program.segments) == pytest.approx(1, abs=1e-4)


def test_a_session_tells_how_far_inputs_went(made: Made) -> None:
    program = read_manifest(made.bundle).program
    work = {segment.name: segment.work for segment in program.segments}
    rows = {"pixel_values": np.stack([sample["pixel_values"] for sample in pictures(12)])}
    with openglm.load(made.bundle, threads=1) as session:
        assert session.verify() < 1e-4
        outputs, trace = session.trace(rows)
        assert [array.shape for array in outputs.values()] == [(12, 3)]
        assert any(way.nodes == ("segment_0", "gate_0") for way in trace.rows)
        for way in trace.rows:
            assert way.work == pytest.approx(sum(work.get(node, 0.0) for node in way.nodes))
        assert trace.work < 1
    assert made.result.best.trial.path is not None
    alone = open_file(made.result.best.trial.path, threads=1).run(rows)
    for name, array in outputs.items():
        np.testing.assert_allclose(array, alone[name], rtol=1e-5, atol=1e-6)


def test_a_changed_segment_is_found_out(made: Made, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(made.bundle, tmp_path / "broken"))
    content = bytearray((broken / "segment_1.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (broken / "segment_1.onnx").write_bytes(content)
    with pytest.raises((InputError, VerificationError), match=r"segment_1\.onnx"):
        openglm.load(broken)


def test_a_finished_program_is_read_back(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "attempt", None)  # nothing may be tried again
    again = optimize(made.model, made.data, made.study)
    assert again.best.candidate == made.result.best.candidate
    assert again.best.trial.path == made.result.best.trial.path
    bundle = again.best.save(tmp_path / "again")
    first, second = (read_manifest(path) for path in (made.bundle, bundle))
    assert first.program == second.program
    assert all(
        second.files[f"segment_{place}.onnx"] == first.files[f"segment_{place}.onnx"] for place in range(2)
    )


def thresholding(model: Model, data: Any) -> list[tuple[dict[str, np.ndarray], float | None]]:
    feed = Feed(model, data, {"batch": 1}, calibration_samples=4, evaluation_samples=8)
    return list(feed.numbered(feed.calibrating))


def test_thresholds_are_set_on_the_half_that_does_not_judge(made: Made) -> None:
    found = thresholding(made.model, made.data)
    assert [label for _, label in found] == [float(sample["label"]) for sample in made.data[::2]]
    for (batch, _), sample in zip(found, made.data[::2], strict=True):
        np.testing.assert_array_equal(batch["pixel_values"][0], sample["pixel_values"])


def test_labels_are_in_the_models_own_numbers(made: Made) -> None:
    model = replace(made.model, config={"id2label": {"0": "red", "1": "green", "2": "blue"}})

    def read() -> Iterator[Sample]:
        for sample in made.data:
            yield Sample({"pixel_values": sample["pixel_values"]}, sample["label"])

    named = Dataset("folders", read, labelled=True, classes=("blue", "green", "red"))
    assert [label for _, label in thresholding(model, named)][:3] == [2.0, 0.0, 1.0]
    unlabelled = [{"pixel_values": sample["pixel_values"]} for sample in made.data]
    assert {label for _, label in thresholding(model, unlabelled)} == {None}
