"""What a search tries next: quantization first, cheap before dear, training only where it can pay."""

from __future__ import annotations

from typing import Any

import pytest

from openglm.bundle.manifest import Candidate
from openglm.device.fit import Limit, Verdict
from openglm.passes.distil import Distil
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.fp16 import Half
from openglm.passes.layers import LayerPruning
from openglm.search.planner import ETA, EXITS_AT, LAST, REPAIRED, SHARES, Done, Plan, Planner, key, repaired
from openglm.search.space import FLOAT, Space
from openglm.search.trial import Trial

SCHEMES = {"dynamic_wi8_ai8": DynamicInt8(), "fp16": Half()}
CHOICES: dict[str, tuple[Any, ...]] = {
    "quantization": (FLOAT, *SCHEMES),
    "spared": (0, 1, 2, 4),
    "layers": (6, 4, 3, 2),
    "neurons": (1.0, 0.5),
}
SPACE = Space(SCHEMES, CHOICES)


def done(
    planner: Planner, plan: Plan, speedup: float, loss: float, mb: float | None = None, **more: Any
) -> Done:
    """A trial that is over, and noted by the planner; where `mb` is given, the budget is 1 MB."""
    planner.begin(plan.params, plan.effort)
    recipe = planner.space.recipe(plan.params, plan.training)
    size = more.pop("size_bytes", int(1e6 * mb) if mb else int(1e6 / speedup))
    candidate = Candidate(
        code="made up",
        recipe=(),
        outcome="accepted" if loss <= planner.max_drop else "refused",
        reason="Made up.",
        speedup=speedup,
        loss=loss,
        size_bytes=size,
        seconds=more.pop("seconds", 0.0),
        effort=plan.effort,
        fits=mb <= 1 if mb else None,
    )
    if mb:
        limit = Limit(name="size", predicted=mb, budget=1.0, ok=mb <= 1, unit="MB", bound="weights")
        more["verdict"] = Verdict.model_construct(limits=[limit])
    return Done(plan.params, plan.effort, Trial(candidate, recipe, **more))


def planner(can_train: bool = True, space: Space = SPACE) -> Planner:
    return Planner(space, max_drop=0.01, time_limit_s=1000.0, can_train=can_train)


def schemes_done(found: Planner) -> list[Done]:
    history: list[Done] = []
    for speedup in (2.5, 1.1, 1.0):
        plan = found.next(history, 900.0)
        assert plan is not None
        history.append(done(found, plan, speedup, 0.001))
    return history


def test_quantization_comes_first_then_known_structures() -> None:
    found = planner()
    history = schemes_done(found)
    tried = [item.params["quantization"] for item in history]
    assert tried == ["dynamic_wi8_ai8", FLOAT, "fp16"]
    plan = found.next(history, 900.0)
    assert plan is not None
    assert plan.effort == 0
    assert plan.params["neurons"] == 0.5
    assert plan.params["quantization"] == "dynamic_wi8_ai8", "the fastest that was accepted"


def test_a_space_without_structure_ends_with_its_schemes() -> None:
    found = planner(space=Space(SCHEMES, {"quantization": (FLOAT, *SCHEMES), "spared": (0, 1)}))
    history = schemes_done(found)
    assert found.next(history, 900.0) is None


def structures_done(found: Planner, history: list[Done], losses: list[float]) -> None:
    """Untrained structures, ever faster."""
    for number, loss in enumerate(losses):
        plan = found.next(history, 900.0)
        assert plan is not None
        assert plan.effort == 0
        history.append(done(found, plan, 3.0 + number, loss, pace=0.1))


def test_of_every_few_the_most_promising_is_trained() -> None:
    found = planner()
    history = schemes_done(found)
    structures_done(found, history, [0.3, 0.02, 0.4][:ETA])
    plan = found.next(history, 900.0)
    assert plan is not None
    assert plan.effort == 1
    assert plan.params == history[-2].params, "a little slower than the last, with far less to repair"
    assert plan.training == (Distil(steps=int(SHARES[0] * 1000 / 0.1)),)
    history.append(done(found, plan, 4.0, 0.015))
    assert key(plan.params, 1) in found.begun
    following = found.next(history, 900.0)
    assert following is not None
    assert (following.params, following.effort) != (plan.params, 1)


