"""The statistical model behind the coefficients, and its fit to measurements.

log latency = log of the sum over terms of (nominal time * exp(factor)), where a factor is a sum of what
belongs to the term, the scheme, the device and the runtime, each with a Gaussian prior around 0, so that a
rarely seen combination stays near what the others say. What a model is off by everywhere (its graph is
not what was compiled, or the compiler was clever) is an effect of that model, and of its pairing
with a runtime, with Cauchy's distribution: a few models are off by far and must not bend the
rest. A model that was not measured has effects of 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from openglm.device.phone import costs
from openglm.device.phone.coefficients import Coefficients
from openglm.device.phone.costs import GROUPS, NAMES, SCHEMES, Scheme

PRIORS = {
    "group": 0.3,
    "group scheme": 0.3,
    "term": 0.8,
    "term scheme": 0.1,
    "device": 1.0,
    "device group": 0.4,
    "device group scheme": 0.2,
    "runtime group": 0.2,
    "runtime group scheme": 0.2,
    "runtime term scheme": 0.1,
}
"""Standard deviations of the parts of a factor."""

MODEL_SCALE, PAIR_SCALE, ROW_SCALE = 0.1, 0.06, 0.05
"""Scales of the Cauchy distributions of a model's effect, of its pairing with a runtime, and of one row."""

PAIR_WEIGHT, ROW_WEIGHT = 0.5, 0.1
"""Below 1, as pairings of one model and rows of one pairing are not independent."""

STAGES = ((0.5, 0.25, 100), (MODEL_SCALE, PAIR_SCALE, 200))
"""First with wide scales, so that no model is given up before the factors are in place; and iterations."""

BAGS, PART = 6, 0.7
"""Fits that are averaged, and the share of the groups of models that each sees."""


@dataclass(frozen=True)
class Row:
    """One measurement, with the nominal terms of its graph."""

    model: str
    component: str
    device: str
    runtime: str
    scheme: Scheme
    ms: float
    terms: np.ndarray = field(repr=False)
    """[len(NAMES)], in milliseconds."""


class Design:
    """Which parameters the factors of each cell (device, runtime, scheme) add up."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.ids: dict[tuple[str, ...], int] = {}
        self.deviations: list[float] = []
        cells = sorted({(row.device, row.runtime, row.scheme) for row in rows})
        self.index = {cell: position for position, cell in enumerate(cells)}
        self.parts = np.array([[self._of_term(name, *cell) for name in NAMES] for cell in cells])
        """[cells, terms, parts]"""

    def _of_term(self, name: str, device: str, runtime: str, scheme: Scheme) -> list[int]:
        words = {
            "term": name,
            "group": costs.group(name),
            "scheme": scheme,
            "device": device,
            "runtime": runtime,
        }
        return [self._id(part, *(words[word] for word in part.split())) for part in PRIORS]

    def _id(self, part: str, *key: str) -> int:
        if (part, *key) not in self.ids:
            self.ids[part, *key] = len(self.deviations)
            self.deviations.append(PRIORS[part])
        return self.ids[part, *key]

    def cells(self, rows: Sequence[Row]) -> np.ndarray:
        """The cell of each row."""
        return np.array([self.index[row.device, row.runtime, row.scheme] for row in rows])


@dataclass(frozen=True)
class Fitted:
    """Parameters, and what they stand for."""

    design: Design
    x: np.ndarray

    def value(self, part: str, *key: str) -> float:
        """One parameter; 0, its prior's mean, where it was never fitted."""
        found = self.design.ids.get((part, *key))
        return 0.0 if found is None else float(self.x[found])

    def predict(self, rows: Sequence[Row]) -> np.ndarray:
        """Log milliseconds of rows in cells that were fitted."""
        factors = self.x[self.design.parts].sum(2)[self.design.cells(rows)]
        predicted: np.ndarray = np.log((_nominal(rows) * np.exp(factors)).sum(1))
        return predicted

    def tables(self) -> Coefficients:
        """The factors as they ship, without intervals and without what is for unmeasured devices."""
        runtimes = sorted({cell[1] for cell in self.design.index})
        devices = sorted({cell[0] for cell in self.design.index})
        return Coefficients(
            source="",
            terms={name: {scheme: self._term(name, scheme) for scheme in SCHEMES} for name in NAMES},
            runtimes={
                runtime: {
                    name: {scheme: self._runtime(runtime, name, scheme) for scheme in SCHEMES}
                    for name in NAMES
                }
                for runtime in runtimes
            },
            devices={
                device: {
                    group: {scheme: self._device(device, group, scheme) for scheme in SCHEMES}
                    for group in GROUPS
                }
                for device in devices
            },
            unmeasured={},
            slopes={},
            intervals={},
            cpu=None,  # type: ignore[arg-type]
            counted_factor=0.0,
            counted=None,  # type: ignore[arg-type]
        )

    def _term(self, name: str, scheme: Scheme) -> float:
        group = costs.group(name)
        shared = self.value("group", group) + self.value("group scheme", group, scheme)
        return shared + self.value("term", name) + self.value("term scheme", name, scheme)

    def _runtime(self, runtime: str, name: str, scheme: Scheme) -> float:
        group = costs.group(name)
        shared = self.value("runtime group", runtime, group)
        shared += self.value("runtime group scheme", runtime, group, scheme)
        return shared + self.value("runtime term scheme", runtime, name, scheme)

    def _device(self, device: str, group: str, scheme: Scheme) -> float:
        shared = self.value("device", device) + self.value("device group", device, group)
        return shared + self.value("device group scheme", device, group, scheme)


