"""Dropping tokens: against a network that is run by hand without them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import openglm  # noqa: E402
from openglm.data import open_data  # noqa: E402
from openglm.dynamic.cutting import THRESHOLDS  # noqa: E402
from openglm.errors import InputError  # noqa: E402
from openglm.model.model import Model  # noqa: E402
from openglm.passes.contract import Context  # noqa: E402
from openglm.passes.distil import Distil  # noqa: E402
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8  # noqa: E402
from openglm.passes.early_exit import EarlyExit  # noqa: E402
from openglm.passes.fuse import Fuse  # noqa: E402
from openglm.passes.program import ProgramOfExits, program  # noqa: E402
from openglm.passes.structure.segments import Cuts, Segments  # noqa: E402
from openglm.passes.token_pruning import TokenPruning  # noqa: E402
from openglm.training import fading  # noqa: E402

TEXTS = ["the cat sat on the mat", "a dog ran", "the tree by the house was old and tall and green", "house"]
ROWS = [{"text": f"the {a} {b}", "label": len(a) % 2} for a in ("cat", "dog", "tree") for b in ("sat", "ran")]


@pytest.fixture(scope="module")
def classifier(write_classifier: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Four blocks and three classes, with weights large enough for attention to differ between tokens."""
    folder = tmp_path_factory.mktemp("classifier")
    return openglm.AutoModel.from_pretrained(write_classifier(folder, layers=4, classes=3, std=0.2))


def inputs(model: Model, texts: list[str]) -> dict[str, np.ndarray]:
    assert model.processor is not None
    return dict(model.processor([{"text": text} for text in texts]))


def pruned(model: Model, thresholds: list[float], after: tuple[int, ...] = (0, 2)) -> Model:
    found = TokenPruning(after=after).apply(model, Context()).model
    fades = fading.of(found.module)
    assert fades is not None
    with torch.no_grad():
        fades.raw.copy_(torch.tensor(thresholds) / fading.PACE)
    return found


def by_hand(model: Model, text: str, thresholds: dict[int, float]) -> tuple[np.ndarray, list[int]]:
    """The answer of a network from which tokens are really taken away, and how many each block reads."""
    bert = model.module.model.bert
    given = {name: torch.from_numpy(array) for name, array in inputs(model, [text]).items()}
    counts = []
    with torch.no_grad():
        hidden = bert.embeddings(given["input_ids"], token_type_ids=given["token_type_ids"])
        for index, layer in enumerate(bert.encoder.layer):
            counts.append(hidden.shape[1])
            weights = layer.attention.self(hidden)[1]
            hidden = layer(hidden)
            if index in thresholds:
                importance = weights.mean(1).mean(1)[0]
                kept = importance >= thresholds[index] * importance.mean()
                kept[0] = True
                hidden = hidden[:, kept]
        logits = model.module.model.classifier(bert.pooler(hidden))
    return logits.numpy(), counts


def run(graph: Any, cuts: Cuts, batch: dict[str, np.ndarray], tmp_path: Path) -> tuple[np.ndarray, Any]:
    """A program that drops tokens, and what its rows went through."""
    from openglm.dynamic.program import open_program
    from openglm.model.sources import onnx_file

    cut = Segments(graph, cuts, cuts.points, batch)
    made = program(cut.pieces, [cut.gate(place, 1.0) for place in range(len(cuts.points))])
    for segment, piece in zip(made.segments, cut.pieces, strict=True):
        onnx_file.write(piece.graph, tmp_path / segment.models["onnxruntime"])
    outputs, trace = open_program(made, cut.pieces[-1].outputs[:1], tmp_path, threads=1).traced(batch)
    return outputs[cuts.answer], trace


@pytest.mark.parametrize("text", TEXTS)
def test_a_program_is_the_network_without_those_tokens(classifier: Model, tmp_path: Path, text: str) -> None:
    found = pruned(classifier, [0.8, 0.9])
    graph = found.graph
    assert [float(value) for value in json.loads(graph.metadata_props[THRESHOLDS])] == pytest.approx(
        [0.8, 0.9]
    )
    wanted, counts = by_hand(classifier, text, {0: 0.8, 2: 0.9})
    answer, trace = run(graph, Cuts.of(graph), inputs(classifier, [text]), tmp_path)
    np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-5)
    if counts[-1] < counts[0]:
        assert trace.work < 1


def test_rows_of_a_batch_lose_their_own_tokens(classifier: Model, tmp_path: Path) -> None:
    graph = pruned(classifier, [0.8, 0.9]).graph
    lost = [by_hand(classifier, text, {0: 0.8, 2: 0.9}) for text in TEXTS]
    assert any(counts[-1] < counts[0] for _, counts in lost)
    assert len({counts[0] - counts[-1] for _, counts in lost}) > 1, "rows lose unlike numbers of tokens"
    answer, _ = run(graph, Cuts.of(graph), inputs(classifier, TEXTS), tmp_path)
    np.testing.assert_allclose(answer, np.concatenate([row for row, _ in lost]), rtol=1e-4, atol=1e-5)


