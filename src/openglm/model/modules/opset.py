"""The operator set that graphs are read in."""

from __future__ import annotations

import onnx_ir as ir

from openglm.errors import InputError

OPSET = 13
"""The first that our own operators know."""


def modern(model: ir.Model) -> ir.Model:
    """The model in operator set 13 where it is in an older one; raises `InputError` where it cannot be
    converted."""
    if model.opset_imports.get("", OPSET) >= OPSET:
        return model
    from onnx import version_converter

    try:
        proto = version_converter.convert_version(ir.to_proto(model), OPSET)
    except Exception as error:  # the converter's own kinds share no base
        raise InputError(
            f"The model's operator set is older than {OPSET}, and it cannot be converted.",
            "Export it again, or give it as a PyTorch module.",
        ) from error
    return ir.serde.deserialize_model(proto)
