"""Plans of graphs: what they say, and what cannot be planned is told plainly."""

from __future__ import annotations

import pytest

import openglm
from openglm.errors import InputError
from openglm.memory.lifetime import Lifetime, lifetimes, peak
from openglm.memory.plan import SECOND, Plan, place, plan
from openglm.memory.problem import Span, overlap
from openglm.model.analysis.shapes import resolve
from planned_graphs import BRANCHES, HOLE, mixed, parse


def rectangles(planned: Plan) -> tuple[list[Span], list[int]]:
    spans = [Span(place.first, place.last + 1, place.nbytes) for place in planned.placements]
    return spans, [place.offset for place in planned.placements]


@pytest.mark.parametrize("align", [1, 16, 64, 4096])
def test_offsets_are_aligned_and_nothing_overlaps(align: int) -> None:
    planned = plan(resolve(mixed()), align=align)
    assert overlap(*rectangles(planned)) is None
    assert all(place.offset % align == 0 for place in planned.placements)
    assert planned.lower_bound <= planned.arena_bytes <= planned.greedy_bytes
    assert planned.optimal
    assert planned == Plan.model_validate_json(planned.model_dump_json())


def test_unaligned_it_needs_what_is_alive_at_the_worst_step() -> None:
    shapes = resolve(mixed())
    assert plan(shapes, align=1).arena_bytes == peak(lifetimes(shapes, in_place=True))


def test_in_place_operators_share_their_inputs_storage() -> None:
    shapes = resolve(parse("g (float[64] x) => (float[64] y) { a = Neg(x)  b = Relu(a)  y = Exp(b) }"))
    assert plan(shapes, in_place=True).arena_bytes == 256
    assert plan(shapes, in_place=False).arena_bytes == 512
    (only,) = plan(shapes).placements
    assert only.values == ("x", "a", "b", "y")


def test_an_input_that_is_needed_later_is_not_written_over() -> None:
    shapes = resolve(parse("g (float[64] x) => (float[64] y) { a = Relu(x)  y = Add(a, x) }"))
    owners = {value: place.name for place in plan(shapes).placements for value in place.values}
    assert owners["a"] != owners["x"]


@pytest.mark.parametrize(
    "text",
    [
        "g (float[8] x) => (float[8] y, float[8] z) { y = Relu(x)  z = Neg(y) }",
        "g (float[8] x) => (float[8] y, float[8] z) { a = Relu(x)  y = Abs(a)  z = Neg(y) }",
        "g (float[8] x) => (float[8] y, float[8] z) { y = Identity(x)  z = Neg(x) }",
    ],
)
def test_an_output_is_not_written_over_at_the_last_step(text: str) -> None:
    owners = {value: place.name for place in plan(resolve(parse(text))).placements for value in place.values}
    assert owners["y"] != owners["z"]


def test_broadcasting_is_not_in_place() -> None:
    shapes = resolve(parse("g (float[1, 8] x, float[8, 1] z) => (float[8, 8] y) { y = Add(x, z) }"))
    assert len(plan(shapes).placements) == 3


def test_the_best_order_needs_less() -> None:
    shapes = resolve(parse(BRANCHES))
    given, best = plan(shapes, align=1), plan(shapes, align=1, order="best")
    assert best.arena_bytes < given.arena_bytes == best.given_bound
    assert best.reordered
    assert sorted(best.steps) == sorted(given.steps)


def test_doubled_inputs_and_outputs_are_there_all_the_time() -> None:
    planned = plan(resolve(mixed()), double_buffer=True)
    names = {place.name for place in planned.placements}
    assert {"x", "x" + SECOND} <= names
    for each in planned.placements:
        if each.name.endswith(SECOND) or each.name + SECOND in names:
            assert (each.first, each.last) == (0, len(planned.steps) - 1)
    assert overlap(*rectangles(planned)) is None


def test_an_output_that_is_an_input_cannot_be_doubled() -> None:
    shapes = resolve(parse("g (float[8] x) => (float[8] y) { y = Identity(x) }"))
    assert len(plan(shapes).placements) == 1
    with pytest.raises(InputError, match="'y' is the input 'x' itself"):
        plan(shapes, double_buffer=True)


def test_a_capacity_that_is_enough() -> None:
    least = plan(resolve(mixed())).arena_bytes
    assert plan(resolve(mixed()), arena_bytes=least).arena_bytes == least


def test_less_than_the_lower_bound() -> None:
    bound = plan(resolve(mixed())).lower_bound
    with pytest.raises(InputError, match=rf"No plan needs less than {bound:,} bytes.*alive at step"):
        plan(resolve(mixed()), arena_bytes=bound - 1)


def test_the_lower_bound_is_not_always_reached() -> None:
    tensors = [Lifetime(str(index), start, end - 1, size) for index, (start, end, size) in enumerate(HOLE)]
    steps = [str(step) for step in range(8)]
    assert place("hole", tensors, steps, align=1, seconds=60).arena_bytes == 11
    with pytest.raises(InputError, match="needs 11 bytes, and 10 are asked for; no plan needs less than 11"):
        place("hole", tensors, steps, align=1, arena_bytes=10, seconds=60)


def test_a_tensor_larger_than_memory_is_named() -> None:
    with pytest.raises(
        InputError, match="The tensor 'x' alone takes 128 bytes, and the arena is to have 100"
    ):
        plan(resolve(mixed()), arena_bytes=100)


def test_unknown_operators_are_named() -> None:
    shapes = resolve(parse("g (float[4] x) => (float[n] y) { h = far.away.Thing(x)  y = Relu(h) }"))
    with pytest.raises(InputError, match=r"2 tensors.*\(h, y\).*far\.away::Thing"):
        plan(shapes)


def test_shapes_that_data_decides_are_named() -> None:
    shapes = resolve(parse("g (float[4] x) => (int64[1, n] y) { y = NonZero(x) }"))
    with pytest.raises(InputError, match=r"\(y\): data decides what NonZero give"):
        plan(shapes)


@pytest.mark.parametrize("settings", [{"align": 0}, {"align": 24}, {"seconds": -1}, {"arena_bytes": 0}])
def test_settings_that_cannot_be(settings: dict[str, int]) -> None:
    with pytest.raises(InputError):
        plan(resolve(mixed()), **settings)  # type: ignore[arg-type]


def test_it_is_part_of_the_package(conv_file: object) -> None:
    assert openglm.plan(conv_file, dims={"batch": 1}).optimal
