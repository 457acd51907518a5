"""Where a node came from: the module of the model as its author named it."""

from __future__ import annotations

import ast

import onnx_ir as ir


def module_of(node: ir.Node) -> str:
    """The dotted path of the module a node came from, "" where the file does not say.

    PyTorch's exporter writes the scopes of each node into its metadata; its older exporter made
    paths of the node names ("/encoder/layer.0/MatMul"); failing both, the weight's name says it.
    """
    if scopes := node.metadata_props.get("pkg.torch.onnx.name_scopes"):
        try:
            # The last scope is the operator, the ones before it are modules from the outermost in;
            # the exporter's own placeholders begin with an underscore.
            modules = [name for name in ast.literal_eval(scopes)[:-1] if name and name[0] != "_"]
            return str(modules[-1]) if modules else ""
        except (ValueError, SyntaxError, TypeError, IndexError):
            return ""
    if node.name and node.name.startswith("/"):
        return ".".join(node.name.strip("/").split("/")[:-1])
    for value in node.inputs:
        if value is not None and value.is_initializer() and value.name and "." in value.name:
            return value.name.rpartition(".")[0]
    return ""
