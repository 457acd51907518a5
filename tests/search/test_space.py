"""The choices of a search, and the recipes they make."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from openglm import AutoModel
from openglm.model.analysis.statistics import analyse
from openglm.passes import recipe as recipes
from openglm.passes.channels import ChannelPruning
from openglm.passes.contract import ModulePass
from openglm.passes.distil import Distil
from openglm.passes.fuse import Fuse
from openglm.search.feed import sizes
from openglm.search.space import FLOAT, Space


@pytest.fixture(scope="module")
def text(bert_folder: Path) -> Space:
    model = AutoModel.from_pretrained(bert_folder)
    return Space.of(model, analyse(model.graph, sizes(model, None)), structure=True)


def test_what_a_transformer_offers(text: Space) -> None:
    assert set(text.structural) == {"layers", "neurons", "heads", "rank", "vocabulary"}
    assert text.choices["layers"] == (2, 1)
    assert "dynamic_wi8_ai8" in text.choices["quantization"]


def test_what_a_convolution_net_offers(conv_file: Path) -> None:
    import torch

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3))
    model = AutoModel.wrap(net, (torch.zeros(1, 3, 16, 16),))
    statistics = analyse(model.graph, sizes(model, None))
    assert set(Space.of(model, statistics, structure=True).structural) == {"channels", "rank"}
    assert Space.of(model, statistics, structure=False).structural == ()
    graph = AutoModel.from_pretrained(conv_file)
    assert set(Space.of(graph, analyse(graph.graph, sizes(graph, None)), structure=True).structural) == {
        "channels",
        "rank",
    }


def test_untouched_is_only_cleaned(text: Space) -> None:
    assert text.recipe(text.untouched()) == (Fuse(),)
    assert not text.changes_module(text.untouched(quantization="dynamic_wi8_ai8"))


def test_every_choice_makes_a_recipe_that_can_be_read_again(text: Space) -> None:
    training = (Distil(steps=20),)
    made = set()
    names = [name for name in text.choices if name not in ("quantization", "spared")]
    for values in product(*(text.choices[name][:2] for name in names)):
        params = text.untouched(quantization="dynamic_wi8_ai8", **dict(zip(names, values, strict=True)))
        recipe = text.recipe(params, training)
        assert recipes.parse([step.to_recipe() for step in recipe]) == recipe
        assert text.changes_module(params) == any(isinstance(step, ModulePass) for step in recipe)
        assert (training[0] in recipe) == text.changes_module(params)
        made.add(recipes.digest(recipe))
    assert len(made) == 2 ** len(names)


def test_a_network_of_convolutions_loses_layers_and_channels_together() -> None:
    import torch

    def block() -> torch.nn.Sequential:
        return torch.nn.Sequential(*(torch.nn.Conv2d(32, 32, 3, padding=1) for _ in range(2)))

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), block(), block(), block(), torch.nn.ReLU())
    model = AutoModel.wrap(net, (torch.zeros(1, 3, 16, 16),))
    space = Space.of(model, analyse(model.graph, sizes(model, None)), structure=True)
    first = list(space.first(FLOAT))
    assert any(params["layers"] < 3 and params["channels"] < 1 for params in first)
    for params in first:
        for step in space.recipe(params):
            assert not isinstance(step, ChannelPruning) or step.multiple == 16
    assert not space.changes_module(space.untouched(multiple=8))


def test_first_structures_keep_the_quantization(text: Space) -> None:
    for params in text.first("fp16"):
        assert params["quantization"] == "fp16"
        assert text.changes_module(params)
    assert FLOAT in text.choices["quantization"]


def test_exits_are_offered_to_classifiers_where_their_gates_may_cost_something(
    bert_folder: Path, write_classifier: Callable[..., Path], tmp_path: Path
) -> None:
    for folder, offered in ((bert_folder, False), (write_classifier(tmp_path, layers=2, classes=2), True)):
        model = AutoModel.from_pretrained(folder)
        statistics = analyse(model.graph, sizes(model, None))
        assert "exits" not in Space.of(model, statistics, structure=True).choices
        space = Space.of(model, statistics, structure=True, gates_drop=0.004)
        assert ("exits" in space.structural) == offered
    chosen = space.recipe(space.untouched(exits=True), (Distil(steps=20),))
    assert [step.scheme for step in chosen] == ["early_exit", "distil", "fuse", "program"]
    assert chosen[-1].model_dump()["max_drop"] == 0.004
