"""A user's own measurements: how far they move a prediction, and files that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from openglm.device.latency import LatencyPrediction
from openglm.device.phone.calibration import Calibration, calibrate
from openglm.device.profile import load
from openglm.errors import InputError

UNIT = load("cortex-a53-2gb").cpu


def predicted(ms: float, interval: tuple[float, float] | None = None) -> LatencyPrediction:
    return LatencyPrediction(
        UNIT, 4, ms, (), {"compute": 1.0, "memory": 0.0, "overhead": 0.0}, interval, "a guess"
    )


def calibrated(path: Path, *measured: float) -> Calibration:
    """Of models predicted at 1, 2, 3 ... ms."""
    rows = [f"{index + 1},{ms}" for index, ms in enumerate(measured)]
    path.write_text("\n".join(["model,latency_ms", *rows]), encoding="utf-8")
    return calibrate(path, lambda name: predicted(float(name), (float(name) / 2, float(name) * 2)))


def test_more_measurements_move_it_further_and_narrow_it(tmp_path: Path) -> None:
    few = calibrated(tmp_path / "a.csv", 2.0).apply(predicted(1.0))
    many = calibrated(tmp_path / "b.csv", *(2.0 * (index + 1) for index in range(12))).apply(predicted(1.0))
    assert 1 < few.ms < many.ms < 2.05
    assert many.ms == pytest.approx(2, rel=0.1)
    assert few.interval is not None
    assert many.interval is not None
    assert many.interval[1] / many.interval[0] < few.interval[1] / few.interval[0]
    assert many.interval[0] < 2 < many.interval[1]
    assert "your own measurements (models: 12)" in many.basis


def test_measured_as_predicted_changes_nothing(tmp_path: Path) -> None:
    found = calibrated(tmp_path / "a.csv", 1.0, 2.0, 3.0).apply(predicted(2.5))
    assert found.ms == pytest.approx(2.5)


def test_a_model_measured_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("model,latency_ms\n1,2\n1,2\n1,2\n", encoding="utf-8")
    assert calibrate(path, lambda name: predicted(1.0)).count == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no columns"),
        ("model,ms\na,1\n", "no columns"),
        ("model,latency_ms\n", "holds no measurement"),
        ("model,latency_ms\na,fast\n", "Line 2"),
        ("model,latency_ms\na,1\nb,-3\n", "Line 3"),
        ("model,latency_ms\na,nan\n", "'nan' is no latency"),
        ("model,latency_ms\na\n", "Line 2"),
        ("model,latency_ms\n,3\n", "names no model"),
        ('model,latency_ms\n"a,1\n', "cannot be read"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        calibrate(path, lambda name: predicted(1.0))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        calibrate(tmp_path / "none.csv", lambda name: predicted(1.0))
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00model")
    with pytest.raises(InputError, match="cannot be read"):
        calibrate(tmp_path / "b.csv", lambda name: predicted(1.0))
