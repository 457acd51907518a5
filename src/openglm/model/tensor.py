"""The description of one input or output of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from openglm.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

NUMBERS = "^(bool|u?int(8|16|32|64)|float(16|32|64))$"
"""Types that numpy has and an engine can be fed with."""


def identifier(name: str) -> str:
    """A tensor's name as Python takes it for a parameter: "serving_default_x:0" is `serving_default_x_0`."""
    found = re.sub(r"\W", "_", name)
    return found if found.isidentifier() else f"_{found}"


class TensorSpec(BaseModel):
    """Name, type and shape of a tensor; a dimension given by name may take any size at run time."""

    model_config = ConfigDict(frozen=True)

    name: str
    dtype: str = Field(pattern=NUMBERS)
    """A numpy type name: "float32", "int64", ..."""
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def check(self, array: np.ndarray) -> np.ndarray:
        """Return `array` in this type, or raise `InputError` where type or shape do not fit.

        An integer or float array of another width is converted where no value changes.
        """
        try:
            array = np.asarray(array)
        except ValueError as error:
            raise InputError(
                f"Input '{self.name}' is not an array: its rows differ in length.", "Give rows of one length."
            ) from error
        want = np.dtype(self.dtype)
        if array.dtype != want:
            with np.errstate(all="ignore"):
                converted = array.astype(want, copy=False) if array.dtype.kind in "iufb" else None
            floats = array.dtype.kind == "f" and want.kind == "f"
            if converted is None or not (floats or np.array_equal(converted, array)):
                raise InputError(
                    f"Input '{self.name}' has type {array.dtype} where the model takes {self.dtype}.",
                    f"Convert it to {self.dtype} first.",
                )
            array = converted
        fits = array.ndim == len(self.shape) and all(
            isinstance(want_size, str) or want_size == size
            for want_size, size in zip(self.shape, array.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"Input '{self.name}' has shape {list(array.shape)} where the model takes "
                f"[{', '.join(map(str, self.shape))}].",
                "Give an array of that shape.",
            )
        return array


def check_inputs(specs: tuple[TensorSpec, ...], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Check arrays by name against the inputs of a model; raises `InputError` on what does not fit."""
    if not isinstance(arrays, Mapping):
        raise InputError(
            f"A {type(arrays).__name__} is no set of inputs.", 'Give arrays by name: {"name": array}.'
        )
    known = {spec.name for spec in specs}
    listed = ", ".join(map(str, specs))
    if missing := known - set(arrays):
        raise InputError(f"Input '{sorted(missing)[0]}' is missing.", f"The model takes {listed}.")
    if extra := set(arrays) - known:
        raise InputError(f"The model has no input '{sorted(extra)[0]}'.", f"It takes {listed}.")
    checked = {spec.name: spec.check(arrays[spec.name]) for spec in specs}
    sizes: dict[str, tuple[int, str]] = {}
    for spec in specs:
        for want, size in zip(spec.shape, checked[spec.name].shape, strict=True):
            if isinstance(want, str) and sizes.setdefault(want, (size, spec.name))[0] != size:
                other_size, other = sizes[want]
                raise InputError(
                    f"Inputs '{other}' and '{spec.name}' disagree on '{want}': {other_size} and {size}.",
                    "Give both the same size there.",
                )
    return checked


def specs(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    """The description of graph inputs or outputs; raises `InputError` for one that is no tensor."""
    import onnx_ir as ir

    described = []
    for value in values:
        dtype = "unknown" if value.dtype is None else value.dtype.name.lower()
        if value.dtype is not None and value.dtype != ir.DataType.STRING:
            dtype = value.dtype.numpy().name
        if not isinstance(value.type, ir.TensorType | None) or not re.match(NUMBERS, dtype):
            raise InputError(
                f"The graph's '{value.name}' is not a tensor of numbers but of type {dtype}.",
                "Only tensors of numbers in and out are supported.",
            )
        dims = tuple(
            dim
            if isinstance(dim, int)
            else str(dim.value)
            if dim.value is not None
            else f"{value.name}_{axis}"
            for axis, dim in enumerate(value.shape or ())
        )
        described.append(TensorSpec(name=value.name or "", dtype=dtype, shape=dims))
    return tuple(described)
