"""The statistical model on data made from known factors, and intervals on errors of a known distribution."""

from __future__ import annotations

import numpy as np
import pytest

from openglm.device import profile
from openglm.device.phone import coefficients, costs
from openglm.device.phone.conformal import cross_validated, folds, interval, intervals
from openglm.device.phone.refit import Row, fit

pytest.importorskip("scipy")

NAMES = ("product:conv", "memory:weights", "call")


def made_up(models: int, seed: int, noise: float = 0.0) -> tuple[list[Row], np.ndarray]:
    """Rows of models with three terms on two devices, the second half as fast, and the true log ms."""
    rng = np.random.default_rng(seed)
    rows, true = [], []
    for number in range(models):
        nominal = np.zeros(len(costs.NAMES))
        nominal[[costs.NAMES.index(name) for name in NAMES]] = rng.lognormal(0, 1.5, 3)
        effect = noise * rng.standard_normal()
        for device, slower in (("a", 1.0), ("b", 2.0)):
            ms = slower * (2 * nominal[costs.NAMES.index("product:conv")] + nominal.sum())
            true.append(np.log(ms))
            rows.append(Row(f"m{number}", "", device, "onnx", "float", ms * np.exp(effect), nominal))
    return rows, np.array(true)


def test_factors_are_found_again() -> None:
    rows, _ = made_up(40, 0)
    fitted = fit(rows)
    new, true = made_up(20, 1)
    assert np.abs(fitted.predict(new) - true).mean() < 0.05
    slower = fitted.value("device", "b") - fitted.value("device", "a")
    assert slower > 0.3


def test_a_few_wild_models_do_not_bend_the_rest() -> None:
    rows, true = made_up(40, 0)
    wild = [row if index >= 8 else Row(**{**vars(row), "ms": row.ms * 30}) for index, row in enumerate(rows)]
    assert np.median(np.abs(fit(wild).predict(rows) - true)) < 0.1


def test_groups_are_never_split() -> None:
    groups = [f"g{index // 3}" for index in range(60)]
    seen = np.zeros(60)
    for test in folds(groups):
        seen += test
        assert all(len({test[i] for i in range(60) if groups[i] == group}) == 1 for group in set(groups))
    assert (seen == 1).all()


def test_an_interval_holds_for_the_next_model() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):
        errors = rng.standard_t(3, 41)
        found = interval([str(index) for index in range(40)], errors[:40])
        held.append(found.low <= errors[40] <= found.high)
    assert 0.84 < np.mean(held) < 0.96


def test_a_group_counts_once_however_many_rows_it_has() -> None:
    errors = np.concatenate([np.full(1000, 5.0), np.linspace(-1, 1, 100)])
    groups = ["one"] * 1000 + [str(index) for index in range(100)]
    assert interval(groups, errors).high < 1.1


def test_intervals_of_a_rare_runtime_are_those_of_all() -> None:
    rows, true = made_up(30, 2, noise=0.2)
    rare = Row(**{**vars(rows[0]), "runtime": "tflite"})
    names = [row.model for row in rows] + [rare.model]
    errors = np.append(np.log([row.ms for row in rows]) - true, 0.1)
    found = intervals([*rows, rare], names, errors)
    assert found["tflite"]["float"].models == 30


def test_left_out_models_are_predicted_from_the_others() -> None:
    rows, true = made_up(30, 3, noise=0.05)
    predicted = cross_validated(rows, [row.model for row in rows], 3)
    assert np.median(np.abs(predicted - true)) < 0.1


def test_the_shipped_coefficients_are_whole() -> None:
    known = coefficients.load()
    assert coefficients.loads(known.dumps()) == known
    assert "BSD-3-Clause" in known.source
    assert set(known.terms) == set(costs.NAMES)
    for measured in coefficients.MEASURED.values():
        assert set(known.devices[measured]) == set(costs.GROUPS)
    for runtimes in known.intervals.values():
        assert all(one.low < 0 < one.high for schemes in runtimes.values() for one in schemes.values())


def test_the_table_of_factors_predicts_what_was_fitted() -> None:
    rows, _ = made_up(20, 4)
    fitted = fit(rows)
    tables = fitted.tables()
    row = rows[0]
    nominal = dict(zip(costs.NAMES, row.terms.tolist(), strict=True))
    assert tables.log_ms(nominal, tables.devices["a"], "onnx", "float") == pytest.approx(
        fitted.predict([row])[0]
    )


def test_a_faster_npu_is_predicted_faster() -> None:
    known = coefficients.load()
    device = profile.load("dimensity-9300")
    npu = next(unit for unit in device.units if unit.kind == "npu")
    double = npu.model_copy(update={"peak_gops": {key: 2 * peak for key, peak in npu.peak_gops.items()}})
    terms = dict.fromkeys(costs.NAMES, 1.0)
    times = [
        known.log_ms(terms, known.device_like(unit, device), "qnn_dlc", "w8a8") for unit in (npu, double)
    ]
    assert times[1] < times[0]