def test_fewer_are_cut_where_cutting_takes_as_long_as_training() -> None:
    found = planner()
    history = schemes_done(found)
    for seconds in (40.0, 40.0):  # and a first training takes 60
        plan = found.next(history, 900.0)
        assert plan is not None
        assert plan.effort == 0
        history.append(done(found, plan, 3.0, 0.02, seconds=seconds, pace=0.1))
    plan = found.next(history, 900.0)
    assert plan is not None
    assert plan.effort == 1
    history.append(done(found, plan, 3.0, 0.015, seconds=70.0))
    plan = found.next(history, 900.0)
    assert plan is not None
    assert plan.effort == 0, "the efforts have had about equal time"


def test_of_schemes_equally_fast_the_smallest_is_settled_on() -> None:
    found = planner()
    history = schemes_done(found)
    history[-1] = done(found, Plan(history[-1].params, 0), 2.6, 0.001, size_bytes=900_000)
    assert found.fixed(history)["quantization"] == "dynamic_wi8_ai8"
    history[-1] = done(found, Plan(history[-1].params, 0), 2.8, 0.001, size_bytes=900_000)
    assert found.fixed(history)["quantization"] == "fp16"


def test_what_takes_too_long_to_train_keeps_nothing_else_from_it() -> None:
    found = planner()
    history = schemes_done(found)
    for number, pace in enumerate((0.1, 0.1, 60.0)):  # the last step was measured on a busy machine, say
        plan = found.next(history, 900.0)
        assert plan is not None
        history.append(done(found, plan, 3.0 + number, 0.02, pace=pace))
    promoted = found.next(history, 900.0)
    assert promoted is not None
    assert (promoted.params, promoted.effort) == (history[-2].params, 1)


def test_training_goes_on_from_where_it_was() -> None:
    found = planner()
    history = schemes_done(found)
    structures_done(found, history, [0.3, 0.02, 0.4])
    plan = found.next(history, 900.0)
    assert plan is not None
    history.append(done(found, plan, 4.0, 0.015))
    # So little time is left that the one that was trained goes on now, or never.
    further = found.next(history, 260.0)
    assert further is not None
    assert further.effort == 2
    assert further.training[:1] == plan.training
    assert further.training[1].steps == 2500
    recipe = found.space.recipe(further.params, further.training)
    assert isinstance(recipe[0], LayerPruning)
    assert tuple(step for step in recipe if isinstance(step, Distil)) == further.training


def test_what_is_no_faster_than_what_is_had_is_not_trained() -> None:
    found = planner()
    history = schemes_done(found)
    history.append(done(found, Plan(SPACE.untouched(layers=2), 0), 9.0, 0.001, pace=0.1))
    structures_done(found, history, [0.1, 0.1, 0.1])
    plan = found.next(history, 900.0)
    assert plan is None or plan.effort == 0


def trained_next(sizes: dict[int, float], speeds: dict[int, float], accepted_mb: float) -> int | None:
    """Layers of the structure that is trained first, of some, by their layers; an accepted one is 2.5
    times as fast as the original."""
    found = planner()
    history = [
        done(found, Plan(SPACE.untouched(quantization=name), 0), speedup, 0.001, mb=accepted_mb)
        for name, speedup in (("dynamic_wi8_ai8", 2.5), (FLOAT, 1.0), ("fp16", 1.0))
    ]
    for layers, mb in sizes.items():
        plan = Plan(SPACE.untouched(layers=layers), 0)
        history.append(done(found, plan, speeds[layers], 0.05, mb=mb, pace=0.1))
    plan_next = found.next(history, 900.0)
    assert plan_next is not None
    return int(plan_next.params["layers"]) if plan_next.effort else None


