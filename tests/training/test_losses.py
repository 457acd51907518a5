"""The losses of distillation, each against its definition written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from openglm.errors import InputError  # noqa: E402
from openglm.training import losses  # noqa: E402

sizes = st.integers(1, 5)
seeds = st.integers(0, 2**16)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=2, size=shape).astype(np.float32)


def softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values.astype(np.float64) - values.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def close(found: Any, wanted: float) -> None:
    assert float(found) == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@given(sizes, st.integers(2, 6), st.floats(0.5, 8), seeds)
def test_soft(rows: int, classes: int, temperature: float, seed: int) -> None:
    student, teacher = drawn(seed, 2, rows, classes)
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    wanted = np.mean([sum(p[i] * np.log(p[i] / q[i])) for i in range(rows)]) * temperature**2
    close(losses.soft(torch.from_numpy(student), torch.from_numpy(teacher), temperature), wanted)


def test_soft_of_tokens_is_the_mean_over_tokens() -> None:
    student, teacher = torch.from_numpy(drawn(0, 2, 3, 4, 5))
    close(
        losses.soft(student, teacher, 2), float(losses.soft(student.flatten(0, 1), teacher.flatten(0, 1), 2))
    )


def test_square_of_the_temperature_keeps_gradients_of_one_size() -> None:
    """At high temperatures the gradient is (s - t) / classes for centred logits (Hinton et al. 2015)."""
    student, teacher = torch.from_numpy(drawn(3, 2, 1, 4)).double()
    student, teacher = (x - x.mean() for x in (student, teacher))
    student.requires_grad_()
    losses.soft(student, teacher, 100.0).backward()
    torch.testing.assert_close(student.grad, ((student - teacher) / 4).detach(), rtol=0.05, atol=1e-3)


@given(sizes, st.integers(2, 6), seeds)
def test_hard(rows: int, classes: int, seed: int) -> None:
    logits = drawn(seed, rows, classes)
    labels = np.random.default_rng(seed).integers(classes, size=rows)
    wanted = -np.mean([np.log(softmax(logits)[i, labels[i]]) for i in range(rows)])
    close(losses.hard(torch.from_numpy(logits), torch.from_numpy(labels)), wanted)


def test_hard_of_values() -> None:
    outputs, labels = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 0.0, 1.0])
    close(losses.hard(outputs, labels), (0 + 4 + 9) / 3)


@given(sizes, sizes, seeds)
def test_response(rows: int, width: int, seed: int) -> None:
    student, teacher = drawn(seed, 2, rows, width)
    wanted = ((student - teacher) ** 2).sum() / (teacher**2).sum()
    if width > 1:
        norms = np.linalg.norm(student, axis=1) * np.linalg.norm(teacher, axis=1)
        wanted += np.mean(1 - (student * teacher).sum(1) / norms)
    close(losses.response(torch.from_numpy(student), torch.from_numpy(teacher)), wanted)


def masks(seed: int, rows: int, tokens: int) -> np.ndarray:
    lengths = np.random.default_rng(seed).integers(1, tokens + 1, size=rows)
    return (np.arange(tokens) < lengths[:, None]).astype(np.int64)


@given(sizes, sizes, sizes, seeds)
def test_hidden(rows: int, tokens: int, width: int, seed: int) -> None:
    student, teacher = drawn(seed, 2, rows, tokens, width)
    mask = masks(seed, rows, tokens)
    errors = [((student[i, j] - teacher[i, j]) ** 2).mean() for i, j in zip(*np.nonzero(mask), strict=True)]
    found = losses.hidden(torch.from_numpy(student), torch.from_numpy(teacher), torch.from_numpy(mask))
    close(found, np.mean(errors))


@given(sizes, sizes, st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 3), seeds)
def test_relations(rows: int, tokens: int, heads: int, first: int, second: int, seed: int) -> None:
    student, teacher = drawn(seed, rows, tokens, heads * first), drawn(seed + 1, rows, tokens, heads * second)
    mask = masks(seed, rows, tokens)

    def related(vectors: np.ndarray, row: int, head: int) -> np.ndarray:
        width = vectors.shape[-1] // heads
        own = vectors[row, mask[row] > 0, head * width : (head + 1) * width]
        return softmax(own @ own.T / np.sqrt(width))

    divergences = []
    for row in range(rows):
        each = np.zeros((heads, mask[row].sum()))
        for head in range(heads):
            p, q = related(teacher, row, head), related(student, row, head)
            each[head] = (p * (np.log(p + 1e-300) - np.log(q + 1e-300))).sum(1)
        divergences += list(each.mean(0))
    found = losses.relations(
        torch.from_numpy(student), torch.from_numpy(teacher), heads, torch.from_numpy(mask)
    )
    close(found, np.mean(divergences))


def test_what_is_masked_changes_nothing() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    student, teacher = torch.from_numpy(drawn(1, 2, 2, 3, 8))
    changed = student.clone()
    changed[0, 2] = 1000.0
    for loss in (
        lambda s: losses.hidden(s, teacher, mask),
        lambda s: losses.relations(s, teacher, 2, mask),
        lambda s: losses.response(losses.kept(s, mask), losses.kept(teacher, mask)),
    ):
        given = changed.clone().requires_grad_()
        found = loss(given)
        assert float(found.detach()) == pytest.approx(float(loss(student)))
        found.backward()
        assert torch.isfinite(given.grad).all()
        assert not given.grad[0, 2].any()


def test_autocast_leaves_the_losses_in_float32() -> None:
    student, teacher = (torch.from_numpy(values) for values in drawn(4, 2, 3, 4, 8))
    for loss in (
        lambda: losses.soft(student, teacher, 3),
        lambda: losses.response(student, teacher),
        lambda: losses.hidden(student, teacher),
        lambda: losses.relations(student, teacher, 2),
    ):
        with torch.autocast("cpu", torch.bfloat16):
            found = loss()
        assert found.dtype == torch.float32
        assert float(found) == pytest.approx(float(loss()), rel=1e-6)


def test_equal_ones_are_at_no_distance() -> None:
    same = torch.from_numpy(drawn(2, 3, 4, 8))
    for found in (
        losses.soft(same, same, 3),
        losses.response(same, same),
        losses.hidden(same, same),
        losses.relations(same, same, 4),
    ):
        assert abs(float(found)) < 1e-6


@given(st.integers(1, 1024), st.integers(1, 1024))
def test_relation_heads_divide_both(first: int, second: int) -> None:
    heads = losses.relation_heads(first, second)
    assert first % heads == second % heads == 0
    assert heads == 1 or min(first, second) / heads >= 16


def test_relation_heads_of_usual_widths() -> None:
    assert losses.relation_heads(384, 384) == 24
    assert losses.relation_heads(384, 768) == 24
    assert losses.relation_heads(352, 384) == 16


def test_main_output() -> None:
    first, second = torch.ones(1), torch.zeros(1)
    nested = ((None, first), second)
    whole = torch.ones(1, dtype=torch.int64)
    for output in (
        first,
        (first, second),
        [first],
        {"a": None, "b": first, "c": second},
        nested,
        (whole, first),
    ):
        assert losses.main_output(output) is first
    for nothing in (("nothing",), whole):
        with pytest.raises(InputError, match="no tensor of real numbers"):
            losses.main_output(nothing)
