"""A user's own measurements of one device re-calibrate its predictions.

The errors log(measured / predicted) of the measured models are regressed on the predicted latency: an offset
(the device is faster or slower than thought) and a slope (large models more so than small ones), both
shrunk towards 0 as a Bayesian linear regression does (Bishop, "Pattern Recognition and Machine
Learning", 2006, section 3.3), so that two measurements move a prediction less than ten.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openglm.device.latency import LatencyPrediction
from openglm.errors import InputError

OFFSET, SLOPE = 0.5, 0.1
"""Prior standard deviations: a device is off by a factor of 1.6, by 1.26 more for models ten times larger."""

ERROR = math.log(2) / 1.645
"""Standard deviation of one model's error where no interval says: nine of ten within a factor of two."""

PRIOR_COUNT = 4
"""The predicted spread of errors counts as much as that of so many measurements."""

NORMAL_90 = 1.645

ADVICE = "It has to be a CSV file with the columns model,latency_ms and a row for each measured model."


@dataclass(frozen=True)
class Calibration:
    """What the measurements teach about one unit of one device."""

    count: int
    centre: float
    """Of the log of the predicted milliseconds."""
    mean: np.ndarray
    """[2], offset and slope."""
    covariance: np.ndarray
    """[2, 2], in units of the spread."""
    spread: float
    """Standard deviation of one model's log error."""

    def apply(self, prediction: LatencyPrediction) -> LatencyPrediction:
        """The prediction moved by what was measured, with the interval that is left."""
        if prediction.ms <= 0:
            return prediction
        at = np.array([1.0, math.log(prediction.ms) - self.centre])
        factor = math.exp(float(at @ self.mean))
        deviation = self.spread * math.sqrt(1 + float(at @ self.covariance @ at))
        ms = prediction.ms * factor
        return replace(
            prediction,
            ms=ms,
            layers=tuple(replace(layer, ms=layer.ms * factor) for layer in prediction.layers),
            interval=(ms * math.exp(-NORMAL_90 * deviation), ms * math.exp(NORMAL_90 * deviation)),
            basis=f"{prediction.basis}; re-calibrated by your own measurements (models: {self.count})",
        )


def calibrate(path: Path, predict: Callable[[str], LatencyPrediction]) -> Calibration:
    """Read a file of measurements and compare each with what `predict` says of its model.

    Raises `InputError` for a file that is not one, with its line, and what `predict` raises.
    """
    measured: dict[str, list[float]] = {}
    for model, ms in _rows(path):
        measured.setdefault(model, []).append(ms)
    predictions = {model: predict(model) for model in measured}
    if none := [model for model, found in predictions.items() if found.ms <= 0]:
        raise InputError(
            f"Nothing is computed in {none[0]}, so it tells nothing.", "Leave it out of the file."
        )
    logs = np.array([math.log(predictions[model].ms) for model in measured])
    errors = np.array([math.log(float(np.median(each))) for each in measured.values()]) - logs
    spread = float(np.median([_spread(found) for found in predictions.values()]))
    design = np.column_stack([np.ones(len(logs)), logs - logs.mean()])
    prior = np.diag([(spread / OFFSET) ** 2, (spread / SLOPE) ** 2])
    covariance = np.linalg.inv(design.T @ design + prior)
    mean = covariance @ design.T @ errors
    left = errors - design @ mean
    variance = (PRIOR_COUNT * spread**2 + float(left @ left)) / (PRIOR_COUNT + len(errors))
    return Calibration(len(errors), float(logs.mean()), mean, covariance, math.sqrt(variance))


def _spread(prediction: LatencyPrediction) -> float:
    if prediction.interval is None:
        return ERROR
    low, high = prediction.interval
    return math.log(high / low) / (2 * NORMAL_90)


def _rows(path: Path) -> Iterator[tuple[str, float]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if not {"model", "latency_ms"} <= set(reader.fieldnames or ()):
                raise InputError(f"{path} has no columns model and latency_ms.", ADVICE)
            count = 0
            for record in reader:
                count += 1
                yield (record["model"] or "").strip(), _milliseconds(record, path, reader.line_num)
            if not count:
                raise InputError(f"{path} holds no measurement.", ADVICE)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}.", ADVICE) from error


def _milliseconds(record: dict[str, str], path: Path, line: int) -> float:
    text = record["latency_ms"] or ""
    try:
        ms = float(text)
    except ValueError:
        ms = math.nan
    if not (record["model"] or "").strip():
        raise InputError(f"Line {line} of {path} names no model.", ADVICE)
    if not (math.isfinite(ms) and ms > 0):
        raise InputError(f"Line {line} of {path}: '{text}' is no latency.", "Give milliseconds above zero.")
    return ms
