"""Recipes are read with care, and passes are found without a list."""

from __future__ import annotations

import importlib.metadata
from typing import ClassVar, Literal

import onnx_ir as ir
import pytest

from openglm.errors import InputError
from openglm.passes.contract import Applied, Context, GraphPass, parse_step, schemes


class Nothing(GraphPass):
    """Does nothing."""

    scheme: ClassVar[str] = "nothing_of_note"
    level: Literal[1, 2] = 1

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        return Applied(graph, False)


REQUIRED = {"keep": 0.5, "small": "small.onnx"}
"""What has no default: it is what one decides."""


def test_every_scheme_is_found() -> None:
    known = schemes()
    assert {"fuse", "dynamic_wi8_ai8", "static_wi8_ai8", "wi8_afp32", "wi4_afp32", "fp16"} <= set(known)
    for scheme, config in known.items():
        needed = {name for name, item in config.model_fields.items() if item.is_required()}
        assert needed <= set(REQUIRED)
        if scheme == "layer_pruning":
            needed = {"layers"}
        made = config.model_validate({name: {**REQUIRED, "layers": [0]}[name] for name in needed})
        assert made.code.startswith(scheme)
        assert parse_step(made.to_recipe()) == made
        assert config.__doc__


def test_a_plug_in_is_registered_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("nothing", f"{__name__}:Nothing", "openglm.passes")
    loaded = []
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: loaded.append(self.value))
    monkeypatch.setattr("openglm.passes.contract.entry_points", lambda group: [point])
    assert schemes()["nothing_of_note"] is Nothing
    assert loaded == [point.value]
    assert parse_step({"pass": "nothing_of_note", "level": 2}) == Nothing(level=2)


@pytest.mark.parametrize(
    ("name", "hint"), [("dynamic_wi8", "dynamic_wi8_ai8"), ("wi4_afp23", "wi4_afp32"), ("FUSE", "fuse")]
)
def test_an_unknown_pass_brings_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"no pass '{name}'.*{hint}"):
        parse_step({"pass": name})


def test_a_step_without_a_pass_is_an_input_error() -> None:
    with pytest.raises(InputError, match="Known are"):
        parse_step({})


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"weight_bits": 9}, "weight_bits"),
        ({"wieght_bits": 8}, "wieght_bits"),
        ({"per_channel": "maybe"}, "per_channel"),
    ],
)
def test_a_bad_field_is_named_with_the_good_ones(fields: dict[str, object], where: str) -> None:
    with pytest.raises(InputError, match=f"at {where}.*Its fields are: per_channel, weight_bits"):
        parse_step({"pass": "dynamic_wi8_ai8", **fields})


def test_configs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Nothing().level = 2  # type: ignore[misc]
