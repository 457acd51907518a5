"""A bundle whose thresholds are set again: whole, right, and with its history."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import openglm
from openglm.bundle.store import read_manifest
from openglm.errors import InputError, OutputError


@pytest.fixture
def home(cascade_bundle: Path) -> Path:
    """The folder of the bundle and its data."""
    return cascade_bundle.parent


def right(bundle: Path, data: Path) -> tuple[float, float]:
    """A bundle's accuracy, and the share of the work that it does."""
    rows = np.load(data)
    with openglm.load(bundle, threads=1) as session:
        outputs, trace = session.trace({"x": rows["x"]})
    return float((outputs["logits"].argmax(1) == rows["label"]).mean()), trace.work


def test_a_new_bundle_for_shifted_inputs(cascade_bundle: Path, home: Path, tmp_path: Path) -> None:
    found = openglm.calibrate(cascade_bundle, home / "shifted.npz", tmp_path / "new")
    before, after = right(cascade_bundle, home / "shifted.npz"), right(tmp_path / "new", home / "shifted.npz")
    assert before[0] < 0.95 <= after[0]
    assert found.before == (pytest.approx(before[1], abs=1e-3), pytest.approx(1 - before[0], abs=1e-3))
    assert found.after == (pytest.approx(after[1], abs=1e-3), pytest.approx(1 - after[0], abs=1e-3))
    old, new = read_manifest(cascade_bundle), read_manifest(tmp_path / "new")
    (record,) = new.recalibrated
    assert record.max_drop == 0.05, "as its recipe says"
    assert record.work == (round(found.before.work, 4), round(found.after.work, 4))
    assert record.samples == 1600
    same = {"program", "recalibrated", "rounding", "files"}
    assert new.model_dump(exclude=same) == old.model_dump(exclude=same)
    graphs = [name for name in old.files if name.endswith(".onnx")]
    assert all(old.files[name] == new.files[name] for name in graphs)
    with openglm.load(tmp_path / "new") as session:
        session.verify()
    assert "Thresholds were set again" in (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    again = openglm.calibrate(tmp_path / "new", home / "today.npz", tmp_path / "new", max_drop=0.1)
    assert again.after.work < found.after.work
    assert [item.max_drop for item in read_manifest(tmp_path / "new").recalibrated] == [0.05, 0.1]


def test_a_zip(cascade_bundle: Path, home: Path, tmp_path: Path) -> None:
    openglm.calibrate(cascade_bundle, home / "shifted.npz", tmp_path / "new.zip")
    assert right(tmp_path / "new.zip", home / "shifted.npz")[0] >= 0.95


def test_names_as_labels(cascade_bundle: Path, tmp_path: Path) -> None:
    rows = [{"x": np.ones(8, np.float32), "label": name} for name in ("cat", "dog")]
    with pytest.raises(InputError, match="'cat' is a name"):
        openglm.calibrate(cascade_bundle, rows, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_target_that_is_something_else(cascade_bundle: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(OutputError, match="is not a bundle"):
        openglm.calibrate(cascade_bundle, home / "shifted.npz", tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text(encoding="utf-8") == "dear"


def test_a_bundle_without_gates(conv_bundle: Path, tmp_path: Path) -> None:
    rows = [{"pixel_values": np.zeros((3, 16, 16), np.float32), "label": 0}] * 2
    with pytest.raises(InputError, match="no thresholds"):
        openglm.calibrate(conv_bundle, rows, tmp_path / "new")


@pytest.mark.parametrize(("name", "value"), [("max_drop", -0.1), ("certainty", 1.0), ("false_rejects", 2.0)])
def test_shares_out_of_range(cascade_bundle: Path, tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        openglm.calibrate(cascade_bundle, [], tmp_path / "new", **{name: value})  # type: ignore[arg-type]


def test_a_bundle_that_was_changed(cascade_bundle: Path, home: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cascade_bundle, tmp_path / "copy"))
    (copy / "small.onnx").write_bytes(b"x")
    with pytest.raises(openglm.OpenGLMError, match=r"small\.onnx"):
        openglm.calibrate(copy, home / "shifted.npz", tmp_path / "new")
    assert not (tmp_path / "new").exists()
