"""The ranges that activations take, observed over calibration data one batch at a time.

Memory does not grow with the number of samples: an observer keeps two numbers or one histogram a
tensor, and a batch is gone before the next is read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import onnx_ir as ir

from openglm.errors import InputError
from openglm.model.sources import onnx_file
from openglm.runtimes.onnxruntime import Runner

Method = Literal["minmax", "percentile", "entropy"]


class Observer(Protocol):
    """What is remembered of the values of one tensor."""

    def add(self, values: np.ndarray) -> None:
        """See the values of one batch, all finite."""
        ...

    def range(self) -> tuple[float, float]:
        """The lowest and highest value to be represented."""
        ...


class MinMax:
    """The extremes."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def range(self) -> tuple[float, float]:
        return self.low, self.high


class Histogram:
    """Counts in equal bins over [-reach, reach), where `reach` is a power of two that doubles as needed.

    Doubling joins bins in pairs, so nothing depends on the order of the batches.
    """

    BINS = 4096

    def __init__(self) -> None:
        self.exact = MinMax()
        self.counts = np.zeros(self.BINS, np.int64)
        self.reach = 2.0**-60

    def add(self, values: np.ndarray) -> None:
        values = values.ravel()
        self.exact.add(values)
        half = self.BINS // 2
        while max(-self.exact.low, self.exact.high) >= self.reach:
            joined = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.pad(joined, half // 2)
            self.reach *= 2
        # Exact in float32 too: a power of two changes no digit.
        places = np.floor(values * values.dtype.type(half / self.reach)).astype(np.int64) + half
        self.counts += np.bincount(places, minlength=self.BINS)

    @property
    def edges(self) -> np.ndarray:
        """The borders of the bins, one more than there are bins."""
        return np.linspace(-self.reach, self.reach, self.BINS + 1)


class Percentile(Histogram):
    """The range that holds all but a share of the values, half of that share cut at each end.

    An end at zero, as after a ReLU, is never cut: the zero point sits there.
    """

    def __init__(self, percentile: float) -> None:
        super().__init__()
        self.percentile = percentile

    def range(self) -> tuple[float, float]:
        low, high = self.exact.range()
        if not self.counts.sum():
            return low, high
        tail = (1 - self.percentile / 100) / 2
        total = np.cumsum(self.counts) / self.counts.sum()
        if low < 0:
            low = max(low, float(self.edges[np.searchsorted(total, tail, side="right")]))
        if high > 0:
            high = min(high, float(self.edges[np.searchsorted(total, 1 - tail) + 1]))
        return low, high


class Entropy(Histogram):
    """The threshold at which the 8-bit distribution differs least from the real one.

    Kullback-Leibler divergence between the magnitudes cut at a threshold, outliers moved into the
    last bin, and the same in 128 levels (Migacz, "8-bit inference with TensorRT", 2017).
    """

    LEVELS = 128

    def range(self) -> tuple[float, float]:
        low, high = self.exact.range()
        half = self.BINS // 2
        magnitudes = (self.counts[half:] + self.counts[half - 1 :: -1]).astype(np.float64)
        # The zeros of a ReLU are exact at any scale; counted, they would call for a fine one.
        magnitudes[0] = magnitudes[1]
        # Fewer values than bins make no distribution: any threshold would do.
        if self.counts.sum() < self.BINS or not magnitudes.sum():
            return low, high
        last = int(np.flatnonzero(magnitudes)[-1]) + 1
        stops = np.unique(np.linspace(min(self.LEVELS, last), last, 64).astype(int))
        best = min(stops, key=lambda stop: self._divergence(magnitudes, int(stop)))
        threshold = best / half * self.reach
        return max(low, -threshold), min(high, threshold)

    def _divergence(self, magnitudes: np.ndarray, stop: int) -> float:
        real = magnitudes[:stop].copy()
        levels = np.arange(stop) * self.LEVELS // stop
        filled = real > 0
        members = np.bincount(levels[filled], minlength=self.LEVELS)
        sums = np.bincount(levels, weights=real, minlength=self.LEVELS)
        coarse = np.where(filled, (sums / np.maximum(members, 1))[levels], 0.0)
        real[-1] += magnitudes[stop:].sum()
        real, coarse = real / real.sum(), coarse / max(coarse.sum(), 1e-12)
        # A bin that only the outliers fill has no counterpart; a small floor prices it.
        both = real > 0
        return float(np.sum(real[both] * np.log(real[both] / np.maximum(coarse[both], 1e-9))))


def observer(method: Method, percentile: float) -> Callable[[], Observer]:
    """What makes a fresh observer of a method."""
    if method == "minmax":
        return MinMax
    return Entropy if method == "entropy" else lambda: Percentile(percentile)


def observe(
    model: ir.Model,
    tensors: Sequence[ir.Value],
    batches: Iterable[Mapping[str, np.ndarray]],
    make: Callable[[], Observer],
    progress: Callable[[int], None],
) -> dict[str, tuple[float, float]]:
    """The range of each of `tensors` by name, seen while the model runs over `batches`.

    Raises `InputError` where there is no batch, or a value is not finite.
    """
    probe = model.clone()
    known = {value.name: value for node in probe.graph for value in node.outputs}
    outside = {value.name for value in (*probe.graph.inputs, *probe.graph.outputs)}
    names = [str(value.name) for value in tensors]
    fed = {value.name for value in probe.graph.inputs}
    for name in names:
        if name not in outside:
            known[name].type = ir.TensorType(ir.DataType.FLOAT)
            probe.graph.outputs.append(known[name])
    observers = {name: make() for name in names}
    count = 0
    with tempfile.TemporaryDirectory(prefix="openglm-") as folder:
        path = Path(folder) / "observed.onnx"
        onnx_file.write(probe, path)
        runner = Runner(path)
        for batch in batches:
            found = runner.run(batch)
            for name, seen in observers.items():
                values = batch[name] if name in fed else found[name]
                if not np.isfinite(values).all():
                    raise InputError(
                        f"Calibration gives NaN or infinite values in '{name}'.",
                        "Check the calibration data and the model's weights.",
                    )
                if values.size:
                    seen.add(values)
            count += 1
            progress(count)
    ranges = {name: seen.range() for name, seen in observers.items()}
    if not count or any(low > high for low, high in ranges.values()):
        raise InputError("There is no calibration data.", "Give at least one sample that is not empty.")
    return ranges
