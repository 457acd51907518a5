"""What another rounding of floats changes in a bundle's outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import pytest

import openglm
from openglm.bundle.manifest import Program, Segment
from openglm.dynamic.session import probes
from openglm.model.tensor import TensorSpec
from openglm.runtimes.onnxruntime import NAME, Runner
from openglm.search.rounding import rounding

LARGEST = np.finfo(np.float32).max


def found(folder: Path, body: str, weights: list[float]) -> float:
    """The rounding of a graph of one input x, two ones, with two weights w and the constant two."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[n, 2] x) => (float[n, 2] y)'
        f"<float[2] w = {{{', '.join(map(str, weights))}}}, float two = {{2}}> {{ {body} }}"
    )
    onnx.save(proto, folder / "model.onnx")
    before = (folder / "model.onnx").read_bytes()
    runner = Runner(folder / "model.onnx", threads=1)
    np.savez(folder / "probes.npz", **probes(runner, [{"x": np.ones((1, 2), np.float32)}]))
    program = Program(segments=(Segment(name="model", models={NAME: "model.onnx"}),))
    outputs = [TensorSpec(name="y", dtype="float32", shape=("n", 2))]
    share = rounding(program, outputs, folder, folder / "probes.npz")
    assert (folder / "model.onnx").read_bytes() == before
    return share


def test_floats_move_by_their_last_bits(tmp_path: Path) -> None:
    assert 0 < found(tmp_path, "y = Mul(x, w)", [1.5, 0.3]) <= 2 * np.finfo(np.float32).eps


def test_a_value_that_falls_on_the_other_side_moves_by_a_step(tmp_path: Path) -> None:
    body = "z = Mul(x, w) q = QuantizeLinear(z, two) y = DequantizeLinear(q, two)"
    assert found(tmp_path, body, [3.0, 3.0]) == 0.5  # 1.5 steps of 2 are 2 steps, and less is 1


def test_single_numbers_and_whole_ones_stay(tmp_path: Path) -> None:
    assert found(tmp_path, "z = Mul(x, two) s = Shape(w) t = CastLike(s, x) y = Add(z, t)", [1.0, 1.0]) == 0


def test_nothing_overflows(tmp_path: Path) -> None:
    assert found(tmp_path, "y = Mul(x, w)", [LARGEST, -LARGEST]) < 1e-6


@pytest.mark.parametrize("name", ["bert_bundle", "cascade_bundle"])
def test_it_is_in_the_manifest(name: str, request: pytest.FixtureRequest) -> None:
    with openglm.load(request.getfixturevalue(name)) as session:
        assert 0 < session.manifest.rounding < 0.25