def test_quantized_and_with_exits(classifier: Model, tmp_path: Path) -> None:
    context = Context(calibration=lambda: iter([inputs(classifier, TEXTS[:1])]))
    exits = EarlyExit(exits=2).apply(classifier, context).model
    graph = Fuse().apply(pruned(exits, [0.8, 0.9]).graph, Context()).graph
    graph = DynamicInt8().apply(graph, Context()).graph
    cuts = Cuts.of(graph)
    assert sorted(point.kind for point in cuts.points) == ["exit", "exit", "tokens", "tokens"]
    batch = inputs(classifier, TEXTS[2:3])
    chain = Segments(graph, cuts, cuts.points, batch).chain
    whole, dropped = chain.answers([batch], 0.0), chain.answers([batch], 1.0)
    assert whole.shape == dropped.shape == (3, 1, 3)
    assert np.isfinite(dropped).all()
    assert not np.allclose(whole[-1], dropped[-1])


def test_the_program_is_kept_within_its_limit(classifier: Model) -> None:
    graph = pruned(classifier, [0.8, 0.9]).graph
    samples = [(inputs(classifier, [row["text"]]), None) for row in ROWS * 8]  # type: ignore[list-item]
    careful = ProgramOfExits(max_drop=0.001).apply(graph, Context(labelled=lambda: iter(samples)))
    assert len(careful.program.segments) == 1, "so few samples prove nothing so fine"
    assert any("No token is dropped" in note for note in careful.notes)
    bold = ProgramOfExits(max_drop=1.0).apply(graph, Context(labelled=lambda: iter(samples)))
    assert [gate.kind for gate in bold.program.gates] == ["tokens", "tokens"]
    assert set(bold.graphs) == {segment.name for segment in bold.program.segments}


def test_while_it_learns_tokens_of_half_the_rows_fade_as_they_will_go(
    classifier: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With thresholds far from every importance, fading is all or nothing, and equals taking away."""
    found = pruned(classifier, [0.8, 0.0], after=(0, 2))
    given = {name: torch.from_numpy(array) for name, array in inputs(classifier, TEXTS[:1] * 64).items()}
    module = copy.deepcopy(found.module)
    own = fading.of(module)
    assert own is not None
    own.train()  # the rest stays without dropout
    monkeypatch.setattr(fading, "TEMPERATURE", 1e-4)
    torch.manual_seed(0)
    with torch.no_grad():
        answers = module(**given)[0].numpy()
    wanted, counts = by_hand(classifier, TEXTS[0], {0: 0.8})
    whole, _ = by_hand(classifier, TEXTS[0], {})
    assert counts[-1] < counts[0]
    faded, kept = (np.isclose(answers, answer, rtol=1e-3, atol=1e-4).all(1) for answer in (wanted, whole))
    assert (faded ^ kept).all()
    assert 16 < faded.sum() < 48
    assert float(own.penalty()) == pytest.approx(
        fading.PULL * (counts[1] / counts[0] - own.keep) ** 2, rel=0.01
    )


def test_training_aims_at_the_share_that_shall_stay(
    classifier: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = TokenPruning(keep=0.4, after=(0, 1)).apply(classifier, Context()).model
    data = open_data(ROWS)
    trained = Distil(steps=60, batch_size=6, learning_rate=1e-3, alpha=0.9).apply(
        found, Context(teacher=classifier, training=data)
    )
    before, after = fading.of(found.module), fading.of(trained.model.module)
    assert before is not None
    assert after is not None
    assert (after.thresholds > before.thresholds).all()
    own = copy.deepcopy(trained.model.module)
    fades = fading.of(own)
    assert fades is not None
    fades.train()
    monkeypatch.setattr(fading, "WHOLE", 0.0)
    given = inputs(classifier, [row["text"] for row in ROWS])  # type: ignore[misc]
    with torch.no_grad():
        own(**{name: torch.from_numpy(array) for name, array in given.items()})
    share = torch.stack(fades._shares).mean()
    assert share < 0.8


@pytest.mark.parametrize(
    ("config", "words"),
    [(TokenPruning(after=(3,)), "no layer to spare"), (TokenPruning(after=(9,)), "no layer to spare")],
)
def test_layers_that_do_not_serve(classifier: Model, config: TokenPruning, words: str) -> None:
    with pytest.raises(InputError, match=words):
        config.apply(classifier, Context())


def test_once_and_after_exits(classifier: Model) -> None:
    found = TokenPruning().apply(classifier, Context()).model
    with pytest.raises(InputError, match="drops tokens already"):
        TokenPruning().apply(found, Context())
    with pytest.raises(InputError, match="after token pruning"):
        EarlyExit().apply(found, Context(calibration=lambda: iter([inputs(classifier, TEXTS[:1])])))
