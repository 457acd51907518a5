"""Makes small TensorFlow models: `python tensorflow_files.py FOLDER`. In a process of its own, as TensorFlow
is kept apart from other engines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

keras = tf.keras
layers = keras.layers
F32, I32 = tf.float32, tf.int32


def vision() -> Any:
    """Convolutions of all kinds, pooling, resizing, and two outputs."""
    x = keras.Input((16, 16, 3), name="picture")
    a = layers.Conv2D(8, 3, padding="same", dilation_rate=2, activation="relu")(x)
    a = layers.BatchNormalization()(a)
    b = layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu6")(a)
    b = layers.Conv2D(16, 3, padding="valid", groups=2)(b)
    b = layers.PReLU(shared_axes=[1, 2])(layers.ZeroPadding2D(1)(b))
    up = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(b)
    whole = layers.Concatenate()([a, up, layers.UpSampling2D(2, interpolation="bilinear")(b)])
    pooled = layers.AveragePooling2D(3, 2, padding="same")(layers.MaxPooling2D(2)(whole))
    logits = layers.Dense(4, name="logits")(layers.Dense(40, activation="tanh")(layers.Flatten()(pooled)))
    return keras.Model(x, {"logits": logits, "mean": layers.GlobalAveragePooling2D()(whole)})


def text() -> Any:
    """Attention over texts of any length."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    h = layers.Embedding(30, 32)(ids)
    h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 16)(h, h))
    h = layers.LayerNormalization()(h + layers.Dense(32)(layers.Dense(64, activation="gelu")(h)))
    return keras.Model(ids, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(h)))


def operators(x: Any, y: Any, n: Any) -> dict[str, Any]:
    """One output for each operator. x, y: (2, 4, 6, 3), y above zero; n: (2, 5), integers from 0 to 9."""
    wide = tf.transpose(x, [0, 3, 1, 2])
    found = {
        "add_n": tf.add_n([x, y, x]), "div": x / y, "pow": y**1.5, "maximum": tf.maximum(x, y),
        "minimum": tf.minimum(x, y), "unary": tf.sqrt(tf.abs(x)) + tf.math.rsqrt(y) + tf.math.log(y),
        "waves": tf.sin(x) + tf.cos(-x) + tf.exp(x), "steps": tf.floor(x) + tf.math.ceil(y) + tf.round(4 * x),
        "sign": tf.sign(x), "gap": tf.math.squared_difference(x, y), "square": tf.square(x),
        "activations": tf.sigmoid(x) + tf.nn.elu(x) + tf.nn.leaky_relu(x, 0.3) + tf.nn.gelu(x, True),
        "hard_swish": x * tf.nn.relu6(x + 3) / 6, "clipped": tf.clip_by_value(x, -1, 1),
        "floor_div": tf.math.floordiv(x, y), "floor_mod": tf.math.floormod(x, y),
        "whole": tf.math.floordiv(n - 5, 3) + tf.math.floormod(n - 5, 3), "cast": tf.cast(n, F32),
        "compared": tf.where((x > y) | (x <= 0), x, y), "logic": tf.cast(~(x < 0) & (x != y), F32),
        "equal": tf.cast(tf.equal(n, 3) | (n >= 7), I32), "softmax": tf.nn.softmax(x, axis=-1),
        "log_softmax": tf.nn.log_softmax(x), "mean": tf.reduce_mean(x, [1, 2]), "sum": tf.reduce_sum(x, -1),
        "max": tf.reduce_max(x, 1, keepdims=True), "min": tf.reduce_min(x, [0, 3]),
        "prod": tf.reduce_prod(x, 2), "any": tf.reduce_any(x > 1.5, 3), "all": tf.reduce_all(x > -1.5, 3),
        "arg_max": tf.argmax(x, 3), "arg_min": tf.argmin(x, 1, output_type=I32),
        "top": tf.math.top_k(x, 2).values, "places": tf.math.top_k(x, 2).indices,
        "cumsum": tf.cumsum(x, 2, exclusive=True, reverse=True), "l2": tf.math.l2_normalize(x, -1),
        "nearest": tf.image.resize(x, (7, 9), "nearest"), "bilinear": tf.image.resize(x, (7, 9)),
        "corners": tf.compat.v1.image.resize_bilinear(x, (7, 9), align_corners=True),
        "reshape": tf.reshape(x, (-1, 9)), "stack": tf.stack([x, y], 2), "unstack": tf.unstack(x, axis=3)[1],
        "split": tf.split(x, 3, 2)[1], "split_v": tf.split(x, [1, 2, 3], 2)[2],
        "slice": tf.slice(x, [0, 1, 0, 1], [-1, 2, 3, -1]), "strided": x[:, 1::2, -1, ::-1],
        "added": x[..., tf.newaxis, 0], "pad": tf.pad(x, [[0, 0], [1, 0], [0, 2], [0, 0]], constant_values=2),
        "mirror": tf.pad(x, [[0, 0], [1, 1], [2, 1], [0, 0]], "REFLECT"),
        "gather": tf.gather(x, [2, 0], axis=2), "not_less": tf.cast(~(x[..., 0] < y[..., 0]), F32),
        "gather_nd": tf.gather_nd(x, [[0, 1], [1, 3]]), "one_hot": tf.one_hot(n, 10, 2.0, -1.0),
        "tile": tf.tile(x, [1, 2, 1, 3]), "fill": tf.fill(tf.shape(n), 3.0) + tf.cast(tf.rank(x), F32),
        "zeros": tf.zeros_like(x) + tf.broadcast_to(y[:1, :1], (2, 4, 6, 3)),
        "range": tf.range(tf.shape(n)[1]), "reverse": tf.reverse(x, [1, 2]),
        "to_depth": tf.nn.space_to_depth(x, 2), "to_space": tf.nn.depth_to_space(tf.tile(x, [1, 1, 1, 4]), 2),
        "blocks": tf.batch_to_space(tf.space_to_batch(x, [2, 3], [[1, 1], [0, 0]]), [2, 3], [[1, 1], [0, 0]]),
        "product": tf.matmul(wide, wide, transpose_b=True), "squeezed": tf.squeeze(x[:, :1], [1]),
    }  # fmt: skip
    return {name: tf.identity(value, name=name) for name, value in found.items()}


