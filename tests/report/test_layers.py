"""The cost of layers, grouped."""

from __future__ import annotations

import math
from typing import Any

from openglm.report import layers


def test_layers_are_grouped_as_finely_as_the_page_can_show_and_nothing_is_lost(make: Any) -> None:
    rows = make.sample_layers()
    found, rest = layers.groups(rows)
    blocks = [f"model.encoder.layer.{index}" for index in range(12)]
    assert [group.name for group in found] == ["model.embeddings.word", *blocks]
    for phase in ("before", "after"):
        total = sum(row["ms"] for row in rows if row["phase"] == phase)
        assert rest is not None
        assert math.isclose(sum(group.ms[phase] for group in [*found, rest]), total)
    assert found[1].mostly("before", "precision") == "fp32"
    assert found[1].mostly("after", "precision") == "int8"
    kinds, _ = layers.groups(layers.kinds(rows))
    assert "model.encoder.layer.*.intermediate.dense" in [group.name for group in kinds]


def test_layers_without_modules_are_their_own(make: Any) -> None:
    found, rest = layers.groups(
        [make.layer("before", f"node{index}", index, "fp32") for index in range(1, 41)]
    )
    assert len(found) == layers.MOST
    assert found[-1].name == "node9" or found[-1].name.startswith("node")
    assert rest is not None
    assert rest.name == "25 others"
    assert layers.groups([]) == ([], None)