def test_what_fits_the_budget_is_trained_where_nothing_accepted_does() -> None:
    slower = {4: 2.0, 3: 2.0, 2: 1.5}
    assert trained_next({4: 2.0, 3: 1.5, 2: 0.9}, slower, accepted_mb=3.0) == 2
    assert trained_next({4: 2.0, 3: 2.5, 2: 0.9}, slower | {3: 9.0}, accepted_mb=3.0) == 2, "budget first"


def test_what_misses_the_budget_by_less_is_trained_where_nothing_fits() -> None:
    assert trained_next({4: 2.9, 3: 2.95, 2: 1.5}, {4: 1.0, 3: 1.0, 2: 1.5}, accepted_mb=3.0) == 2


def test_a_smaller_one_is_not_trained_where_a_faster_one_fits() -> None:
    assert trained_next({4: 0.7, 3: 0.6, 2: 0.5}, dict.fromkeys((4, 3, 2), 2.0), accepted_mb=0.9) is None


def test_a_faster_one_that_misses_the_budget_is_not_trained_where_another_fits() -> None:
    assert trained_next({4: 1.2, 3: 1.2, 2: 1.2}, dict.fromkeys((4, 3, 2), 9.0), accepted_mb=0.9) is None


def test_what_would_be_refused_as_slower_is_not_trained() -> None:
    assert trained_next({4: 0.7, 3: 0.6, 2: 0.5}, dict.fromkeys((4, 3, 2), 0.9), accepted_mb=3.0) is None


def test_without_training_data_nothing_is_trained() -> None:
    found = planner(can_train=False)
    history = schemes_done(found)
    while (plan := found.next(history, 900.0)) is not None:
        assert plan.effort == 0
        history.append(done(found, plan, 4.0, 0.02, pace=0.1))


def test_no_time_for_training() -> None:
    found = planner()
    history = schemes_done(found)
    structures_done(found, history, [0.3, 0.02, 0.4])
    plan = found.next(history, 1.0)
    assert plan is None or plan.effort == 0


def test_sensitive_parts_are_spared_where_a_scheme_loses_a_little_too_much() -> None:
    found = planner(space=SPACE.sparing((("a.query", "a.key"), ("b.dense",))))
    first = found.next([], 900.0)
    assert first is not None
    history = [done(found, first, 2.5, 0.03)]
    for _ in range(2):
        plan = found.next(history, 900.0)
        assert plan is not None
        history.append(done(found, plan, 1.0, 0.0))
    mixed = found.next(history, 900.0)
    assert mixed is not None
    assert mixed.params["spared"] == 1
    scheme = found.space.recipe(mixed.params)[-1]
    assert isinstance(scheme, DynamicInt8)
    assert scheme.skip == ("a.query", "a.key")


@pytest.mark.parametrize(
    ("speedup", "mb", "accepted_mb", "spared"),
    [
        (1.5, 0.5, 1.0, False),  # smaller than an accepted one that fits, and slower
        (2.5, 1.0, 1.0, False),  # the same again
        (2.5, 0.5, 1.0, True),  # as fast, and smaller
        (3.5, 2.0, 2.5, True),  # faster
        (3.5, 2.0, 1.0, False),  # faster, and too large
        (1.5, 0.5, 2.0, True),  # slower than what does not fit
    ],
)
def test_parts_are_spared_only_where_the_scheme_itself_would_be_chosen(
    speedup: float, mb: float, accepted_mb: float, spared: bool
) -> None:
    found = planner(space=SPACE.sparing((("a.query", "a.key"),)))
    history = [
        done(found, Plan(SPACE.untouched(quantization=name), 0), faster, loss, mb=size)
        for name, faster, loss, size in (
            ("dynamic_wi8_ai8", 2.5, 0.001, accepted_mb),
            (FLOAT, 1.0, 0.0, 4.0),
            ("fp16", speedup, 0.03, mb),
        )
    ]
    plan = found.next(history, 900.0)
    assert plan is not None
    assert (plan.params["quantization"] == "fp16" and plan.params["spared"] == 1) == spared


