"""Which of TensorFlow Lite's operators have a counterpart in ONNX."""

from __future__ import annotations

from collections.abc import Callable

from openglm.model.tflite import arithmetic, products, shaping
from openglm.model.tflite.reading import File, Operation
from openglm.model.tflite.translation import Translation, UnsupportedError

Translator = Callable[[Translation, Operation], None]
KNOWN: dict[str, Translator] = {**products.TABLE, **arithmetic.TABLE, **shaping.TABLE}


def table(file: File) -> dict[str, Translator]:
    """How each operator of a file is translated, by its name."""
    found = dict(KNOWN)

    def composite(t: Translation, operation: Operation) -> None:
        place = operation.options.decompositionSubgraphIndex
        if not 0 < place < len(file.subgraphs):
            raise UnsupportedError("what it stands for is not in the file")
        t.inline(file.subgraphs[place], operation, found)

    found["STABLEHLO_COMPOSITE"] = composite
    return found
