""".tflite files: their graph in ONNX, by which they are analysed, pruned and quantized."""

from __future__ import annotations

from pathlib import Path

from openglm.model.model import Model

SUFFIX = ".tflite"


def matches(source: str) -> bool:
    """Whether `source` names a .tflite file."""
    return source.lower().endswith(SUFFIX)


def load(source: str) -> Model:
    """The model in a .tflite file.

    Operators with no counterpart in ONNX stay, in the domain "tflite": they are counted by their bytes, and
    nothing but LiteRT runs such a graph. Raises as `reading.read` does.
    """
    from openglm.model.modules import trainable
    from openglm.model.tflite.reading import read
    from openglm.model.tflite.translation import translate

    path = Path(source)
    graph = translate(read(path), path.stem)
    return Model(path.stem, source, "generic", export=lambda: graph, trainable=trainable(graph))