def fit(rows: Sequence[Row], design: Design | None = None) -> Fitted:
    """The parameters of highest posterior probability. Needs scipy."""
    from scipy.optimize import minimize

    design = design or Design(rows)
    problem = _Problem(rows, design)
    start = np.zeros(problem.size)
    for model_scale, pair_scale, iterations in STAGES:
        start = minimize(
            problem,
            start,
            args=(model_scale, pair_scale),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations},
        ).x
    return Fitted(design, start[: len(design.deviations)])


def bagged(rows: Sequence[Row], groups: Sequence[str], design: Design | None = None) -> Fitted:
    """The mean of the parameters fitted to random parts of the groups of models.

    Few architectures were measured, so that one fit leans on single models; the mean of several does less
    (Breiman, "Bagging predictors", 1996, with parts drawn without replacement).
    """
    design = design or Design(rows)
    rng = np.random.default_rng(0)
    names = sorted(set(groups))
    found = []
    for _ in range(BAGS):
        kept = set(rng.choice(names, max(1, round(PART * len(names))), replace=False))
        found.append(fit([row for row, group in zip(rows, groups, strict=True) if group in kept], design).x)
    return Fitted(design, np.mean(found, axis=0))


class _Problem:
    """The negative log posterior of parameters and effects, and its gradient."""

    def __init__(self, rows: Sequence[Row], design: Design) -> None:
        self.design = design
        self.deviations = np.array(design.deviations)
        self.logs = np.log(_nominal(rows))
        self.target = np.log([row.ms for row in rows])
        self.cell = design.cells(rows)
        self.order = np.argsort(self.cell, kind="stable")
        self.used, self.first = np.unique(self.cell[self.order], return_index=True)
        self.model = _numbered((row.model, row.component, row.scheme) for row in rows)
        self.pair = _numbered((row.model, row.component, row.scheme, row.runtime) for row in rows)
        # Components of one model count together as the root of their number.
        of_model = _numbered((row.model, row.scheme) for row in rows)
        owner = dict(zip(self.model.tolist(), of_model.tolist(), strict=True))
        together = np.bincount(list(owner.values()))
        self.weight = np.array([together[owner[index]] ** -0.5 for index in range(len(owner))])
        self.models, self.pairs = self.model.max() + 1, self.pair.max() + 1
        self.size = len(self.deviations) + self.models + self.pairs

    def __call__(self, z: np.ndarray, model_scale: float, pair_scale: float) -> tuple[float, np.ndarray]:
        count = len(self.deviations)
        x, of_model, of_pair = np.split(z, [count, count + self.models])
        factors = x[self.design.parts].sum(2)
        logs = self.logs + factors[self.cell]
        top = logs.max(1, keepdims=True)
        shares = np.exp(logs - top)
        total = shares.sum(1, keepdims=True)
        predicted = (np.log(total) + top)[:, 0]
        rest = predicted + of_model[self.model] + of_pair[self.pair] - self.target
        row, slope = _cauchy(rest, ROW_SCALE, ROW_WEIGHT)
        model, model_slope = _cauchy(of_model, model_scale, self.weight)
        pair, pair_slope = _cauchy(of_pair, pair_scale, PAIR_WEIGHT)
        by_cell = np.zeros(factors.shape)
        by_cell[self.used] = np.add.reduceat(
            (slope[:, None] * shares / total)[self.order], self.first, axis=0
        )
        each = np.repeat(by_cell.reshape(-1), self.design.parts.shape[2])
        gradient = np.bincount(self.design.parts.reshape(-1), each, count) + x / self.deviations**2
        model_slope += np.bincount(self.model, slope, self.models)
        pair_slope += np.bincount(self.pair, slope, self.pairs)
        value = row + model + pair + 0.5 * ((x / self.deviations) ** 2).sum()
        return float(value), np.concatenate([gradient, model_slope, pair_slope])


def _cauchy(value: np.ndarray, scale: float, weight: float | np.ndarray) -> tuple[float, np.ndarray]:
    """The sum of a Cauchy distribution's negative logs, and its slope at each value."""
    inner = 1 + (value / scale) ** 2
    return float((weight * np.log(inner)).sum()), weight * (2 * value / scale**2) / inner


def _nominal(rows: Sequence[Row]) -> np.ndarray:
    return np.array([row.terms for row in rows]) + 1e-12


def _numbered(keys: Iterable[tuple[str, ...]]) -> np.ndarray:
    """A number for each key, equal keys alike."""
    known: dict[tuple[str, ...], int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys])
