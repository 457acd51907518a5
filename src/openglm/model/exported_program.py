"""`.pt2` files: programs saved by `torch.export.save`."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from openglm.errors import InputError
from openglm.model.model import Model

SUFFIX = ".pt2"


def matches(source: str) -> bool:
    """Whether `source` names an exported program."""
    return source.lower().endswith(SUFFIX)


def load(source: str) -> Model:
    """The program in a `.pt2` file, refused where reading it would unpickle objects."""
    path = Path(source)
    if not path.is_file():
        raise InputError(f"There is no file {path}.", "Check the path.")
    refuse_pickles(path)
    from openglm.model.module import quiet, require_torch

    torch = require_torch()
    refuse_pickled_samples(torch, path)
    try:
        with quiet():
            program = torch.export.load(path)
    except Exception as error:  # a broken archive fails in many ways
        raise InputError(
            f"{path} cannot be read as an exported program ({str(error).splitlines()[0][:150]}).",
            "Save it again with torch.export.save.",
        ) from error
    return Model(name=path.stem, source=source, task="generic", export=lambda: _export(program))


def refuse_pickles(path: Path) -> None:
    """Raise `InputError` for an archive that is broken, or that holds anything but plain tensors.

    `torch.export.load` unpickles payloads marked so and all custom objects; a file that was handed
    in may run code that way.
    """
    again = "Save it again with torch.export.save from PyTorch 2.9 or newer."
    try:
        with zipfile.ZipFile(path) as archive:
            configs = [
                name
                for name in archive.namelist()
                if name.endswith(("weights_config.json", "constants_config.json"))
            ]
            payloads = [
                item for name in configs for item in json.loads(archive.read(name))["config"].values()
            ]
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        raise InputError(f"{path} is not a whole .pt2 file.", again) from error
    legacy = [
        name for name in names if Path(name).parent.name in ("weights", "constants") and name.endswith(".pt")
    ]
    if not any(name.endswith("weights_config.json") for name in configs) or legacy:
        raise InputError(f"{path} is in an older .pt2 format, which holds pickles.", again)
    if any(
        item.get("use_pickle") or "custom_obj" in item["path_name"] or "opaque" in item["path_name"]
        for item in payloads
    ):
        raise InputError(
            f"{path} holds pickled objects, which could run code and are never loaded.",
            "Export the model without custom objects, with plain tensors as weights.",
        )


def refuse_pickled_samples(torch: Any, path: Path) -> None:
    """Raise `InputError` where torch's safe loader does not take the archive's sample inputs.

    `torch.export.load` would then fall back to its unsafe one.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if "sample_inputs" in name:
                try:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                except Exception as error:
                    raise InputError(
                        f"{path} holds sample inputs that are not plain tensors, which are never loaded.",
                        "Export the model with tensors as example inputs.",
                    ) from error


def _export(program: Any) -> Any:
    from openglm.model.module import OPSET, quiet, require_torch, strip

    torch = require_torch()
    try:
        with quiet():
            graph = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False).model
    except Exception as error:
        raise InputError(
            f"The program cannot be exported to ONNX ({str(error).strip().splitlines()[0][:200]}).",
            "--debug shows the operator.",
        ) from error
    strip(graph)
    return graph
