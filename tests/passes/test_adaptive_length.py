"""Texts at their own length: against each text alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from pydantic import ValidationError

from openglm.dynamic.program import open_program
from openglm.errors import InputError
from openglm.model.sources import onnx_file
from openglm.model.tensor import specs
from openglm.passes.adaptive_length import AdaptiveLength
from openglm.passes.contract import Context

GRAPH = """g (int64[n,t] input_ids, int64[n,t] attention_mask) => (float[n,4] logits, int64[n] long) {
    e = Gather(table, input_ids) m = Cast <to=1> (attention_mask) u = Unsqueeze(m, two)
    k = Mul(e, u) s = ReduceSum <keepdims=0> (k, one) logits = Relu(s)
    shape = Shape <start=1> (input_ids) count = Shape <start=0, end=1> (input_ids)
    long = Expand(shape, count)
}"""


@pytest.fixture
def graph(build: Callable[..., ir.Model], rng: np.random.Generator) -> ir.Model:
    """`long` tells how many tokens a row was run with."""
    return build(
        GRAPH,
        table=rng.normal(size=(50, 4)).astype(np.float32),
        one=np.array([1]),
        two=np.array([2]),
    )


@pytest.mark.parametrize("padded", [0, 30])
def test_every_text_runs_at_the_length_of_its_bucket(
    graph: ir.Model, run: Any, rng: np.random.Generator, tmp_path: Path, padded: int
) -> None:
    draft = AdaptiveLength(buckets=(4, 8)).apply(graph, Context())
    onnx_file.write(draft.graphs["model"], tmp_path / "model.onnx")
    runner = open_program(draft.program, specs(graph.graph.outputs), tmp_path, threads=1)
    lengths = rng.integers(1, 15, size=20)
    longest = int(lengths.max()) + padded
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
    ids = rng.integers(0, 50, size=mask.shape)
    outputs, trace = runner.traced({"input_ids": ids, "attention_mask": mask})
    wanted = run(graph, {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(outputs["logits"], wanted["logits"], rtol=1e-5, atol=1e-6)
    bucket = np.searchsorted((4, 8), lengths)
    own = np.array([lengths[bucket == each].max() for each in bucket])
    np.testing.assert_array_equal(outputs["long"], own)
    np.testing.assert_allclose([way.work for way in trace.rows], own / longest)


def test_a_model_of_one_length(build: Callable[..., ir.Model]) -> None:
    fixed = build("g (int64[n,16] attention_mask) => (int64[n,16] y) { y = Neg(attention_mask) }")
    with pytest.raises(InputError, match="takes 16 tokens, no fewer"):
        AdaptiveLength().apply(fixed, Context())
    other = build("g (float[n,16] x) => (float[n,16] y) { y = Neg(x) }")
    with pytest.raises(InputError, match="no input attention_mask"):
        AdaptiveLength().apply(other, Context())


def test_buckets_ascend() -> None:
    with pytest.raises(ValidationError, match="ascend"):
        AdaptiveLength(buckets=(8, 4))
