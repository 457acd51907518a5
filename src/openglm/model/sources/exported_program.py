"""`.pt2` files: programs saved by `torch.export.save`."""

from __future__ import annotations

import ast
import builtins
import io
import json
import re
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
    from openglm.model.sources.module import first_line, quiet, require_torch

    torch = require_torch()
    refuse_pickled_samples(torch, path)
    try:
        with quiet():
            program = torch.export.load(path)
    except Exception as error:  # a broken archive fails in many ways
        raise InputError(
            f"{path} cannot be read as an exported program ({first_line(error)}).",
            "Save it again with torch.export.save.",
        ) from error
    return Model(name=path.stem, source=source, task="generic", export=lambda: _export(program))


def refuse_pickles(path: Path) -> None:
    """Raise `InputError` for an archive that is broken, or that holds more than a graph and plain tensors.

    `torch.export.load` unpickles payloads marked so and all custom objects, loads compiled libraries,
    and evaluates the sizes in a graph as Python: a file that was handed in may run code in each way.
    """
    again = "Save it again with torch.export.save from PyTorch 2.9 or newer."
    plain = "Export the model without custom objects, with plain tensors as weights."
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            documents = {name: json.loads(archive.read(name)) for name in names if name.endswith(".json")}
        configs = {name: held for name, held in documents.items() if name.endswith("_config.json")}
        payloads = [item for held in configs.values() for item in held["config"].values()]
        pickled = any(
            item.get("use_pickle") or re.search("custom_obj|opaque", item["path_name"]) for item in payloads
        )
    except Exception as error:  # a broken archive fails in many ways
        raise InputError(f"{path} is not a whole .pt2 file.", again) from error
    legacy = [
        name for name in names if Path(name).parent.name in ("weights", "constants") and name.endswith(".pt")
    ]
    if not any(name.endswith("weights_config.json") for name in configs) or legacy:
        raise InputError(f"{path} is in an older .pt2 format, which holds pickles.", again)
    if pickled:
        raise InputError(f"{path} holds pickled objects, which could run code and are never loaded.", plain)
    # Readers of zips differ in which of two files of one name they take, and torch's ignores case.
    twice = len({name.lower() for name in names}) < len(names)
    foreign = [name for name in names if not _MEMBER.fullmatch(name.partition("/")[2])]
    if twice or foreign or len({name.partition("/")[0] for name in names}) > 1:
        raise InputError(f"{path} holds more than a graph and its tensors, which is never loaded.", plain)
    for name, held in documents.items():
        if name not in configs and (code := _code_in(held)):
            raise InputError(
                f"{path} has '{code[:60]}' where a size or a name belongs, which could run code.",
                "Load the module in Python and hand it to AutoModel.wrap.",
            )


_MEMBER = re.compile(
    r"data/(weights|constants)/[^/]+|data/sample_inputs/[^/]+[.]pt|models/[^/]+[.]json|extra/.+"
    r"|archive_format|archive_version|byteorder|version|[.]data/[^/]+"
)
_SIZES = {"size", "shape", "ndim", "dim", "numel", "stride", "storage_offset"}
_PLAIN = (
    ast.Expression, ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop,
    ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Subscript, ast.keyword,
)  # fmt: skip


def _code_in(held: Any, key: str = "") -> str | None:
    """The first string in a graph's document that torch would evaluate and that is no plain expression."""
    if isinstance(held, dict):
        if key == "range_constraints" and (bad := _code_in(list(held), "guards_code")):
            return bad
        return next((bad for name, item in held.items() if (bad := _code_in(item, name))), None)
    if isinstance(held, list):
        return next((bad for item in held if (bad := _code_in(item, key))), None)
    if not isinstance(held, str):
        return None
    if key == "name":
        return None if re.fullmatch(r"[\w.]*", held) else held
    return held if key in ("expr_str", "guards_code") and not _is_plain(held) else None


def _is_plain(text: str) -> bool:
    """Whether an expression has arithmetic and sizes only: no builtin, no attribute, no text to evaluate."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False

    def plain(node: ast.AST) -> bool:
        match node:
            case ast.Constant(value=str(word)):
                return re.fullmatch(r"\w+", word) is not None
            case ast.Constant(value=value):
                return isinstance(value, int | float)
            case ast.Name(id=name):
                return not name.startswith("_") and not hasattr(builtins, name)
            case ast.Attribute(attr=name):
                return name in _SIZES
            case ast.Call(func=function):
                return isinstance(function, ast.Name | ast.Attribute)
        return isinstance(node, _PLAIN)

    return all(plain(node) for node in ast.walk(tree))


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
    from openglm.model.sources.module import OPSET, first_line, quiet, require_torch, strip

    torch = require_torch()
    try:
        with quiet():
            graph = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False).model
    except Exception as error:
        raise InputError(
            f"The program cannot be exported to ONNX ({first_line(error)}).",
            "--debug shows the operator.",
        ) from error
    strip(graph)
    return graph
