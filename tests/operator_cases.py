"""Every operator in the forms that models have it, each as a graph of one node, and ONNX Runtime's answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)


def x(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


PICTURE, MATRIX, ROW = x(2, 4, 8, 6), x(3, 4), x(1, 4)
FLOAT, INT64 = int(TensorProto.FLOAT), int(TensorProto.INT64)
TWICE = np.array([1, 1, 2, 2], np.float32)
CORNERS = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
FLOORS = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
UNARY = (
    "Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Mish", "Neg", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Tanh",
)  # fmt: skip
REDUCTIONS = (
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceSum",
    "ReduceProd",
    "ReduceL2",
    "ReduceSumSquare",
)
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    *((name, [MATRIX], {}) for name in UNARY),
    *((name, [np.abs(MATRIX) + 0.1], {}) for name in ("Log", "Sqrt", "Reciprocal")),
    *((name, [MATRIX, ROW], {}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")),
    *((name, [MATRIX, x(3, 4)], {}) for name in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *((name, [MATRIX > 0, ROW > 0], {}) for name in ("And", "Or")),
    *((name, [MATRIX, ints(1)], {"keepdims": 0}) for name in REDUCTIONS),
    *((name, [PICTURE], {}) for name in ("ReduceMean", "GlobalAveragePool", "GlobalMaxPool")),
    *((name, [PICTURE], {}) for name in ("Shape", "Size")),
    *((name, [MATRIX], {"axis": 1, "keepdims": 0}) for name in ("ArgMax", "ArgMin")),
    *((name, [x(2, 3, 4)], {"axis": 1}) for name in ("Softmax", "LogSoftmax")),
    ("Gelu", [MATRIX], {"approximate": "tanh"}),
    ("IsNaN", [np.array([1, np.nan, np.inf], np.float32)], {}),
    ("Not", [MATRIX > 0], {}),
    ("Equal", [ints(1, 2, 3), ints(1, 5, 3)], {}),
    ("Div", [np.arange(-6, 6), ints(4)], {}),
    ("Mod", [np.arange(-6, 6), ints(4)], {}),
    ("Mod", [MATRIX, ROW], {"fmod": 1}),
    ("Pow", [np.abs(MATRIX), np.float32(1.7)], {}),
    ("PRelu", [MATRIX, ROW], {}),
    ("Where", [MATRIX > 0, MATRIX, ROW], {}),
    ("Clip", [MATRIX, np.float32(-0.5), np.float32(0.4)], {}),
    ("Clip", [MATRIX, np.float32(-0.5)], {}),
    ("Cast", [MATRIX > 0], {"to": FLOAT}),
    ("Cast", [MATRIX], {"to": INT64}),
    ("CastLike", [MATRIX > 0, ROW], {}),
    ("Dropout", [MATRIX], {}),
    ("Einsum", [MATRIX, x(4, 5)], {"equation": "ij,jk->ki"}),
    ("MatMul", [x(2, 3, 4), x(4, 5)], {}),
    ("Gemm", [MATRIX, x(5, 4), x(5)], {"transB": 1, "alpha": 0.5}),
    ("Gemm", [MATRIX, x(5, 4), x(3, 5)], {"transB": 1}),
    ("LayerNormalization", [x(2, 3, 4), x(4), x(4)], {"epsilon": 1e-3}),
    ("LayerNormalization", [x(2, 3, 4), x(3, 4)], {"axis": 1}),
    ("InstanceNormalization", [PICTURE, x(4), x(4)], {}),
    ("BatchNormalization", [PICTURE, x(4), x(4), x(4), np.abs(x(4))], {"epsilon": 1e-3}),
    ("Conv", [x(2, 4, 9), x(6, 4, 3), x(6)], {"pads": [1, 1], "strides": [2]}),
    ("Conv", [PICTURE, x(6, 2, 3, 3), x(6)], {"group": 2, "pads": [1, 1, 1, 1], "dilations": [2, 1]}),
    ("Conv", [PICTURE, x(6, 4, 3, 3)], {"pads": [0, 1, 2, 0]}),
    ("Conv", [PICTURE, x(6, 4, 3, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [PICTURE, x(6, 4, 3, 2)], {"auto_pad": "SAME_LOWER"}),
    ("ConvTranspose", [PICTURE, x(4, 3, 3, 3), x(3)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("ConvTranspose", [PICTURE, x(4, 2, 3, 3)], {"group": 2, "strides": [2, 1], "output_padding": [1, 0]}),
    ("MaxPool", [PICTURE], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("MaxPool", [PICTURE], {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1}),
    ("AveragePool", [PICTURE], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [PICTURE], {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "count_include_pad": 1}),
    ("Reshape", [PICTURE, ints(0, -1, 6)], {}),
    ("Flatten", [PICTURE], {"axis": 2}),
    ("Transpose", [PICTURE], {"perm": [0, 2, 3, 1]}),
    ("Squeeze", [ROW, ints(0)], {}),
    ("Unsqueeze", [MATRIX, ints(0, -1)], {}),
    ("Concat", [MATRIX, ROW], {"axis": 0}),
    ("Split", [x(5, 4), ints(2, 3)], {"axis": 0}),
    ("Slice", [PICTURE, ints(1, -1), ints(4, -9), ints(1, 2), ints(2, -2)], {}),
    ("Slice", [PICTURE, ints(-3), ints(2**63 - 1), ints(3)], {}),
    ("Gather", [MATRIX, np.array([[0, -1], [2, 1]])], {"axis": 1}),
    ("Gather", [MATRIX, np.int64(-1)], {"axis": 0}),
    ("GatherElements", [MATRIX, np.array([[0, -1], [2, 1], [0, 0]])], {"axis": 1}),
    ("GatherND", [PICTURE, np.array([[0, 3], [1, -1]])], {}),
    ("GatherND", [x(2, 3, 4), np.array([[[0], [-1]], [[2], [1]]])], {"batch_dims": 1}),
    ("Expand", [x(3, 1), ints(2, 1, 4)], {}),
    ("Tile", [MATRIX, ints(2, 3)], {}),
    ("Pad", [PICTURE, ints(0, 0, 1, 2, 0, 0, 3, 1), np.float32(0.5)], {}),
    ("Pad", [PICTURE, ints(0, 0, 1, 2, 0, 0, 3, 1)], {"mode": "reflect"}),
    ("Pad", [PICTURE, ints(1, 2), np.float32(0), ints(-1)], {}),
    *(("Pad", [PICTURE, ints(1, 2, 0, 0, 0, 3, 1, 0)], {"mode": mode}) for mode in ("reflect", "edge")),
    ("Pad", [x(2, 5, 1), ints(0, 2, 0, 0, 3, 0)], {"mode": "reflect"}),
    ("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(np.array([7], np.int64))}),
    ("Range", [np.int64(1), np.int64(9), np.int64(3)], {}),
    ("CumSum", [MATRIX, np.int64(1)], {"exclusive": 1, "reverse": 1}),
    ("Trilu", [MATRIX, np.int64(1)], {"upper": 0}),
    ("TopK", [MATRIX, ints(2)], {"axis": 1}),
    ("Resize", [PICTURE, None, TWICE], {}),
    ("Resize", [PICTURE, None, TWICE], FLOORS),
    ("Resize", [PICTURE, None, None, ints(2, 4, 11, 9)], {"mode": "linear"}),
    ("Resize", [PICTURE, None, None, ints(2, 4, 11, 9)], CORNERS),
    ("DepthToSpace", [PICTURE], {"blocksize": 2}),
    ("DepthToSpace", [PICTURE], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [PICTURE], {"blocksize": 2}),
]  # fmt: skip
OUTPUTS = {"Split": 2, "TopK": 2}


def graph_of(name: str, given: list[Any], settings: dict[str, Any], constant: bool) -> ir.Model:
    """One node; the first input is the graph's own, the others constants or its own too."""
    names = ["" if array is None else f"v{place}" for place, array in enumerate(given)]
    arrays = {f"v{place}": np.asarray(array) for place, array in enumerate(given) if array is not None}
    outputs = [f"y{place}" for place in range(OUTPUTS.get(name, 1))]
    held = [key for key in arrays if constant and key != "v0"]
    graph = helper.make_graph(
        [helper.make_node(name, names, outputs, **settings)],
        "g",
        [
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for key, array in arrays.items()
            if key not in held
        ],
        [helper.make_empty_tensor_value_info(output) for output in outputs],
        [numpy_helper.from_array(arrays[key], key) for key in held],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return ir.from_proto(proto)


def run(model: ir.Model, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, inputs)