def test_what_training_leaves_is_learnt() -> None:
    found = planner()
    assert [repaired([], effort) for effort in range(len(SHARES))] == sorted(REPAIRED)
    history = []
    for number, left in enumerate((0.1, 0.2, 0.1)):
        params = SPACE.untouched(layers=3, neurons=(1.0, 0.5)[number % 2], spared=number)
        history.append(done(found, Plan(params, 0), 3.0, 0.5))
        history.append(done(found, Plan(params, 1), 3.0, 0.5 * left))
    assert repaired(history, 0) == pytest.approx(0.15)
    assert repaired(history, 1) == REPAIRED[1]


def with_exits() -> Planner:
    return planner(space=Space(SCHEMES, CHOICES | {"exits": (False, True)}, gates_drop=0.005))


def test_exits_are_put_on_the_best_towards_the_end() -> None:
    found = with_exits()
    history = schemes_done(found)
    for speedup, loss in ((3.0, 0.005), (4.0, 0.3)):
        plan = found.next(history, 900.0)
        assert plan is not None
        history.append(done(found, plan, speedup, loss, pace=0.1))
    early = found.next(history, 700.0)
    assert early is not None
    assert not early.params["exits"]
    late = found.next(history, EXITS_AT * 1000)
    assert late is not None
    assert late.params == history[-2].params | {"exits": True}, "on the fastest that was accepted"
    assert late.training == (Distil(steps=2500),)
    recipe = found.space.recipe(late.params, late.training)
    assert [step.scheme for step in recipe] == [
        "neuron_pruning", "early_exit", "distil", "fuse", "dynamic_wi8_ai8", "program",
    ]  # fmt: skip
    history.append(done(found, late, 3.5, 0.006))
    after = found.next(history, 100.0)
    assert after is None or not after.params["exits"], "once"


def test_the_sampler_is_not_asked_for_exits() -> None:
    found = with_exits()
    assert found.fixed(schemes_done(found)) == {
        "quantization": "dynamic_wi8_ai8",
        "spared": 0,
        "exits": False,
    }


def test_no_exits_where_no_step_of_training_was_measured() -> None:
    found = with_exits()
    history = schemes_done(found)
    plan = found.next(history, 300.0)
    assert plan is None or not plan.params["exits"]


def test_what_was_trained_and_accepted_is_trained_to_the_end() -> None:
    found = planner()
    history = schemes_done(found)
    structures_done(found, history, [0.3, 0.02, 0.4])
    plan = found.next(history, 900.0)
    assert plan is not None
    history.append(done(found, plan, 4.0, 0.009))
    assert history[-1].trial.accepted
    last = found.next(history, LAST * 1000)
    assert last is not None
    assert (last.params, last.effort) == (plan.params, 2)
    assert last.training == (*plan.training, Distil(steps=2000, seed=1)), "for all of the time that is left"
    history.append(done(found, last, 4.0, 0.004))
    after = found.next(history, 15.0)
    assert after is None or after.params != plan.params or after.effort != 2


@pytest.mark.parametrize(("loss", "goes_on"), [(0.012, True), (0.05, False)])
def test_a_faster_one_that_nearly_loses_little_enough_is_trained_to_the_end(
    loss: float, goes_on: bool
) -> None:
    found = planner()
    history = schemes_done(found)
    structures_done(found, history, [0.3, 0.02, 0.4])
    accepted = found.next(history, 900.0)
    assert accepted is not None
    history.append(done(found, accepted, 4.0, 0.009))
    faster = Plan(SPACE.untouched(quantization="dynamic_wi8_ai8", layers=2), 0)
    history.append(done(found, faster, 6.0, 0.5, pace=0.1))
    trained = Plan(faster.params, 1, (Distil(steps=600, seed=0),))
    history.append(done(found, trained, 6.0, loss))
    last = found.next(history, LAST * 1000)
    assert last is not None
    assert (last.params == faster.params, last.effort) == (goes_on, 2)