def write(converter: Any, path: Path) -> None:
    path.write_bytes(converter.convert())


def of_function(function: Callable[..., Any], path: Path, *specs: Any) -> None:
    traced = tf.function(function, input_signature=list(specs))
    module = tf.Module()
    write(tf.lite.TFLiteConverter.from_concrete_functions([traced.get_concrete_function()], module), path)


def main(folder: Path) -> None:
    folder.mkdir()
    keras.utils.set_random_seed(0)
    for make in (vision, text):
        make().export(folder / make.__name__, verbose=False)
    for name in ("fp32", "fp16", "int8", "static"):
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "vision"))
        if name != "fp32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "fp16":
            converter.target_spec.supported_types = [tf.float16]
        if name == "static":
            rng = np.random.default_rng(0)
            rows = [rng.standard_normal((1, 16, 16, 3)).astype(np.float32) for _ in range(4)]
            converter.representative_dataset = lambda rows=rows: ([row] for row in rows)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        write(converter, folder / f"vision_{name}.tflite")
    write(tf.lite.TFLiteConverter.from_saved_model(str(folder / "text")), folder / "text_fp32.tflite")
    shape = (2, 4, 6, 3)
    specs = [tf.TensorSpec(shape, F32, "x"), tf.TensorSpec(shape, F32, "y"), tf.TensorSpec((2, 5), I32, "n")]
    of_function(operators, folder / "operators.tflite", *specs)
    one = tf.TensorSpec((1, 4), F32, "x")
    of_function(
        lambda x: tf.while_loop(lambda y: tf.reduce_sum(y) < 9, lambda y: (y + 1,), (tf.nn.relu(x),))[0],
        folder / "loop.tflite", one,
    )  # fmt: skip
    of_function(lambda x: tf.sqrt(-tf.square(x) - 1), folder / "nan.tflite", one)
    of_function(lambda x: x + tf.random.uniform((1, 4)), folder / "random.tflite", one)
    save(folder / "writes", serving_default=tf.function(_writing, input_signature=[one]))
    roots = tf.function(lambda x: tf.linalg.cholesky(tf.eye(2) * x[0, 0]), input_signature=[one])
    save(folder / "roots", serving_default=roots)
    more = tf.function(lambda x: x + 1, input_signature=[one])
    save(folder / "several", one=more, two=more)


def _writing(x: Any) -> Any:
    with tf.control_dependencies([tf.io.write_file("written.txt", tf.strings.as_string(x[0, 0]))]):
        return x + 1


def save(folder: Path, **signatures: Any) -> None:
    module = tf.Module()
    module.functions = list(signatures.values())
    tf.saved_model.save(module, str(folder), signatures=signatures)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
