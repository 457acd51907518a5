"""`AutoModel`: one door for every source of a model.

A source is one module here with `matches(source) -> bool` and `load(source) -> Model`; adding a
format is adding a file and naming it in `SOURCES`, whose order says who is asked first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from os import PathLike
from typing import Any

from openglm.errors import InputError, nearest
from openglm.model.model import Model

SOURCES = (
    "zoo", "onnx_file", "exported_program", "tflite_file", "transformers_folder", "saved_model", "factory",
    "hub",
)  # fmt: skip
SUPPORTED = (
    "a zoo name (`openglm models`), a hub id (owner/name), a transformers folder, a TensorFlow SavedModel "
    "folder, an .onnx file, a .tflite file, a .pt2 exported program, a function of yours that makes one "
    "(module:function), or, from Python, an nn.Module through AutoModel.wrap"
)


def printable(text: str) -> str:
    """A path's text for people and JSON: bytes in it that are no UTF-8 become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


class AutoModel:
    """Makes a `Model` from whatever the user has."""

    @staticmethod
    def from_pretrained(source: str | PathLike[str] | Model) -> Model:
        """The model that `source` names: a zoo name, a hub id, a folder, an `.onnx`, `.tflite` or
        `.pt2` file.

        Nothing is fetched from the network unless `source` is a hub id that is not cached. Raises
        `InputError` for a source that is not there or of another format.
        """
        if isinstance(source, Model):
            return source
        text = str(source)
        for name in SOURCES:
            module = import_module(f"openglm.model.sources.{name}")
            if module.matches(text):
                model: Model = module.load(text)
                model.name, model.source = printable(model.name), printable(model.source)
                return model
        from pathlib import Path

        from openglm.model.sources.zoo import ZOO

        if Path(text).exists():
            raise InputError(f"The format of {text} is not supported.", f"Supported are: {SUPPORTED}.")
        raise InputError(f"There is no model '{text}'.", f"{nearest(text, ZOO)} A model is {SUPPORTED}.")

    @staticmethod
    def wrap(
        module: Any,
        example_inputs: Sequence[Any] | Mapping[str, Any],
        *,
        name: str | None = None,
        task: str = "generic",
        processor: Any = None,
        dynamic_shapes: Any = None,
    ) -> Model:
        """A `Model` from any `torch.nn.Module`.

        `example_inputs` are the tensors of one call, by position or by parameter name; the first
        dimension of each is taken as a batch of any size unless `dynamic_shapes` (as in
        `torch.export`) says otherwise. Exporting happens when the graph is first needed.
        """
        from openglm.model.sources.module import wrap

        return wrap(
            module, example_inputs, name=name, task=task, processor=processor, dynamic_shapes=dynamic_shapes
        )
