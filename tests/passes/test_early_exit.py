"""Exits on encoders and on networks of convolutions: where they are put, and what they give."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import openglm  # noqa: E402
from openglm.errors import InputError  # noqa: E402
from openglm.model.model import Model  # noqa: E402
from openglm.passes.contract import Context, parse_step  # noqa: E402
from openglm.passes.early_exit import EarlyExit  # noqa: E402
from openglm.training import exits  # noqa: E402


class Net(torch.nn.Module):
    """Six layers of pictures, of which the first does most of the work."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 16, 8, 8, 8, 8)
        self.features = torch.nn.Sequential(
            *(
                torch.nn.Sequential(torch.nn.Conv2d(a, b, 3, padding=1), torch.nn.ReLU())
                for a, b in pairwise(widths)
            )
        )
        self.classifier = torch.nn.Linear(8, 5)

    def forward(self, pixel_values: Any) -> Any:
        return self.classifier(self.features(pixel_values).mean((2, 3)))


PICTURES = {"pixel_values": np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def net() -> Model:
    torch.manual_seed(0)
    example = {"pixel_values": torch.zeros(2, 3, 8, 8)}
    return openglm.AutoModel.wrap(Net().eval(), example, task="image-classification")


@pytest.fixture(scope="module")
def encoder(bert_folder: Path) -> Model:
    """Two blocks and a head for three classes."""
    encoder = openglm.AutoModel.from_pretrained(bert_folder).module.model

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.head = torch.nn.Linear(64, 3)

        def forward(self, input_ids: Any) -> Any:
            return self.head(self.encoder(input_ids=input_ids)[0][:, 0])

    torch.manual_seed(0)
    return openglm.AutoModel.wrap(
        Classifier().eval(), {"input_ids": torch.ones(2, 7, dtype=torch.int64)}, task="classification"
    )


TOKENS = {"input_ids": np.arange(14).reshape(2, 7)}


def over(batch: dict[str, np.ndarray]) -> Context:
    return Context(calibration=lambda: iter([batch]))


@pytest.mark.parametrize(("name", "batch", "count"), [("net", PICTURES, 3), ("encoder", TOKENS, 1)])
def test_the_graph_gives_what_torch_gives(
    request: pytest.FixtureRequest, run: Any, name: str, batch: dict[str, np.ndarray], count: int
) -> None:
    model: Model = request.getfixturevalue(name)
    found = EarlyExit().apply(model, over(batch))
    assert found.changed
    outputs = run(found.model.graph, batch)
    own = next(iter(run(model.graph, batch)))
    assert list(outputs) == [own, *(f"exit_{place + 1}" for place in range(count))]
    with torch.no_grad():
        wanted = found.model.module(**{key: torch.from_numpy(array) for key, array in batch.items()})
        before = model.module(**{key: torch.from_numpy(array) for key, array in batch.items()})
    assert torch.equal(wanted[0], before), "the end says what it said"
    for ours, theirs in zip(outputs.values(), wanted, strict=True):
        assert ours.shape == before.shape
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
    assert exits.count(model.module) == 0, "the model itself is as it was"


def test_exits_are_at_equal_distances_by_work(net: Model) -> None:
    """A point of a picture takes 2,736 multiplications up to layer 1, of 5,616 in all."""
    (note,) = EarlyExit(exits=1).apply(net, over(PICTURES)).notes
    assert note == "Exits after features.1."


def test_exits_of_an_encoder() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            return x + self.fc2(self.fc1(x).relu())

    class Blocks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(Block() for _ in range(12))
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return self.head(x[:, 0])

    model = openglm.AutoModel.wrap(Blocks().eval(), {"x": torch.zeros(2, 3, 4)})
    batch = {"x": np.zeros((1, 3, 4), np.float32)}
    (note,) = EarlyExit(exits=3).apply(model, over(batch)).notes
    assert note == "Exits after layers.2, layers.5, layers.8."
    (note,) = EarlyExit().apply(model, over(batch)).notes
    assert note == f"Exits after {', '.join(f'layers.{place}' for place in range(11))}."


def test_layers_by_name(net: Model) -> None:
    found = EarlyExit(after=("features.0", "features.4")).apply(net, over(PICTURES))
    assert found.notes == ("Exits after features.0, features.4.",)
    # The order is the one they run in.
    found = EarlyExit(after=("features.4", "features.0", "features.4")).apply(net, over(PICTURES))
    assert found.notes == ("Exits after features.0, features.4.",)
    assert parse_step({"pass": "early_exit", "after": ["features.0"]}).code == "early_exit_1"


def test_heads_are_the_same_for_a_seed(net: Model) -> None:
    first, again, other = (
        EarlyExit(seed=seed).apply(net, over(PICTURES)).model.module.exits.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_errors_say_what_to_do(net: Model, bert_folder: Path) -> None:
    with pytest.raises(InputError, match="needs one input"):
        EarlyExit().apply(net, Context())
    with pytest.raises(InputError, match=r"no layer 'features\.9'"):
        EarlyExit(after=("features.9",)).apply(net, over(PICTURES))
    once = EarlyExit().apply(net, over(PICTURES)).model
    with pytest.raises(InputError, match="has exits already"):
        EarlyExit().apply(once, over(PICTURES))
    flat = openglm.AutoModel.wrap(torch.nn.Linear(4, 2), {"input": torch.zeros(2, 4)})
    with pytest.raises(InputError, match="no place for exits"):
        EarlyExit().apply(flat, over({"input": np.zeros((2, 4), np.float32)}))
    with pytest.raises(InputError, match="'classifier' does not run once"):
        EarlyExit(after=("features.0", "classifier")).apply(net, over(PICTURES))


def test_models_whose_answer_no_exit_could_give(encoder: Model, bert_folder: Path) -> None:
    model = openglm.AutoModel.from_pretrained(bert_folder)
    rows = np.ones((1, 7), np.int64)
    batch = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), rows)
    with pytest.raises(InputError, match="does not answer with classes or a number"):
        EarlyExit().apply(model, over(batch))

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder.module.encoder

        def forward(self, input_ids: Any) -> Any:
            return self.encoder(input_ids=input_ids)[0]

    tokens = {"input_ids": torch.ones(2, 7, dtype=torch.int64)}
    states = openglm.AutoModel.wrap(States().eval(), tokens)
    with pytest.raises(InputError, match="does not answer with classes or a number"):
        EarlyExit().apply(states, over(TOKENS))


def test_the_root_may_run_its_layers_one_after_another(run: Any) -> None:
    torch.manual_seed(0)
    convolutions = [torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)]
    chain = torch.nn.Sequential(*convolutions, torch.nn.Flatten(), torch.nn.Linear(192, 5)).eval()
    model = openglm.AutoModel.wrap(chain, {"input": torch.zeros(2, 3, 8, 8)})
    batch = {"input": PICTURES["pixel_values"]}
    found = EarlyExit().apply(model, over(batch)).model
    with torch.no_grad():
        wanted = found.module(torch.from_numpy(batch["input"]))
        assert torch.equal(wanted[0], chain(torch.from_numpy(batch["input"])))
    for ours, theirs in zip(run(found.graph, batch).values(), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
