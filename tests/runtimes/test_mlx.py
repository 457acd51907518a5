"""MLX: how weights are held, and what its files are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import onnx_ir as ir
import pytest

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.model.sources import onnx_file
from openglm.runtimes.engine import Source, engine
from openglm.runtimes.mlx import MLX
from openglm.runtimes.mlx import Runner as MLXRunner
from openglm.runtimes.onnxruntime import Runner

WIDE, WORDS = 128, 200


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    """Rows of an embedding times the same weight, as decoders have it, with a bias that masks the last."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(WORDS, WIDE)).astype(np.float32)
    mask = np.zeros(WORDS, np.float32)
    mask[-1] = np.finfo(np.float32).min
    ids = ir.val("ids", ir.DataType.INT64, ["n"])
    weight = ir.val("table", const_value=ir.tensor(table, name="table"))
    bias = ir.val("mask", const_value=ir.tensor(mask, name="mask"))
    rows = ir.node("Gather", [weight, ids])
    turned = ir.node("Transpose", [weight], {"perm": [1, 0]})
    product = ir.node("MatMul", [rows.outputs[0], turned.outputs[0]])
    total = ir.node("Add", [product.outputs[0], bias])
    answer = ir.node("Softmax", [total.outputs[0]])
    y = answer.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", WORDS])
    graph = ir.Graph(
        [ids], [y], nodes=[rows, turned, product, total, answer], initializers=[weight, bias],
        opset_imports={"": 20}, name="tied",
    )  # fmt: skip
    path = tmp_path / "tied.onnx"
    onnx_file.write(ir.Model(graph, ir_version=10), path)
    return path


@pytest.mark.parametrize(("precision", "bits"), [("fp32", 32), ("fp16", 16), ("int8", 8.5), ("int4", 6)])
def test_weights_are_held_once_in_as_many_bits(
    tied: Path, tmp_path: Path, precision: Precision, bits: float
) -> None:
    """With groups of 64 or 32 a scale and a bias in float32 are 1 or 2 bits more for each weight."""
    target = tmp_path / "tied.safetensors"
    MLX().convert(Source(tied, tied), target, precision)
    held = target.stat().st_size
    forms = 2 if precision in ("fp32", "fp16") else 1  # turned weights are no matrix of rows there
    assert held < forms * WORDS * WIDE * (bits + 0.6) / 8 + 8192
    given = {"ids": np.arange(5)}
    found = MLX().load(target).run(given)["y"]
    truth = Runner(tied, threads=1).run(given)["y"]
    assert found.dtype == np.float32
    assert np.isfinite(found).all(), "a mask times nothing is nothing in half precision too"
    assert np.abs(found - truth).max() < 0.05
    assert (found[:, -1] == 0).all()


def test_one_kernel_for_what_follows_is_the_same(conv_file: Path, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("MLX compiles kernels for the CPU with g++, which is not here")
    target = tmp_path / "conv.safetensors"
    MLX().convert(Source(conv_file, conv_file), target, "fp32")
    given = {"pixel_values": np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)}
    plain, fused = (MLXRunner(target, fused=way).run(given)["logits"] for way in (False, True))
    np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-6)


def test_a_weight_of_a_convolution_that_is_computed_is_told_of(tmp_path: Path) -> None:
    x, w = ir.val("x", ir.DataType.FLOAT, [1, 1, 4]), ir.val("w", ir.DataType.FLOAT, [1, 1, 2])
    node = ir.node("Conv", [x, w])
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, 1, 3])
    path = tmp_path / "conv.onnx"
    graph = ir.Graph([x, w], [y], nodes=[node], opset_imports={"": 20}, name="g")
    onnx_file.write(ir.Model(graph, ir_version=10), path)
    with pytest.raises(InputError, match="Conv whose weight is computed"):
        MLX().convert(Source(path, path), tmp_path / "conv.safetensors", "fp32")


def test_weights_without_a_graph_are_no_model(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    mx.save_safetensors(str(path), {"w": mx.zeros(3)})
    with pytest.raises(InputError, match="cannot load weights"):
        engine("mlx").load(path)


def test_an_operator_that_is_not_in_the_table_is_refused(conv_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "conv.safetensors"
    MLX().convert(Source(conv_file, conv_file), path, "fp32")
    arrays, metadata = mx.load(str(path), return_metadata=True)
    graph = json.loads(metadata["graph"])
    graph["nodes"][0]["operator"] = "eval"
    mx.save_safetensors(str(path), arrays, {"graph": json.dumps(graph)})
    with pytest.raises(InputError, match="no operator eval"):
        engine("mlx").load(path)


def test_other_shapes_than_it_takes(conv_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "conv.safetensors"
    MLX().convert(Source(conv_file, conv_file), path, "fp32")
    with pytest.raises(InputError, match="Conv"):
        engine("mlx").load(path).run({"pixel_values": np.zeros((1, 2, 16, 16), np.float32)})


def test_a_text_encoder_at_any_length(bert_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "bert.safetensors"
    MLX().convert(Source(bert_file, bert_file), target, "fp32")
    loaded, own = MLX().load(target), Runner(bert_file, threads=1)
    for rows, length in ((1, 3), (2, 17)):
        given = {name: np.ones((rows, length), np.int64) for name in own.inputs}
        for name, truth in own.run(given).items():
            np.testing.assert_allclose(loaded.run(given)[name], truth, rtol=1e-4, atol=1e-5)
