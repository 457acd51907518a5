"""Sensitivity: in the model's order, in plain words, and with the manifest's figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from openglm.bundle.manifest import Sensitivity
from openglm.report import sensitivity
from openglm.report.page import render


def of(*names: str, technique: str = "int8", cost: float = 0.1) -> list[Sensitivity]:
    return [Sensitivity(part=name, modules=(name,), technique=technique, cost=cost) for name in names]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (
            ["m.encoder.layer.0 attention", "m.encoder.layer.10 feed-forward", "m.encoder.layer.0"],
            ["layer 0, attention", "layer 0", "layer 10, feed-forward"],
        ),
        (["model.layers.3 attention"], ["layer 3, attention"]),
        (
            ["m.encoder.layers.0 attention", "m.decoder.layers.0 attention"],
            ["encoder layer 0, attention", "decoder layer 0, attention"],
        ),
        (["net.features.0.conv", "net.features.3"], ["features.0.conv", "features.3"]),
        (["conv1", "layer1.0.conv1", "fc"], ["conv1", "layer1.0.conv1", "fc"]),
        (["net.stem", "net.head"], ["stem", "head"]),
        (["only"], ["only"]),
    ],
)  # fmt: skip
def test_parts_are_named_without_what_all_begin_with(names: Sequence[str], wanted: Sequence[str]) -> None:
    assert [part.name for part in sensitivity.parts(of(*names))] == wanted


def test_parts_stand_in_the_models_order_also_where_a_technique_left_one_out() -> None:
    found = [
        *of("model.layer.1 attention", "model.layer.10 attention"),
        *of("model.layer.0 attention", "model.layer.1 attention", technique="half its heads"),
    ]
    made = sensitivity.parts(found)
    assert [part.name for part in made] == [
        "layer 0, attention",
        "layer 1, attention",
        "layer 10, attention",
    ]
    assert sensitivity.techniques(made) == ["int8", "half its heads"]
    assert set(made[1].costs) == {"int8", "half its heads"}


def test_every_cost_of_the_manifest_stands_in_its_cell_and_no_other_does(make: Any) -> None:
    manifest = make.searched()
    section = re.search(r'<section id="sensitivity".*?</section>', render(manifest), re.S)
    assert section is not None
    heads = re.findall(r'role="columnheader"[^>]*>([^<]*)<', section[0])
    shown = {}
    for row in re.findall(r'<tr role="row"><th scope="row".*?</tr>', section[0]):
        part, *cells = (re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row))
        for technique, text in zip(heads[1:], cells, strict=True):
            if text != "–":
                shown[part, technique] = float(text)
    wanted = {}
    for item in manifest.sensitivities:
        index, _, what = item.part.removeprefix("model.encoder.layer.").partition(" ")
        wanted[f"layer {index}, {what}" if what else f"layer {index}", item.technique] = item.cost
    assert shown == {key: pytest.approx(cost, abs=5e-5, rel=0.05) for key, cost in wanted.items()}


def test_the_colour_follows_the_cost_and_the_figure_stands_with_it() -> None:
    costs = [0.0, 0.00005, 0.0009, 0.001, 0.004, 0.02, 0.05, 0.2, 0.9]
    cells = [sensitivity._cell(cost) for cost in costs]
    levels = [int(cell.kind[-1]) for cell in cells]
    assert levels == [0, 0, 0, 1, 2, 3, 4, 5, 6]
    texts = [cell.content for cell in cells]
    assert texts == ["0", "<0.0001", "0.0009", "0.0010", "0.0040", "0.020", "0.050", "0.20", "0.90"]
    assert "heat" not in sensitivity._cell(float("nan")).kind


def test_words_name_the_tenderest_the_hardiest_and_the_least_missed(make: Any) -> None:
    said = sensitivity.sentences(sensitivity.parts(make.sensitivities()))
    assert said == [
        "Layer 4’s feed-forward is the tenderest: int8 costs 0.0072 of fidelity, half its neurons 0.72.",
        "Layer 0’s attention is the hardiest: int8 costs 0.0014 of fidelity, half its heads 0.036.",
        "Left out whole, layer 0 costs least (0.10) and layer 4 most (0.40).",
    ]


def test_words_fit_what_there_is() -> None:
    assert sensitivity.sentences([]) == []
    one = sensitivity.sentences(sensitivity.parts(of("features.3", cost=0.2)))
    assert one == ["features.3 is the tenderest: int8 costs 0.20 of fidelity."]
    whole = [
        *of("m.layer.0 attention", cost=0.0),
        *of("m.layer.0", "m.layer.1", technique="left out", cost=0.2),
    ]
    assert sensitivity.sentences(sensitivity.parts(whole)) == [
        "Left out whole, layer 0 costs least (0.20) and layer 1 most (0.20)."
    ]
    nothing = sensitivity.sentences(sensitivity.parts(of("a", "b", cost=0.0)))
    assert nothing == ["Nothing that was tried on one part alone cost anything worth a word."]


def test_a_part_is_tender_by_its_share_of_what_each_technique_costs_at_most() -> None:
    # b loses most to neither technique, and much to both.
    found = [
        *of("a", cost=0.01), *of("b", cost=0.009), *of("c", cost=0.0001),
        *of("a", technique="half its rank", cost=0.0), *of("b", technique="half its rank", cost=0.4),
        *of("c", technique="half its rank", cost=0.5),
    ]  # fmt: skip
    assert [part.block for part in sensitivity.ranked(sensitivity.parts(found))] == ["b", "c", "a"]
