"""Dropping tokens: against a network that is run by hand without them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import openglm  # noqa: E402
from openglm.data import open_data  # noqa: E402
from openglm.dynamic.chain import Lengths  # noqa: E402
from openglm.dynamic.samples import Samples  # noqa: E402
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
from openglm.training import exits, shortening  # noqa: E402

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


def pruned(model: Model, after: tuple[int, ...] = (0, 2)) -> Model:
    return TokenPruning(after=after).apply(model, Context()).model


def by_hand(model: Model, text: str, lengths: Lengths, after: tuple[int, ...] = (0, 2)) -> np.ndarray:
    """The answer of a network from which tokens are really taken away."""
    bert = model.module.model.bert
    given = {name: torch.from_numpy(array) for name, array in inputs(model, [text]).items()}
    with torch.no_grad():
        hidden = bert.embeddings(given["input_ids"], token_type_ids=given["token_type_ids"])
        for index, layer in enumerate(bert.encoder.layer):
            weights = layer.attention.self(hidden)[1]
            hidden = layer(hidden)
            if index in after:
                hidden = hidden[:, kept(weights, lengths)]
        found: np.ndarray = model.module.model.classifier(bert.pooler(hidden)).numpy()
    return found


def kept(weights: Any, lengths: Lengths) -> list[int]:
    """Of the tokens of one row the first and the most important, in order."""
    importance = weights.mean(1).mean(1)[0]
    count = len(importance)
    stay = lengths.least + math.ceil(lengths.share * max(0, count - lengths.least))
    others = sorted(range(1, count), key=lambda token: -float(importance[token]))
    return sorted([0, *others[: min(stay, count) - 1]])


def run(
    graph: Any, cuts: Cuts, batch: dict[str, np.ndarray], lengths: Lengths, tmp_path: Path
) -> tuple[np.ndarray, Any]:
    """A program that drops tokens, and what its rows went through."""
    from openglm.dynamic.program import open_program
    from openglm.model.sources import onnx_file

    cut = Segments(graph, cuts, cuts.points, batch)
    made = program(cut.pieces, [cut.gate(place, lengths) for place in range(len(cuts.points))])
    for segment, piece in zip(made.segments, cut.pieces, strict=True):
        onnx_file.write(piece.graph, tmp_path / segment.models["onnxruntime"])
    outputs, trace = open_program(made, cut.pieces[-1].outputs[:1], tmp_path, threads=1).traced(batch)
    return outputs[cuts.answer], trace


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("lengths", [Lengths(3, 0.5), Lengths(2, 0.0)])
def test_a_program_is_the_network_without_those_tokens(
    classifier: Model, tmp_path: Path, text: str, lengths: Lengths
) -> None:
    graph = pruned(classifier).graph
    batch = inputs(classifier, [text])
    answer, trace = run(graph, Cuts.of(graph), batch, lengths, tmp_path)
    np.testing.assert_allclose(answer, by_hand(classifier, text, lengths), rtol=1e-4, atol=1e-5)
    assert (trace.work < 1) == (batch["input_ids"].shape[1] > lengths.least)


def test_rows_of_a_batch_lose_their_own_tokens(classifier: Model, tmp_path: Path) -> None:
    graph, lengths = pruned(classifier).graph, Lengths(3, 0.5)
    wanted = np.concatenate([by_hand(classifier, text, lengths) for text in TEXTS])
    answer, _ = run(graph, Cuts.of(graph), inputs(classifier, TEXTS), lengths, tmp_path)
    np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-5)


def test_the_rest_of_a_block_does_not_run_for_what_is_dropped(classifier: Model) -> None:
    """The cut is behind attention: the first segment has no feed-forward layer."""
    graph = pruned(classifier, after=(0,)).graph
    cut = Segments(graph, Cuts.of(graph), Cuts.of(graph).points, inputs(classifier, TEXTS[:1]))
    works = [segment.work for segment in program(cut.pieces, [cut.gate(0, Lengths())]).segments]
    assert works[0] < 0.8 / 4, "of four blocks three and a part of the first are in the second segment"


def test_quantized_and_with_exits(classifier: Model) -> None:
    context = Context(calibration=lambda: iter([inputs(classifier, TEXTS[:1])]))
    with_exits = EarlyExit(exits=2).apply(classifier, context).model
    graph = Fuse().apply(pruned(with_exits).graph, Context()).graph
    graph = DynamicInt8().apply(graph, Context()).graph
    cuts = Cuts.of(graph)
    assert sorted(point.kind for point in cuts.points) == ["exit", "exit", "tokens", "tokens"]
    batch = inputs(classifier, TEXTS[2:3])
    cut = Segments(graph, cuts, cuts.points, batch)
    chain, samples = cut.chain([0.2] * 5), Samples([batch], [None])
    whole, dropped = chain.way(samples), chain.way(samples, Lengths(3, 0.2))
    assert whole.answers.shape == dropped.answers.shape == (3, 1, 3)
    assert np.isfinite(dropped.answers).all()
    assert not np.allclose(whole.answers[-1], dropped.answers[-1])
    assert whole.work[-1, 0] == pytest.approx(1.0)
    assert dropped.work[-1, 0] < 1.0
    assert whole.cuts.tolist() == [0, 0, 0]
    assert dropped.cuts[-1] == 2


def test_the_program_is_kept_within_its_limit(classifier: Model) -> None:
    graph = pruned(classifier).graph
    long = " ".join(TEXTS)
    samples = [(inputs(classifier, [f"{row['text']} {long}"]), None) for row in ROWS * 8]
    careful = ProgramOfExits(max_drop=0.001).apply(graph, Context(labelled=lambda: iter(samples)))
    assert len(careful.program.segments) == 1, "so few samples prove nothing so fine"
    assert any("No token is dropped" in note for note in careful.notes)
    bold = ProgramOfExits(max_drop=1.0).apply(graph, Context(labelled=lambda: iter(samples)))
    assert [gate.kind for gate in bold.program.gates] == ["tokens", "tokens"]
    assert {gate.settings["share"] for gate in bold.program.gates} == {0.0}
    assert set(bold.graphs) == {segment.name for segment in bold.program.segments}


def learning(module: Any) -> Any:
    """A copy in which tokens are dropped as in training; the rest stays without dropout."""
    found = copy.deepcopy(module)
    own = shortening.of(found)
    assert own is not None
    own.train()
    return found


def test_while_it_learns_tokens_go_as_they_will(classifier: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rows keep is drawn for each of them: with one draw for all, it is a program's answer."""
    module = learning(pruned(classifier).module)
    given = {name: torch.from_numpy(array) for name, array in inputs(classifier, TEXTS).items()}
    monkeypatch.setattr(shortening, "WHOLE", 0.0)
    monkeypatch.setattr(torch, "rand", lambda *size, **named: torch.full(size, 0.5))
    module.shortening.least = 3
    with torch.no_grad():
        answers = module(**given)[0].numpy()
    wanted = [by_hand(classifier, text, Lengths(3, 0.5)) for text in TEXTS]
    np.testing.assert_allclose(answers, np.concatenate(wanted), rtol=1e-4, atol=1e-5)


def test_while_it_learns_some_rows_keep_all(classifier: Model) -> None:
    module = learning(pruned(classifier).module)
    module.shortening.least = 2
    given = {name: torch.from_numpy(array) for name, array in inputs(classifier, TEXTS[2:3] * 64).items()}
    torch.manual_seed(0)
    with torch.no_grad():
        answers = module(**given)[0].numpy()
        whole = classifier.module(**given)[0].numpy()
    same = np.isclose(answers, whole, rtol=1e-3, atol=1e-4).all(1)
    assert 4 < same.sum() < 32
    assert len(np.unique(answers.round(4), axis=0)) > 8, "each row has lengths of its own"


def test_an_exit_reads_what_is_left(classifier: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program, where the gate is before the exit behind the same block."""
    context = Context(calibration=lambda: iter([inputs(classifier, TEXTS[:1])]))
    with_exits = EarlyExit().apply(classifier, context).model
    module = learning(pruned(with_exits, after=(0,)).module)
    (path, head), *_ = exits.by_layer(module).items()
    states = []
    module.get_submodule(path).register_forward_hook(lambda *given: states.append(given[-1]))
    monkeypatch.setattr(shortening, "WHOLE", 0.0)
    monkeypatch.setattr(torch, "rand", lambda *size, **named: torch.zeros(size))
    module.shortening.least = 3
    weights = []
    holder = module.get_submodule(f"{path}.attention.self")
    holder.register_forward_hook(lambda *given: weights.append(given[-1][1]))
    given = {name: torch.from_numpy(array) for name, array in inputs(classifier, TEXTS[:1]).items()}
    with torch.no_grad():
        said = module(**given)[1]
        state = states[0] if isinstance(states[0], torch.Tensor) else states[0][0]
        left = state[:, kept(weights[0], Lengths(3, 0.0))]
        hidden = torch.tanh(head.hidden(torch.cat([state[:, 0], left.mean(1)], 1)))
        torch.testing.assert_close(said, head.answer(hidden))


def test_it_learns_to_answer_at_any_length(classifier: Model) -> None:
    found = TokenPruning(least=2, after=(0, 1)).apply(classifier, Context()).model
    data = open_data(ROWS)
    trained = Distil(steps=80, batch_size=6, learning_rate=1e-3, alpha=1.0).apply(
        found, Context(teacher=classifier, training=data)
    )
    given = inputs(classifier, [row["text"] for row in ROWS])  # type: ignore[misc]
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    with torch.no_grad():
        wanted = classifier.module(**tensors)[0].softmax(-1)

        def apart(model: Model) -> float:
            module = learning(model.module)
            torch.manual_seed(0)
            runs = [(module(**tensors)[0].softmax(-1) - wanted).abs().mean() for _ in range(20)]
            return float(torch.stack(runs).mean())

        assert apart(trained.model) < 0.5 * apart(found)


@pytest.mark.parametrize(
    ("config", "words"),
    [(TokenPruning(after=(3,)), "no layer to spare"), (TokenPruning(after=(9,)), "no layer to spare")],
)
def test_layers_that_do_not_serve(classifier: Model, config: TokenPruning, words: str) -> None:
    with pytest.raises(InputError, match=words):
        config.apply(classifier, Context())


def test_settings_that_are_none() -> None:
    for wrong in ({"least": 0}, {"after": ()}, {"after": (-1,)}, {"keep": 0.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TokenPruning(**wrong)


def test_once_and_after_exits(classifier: Model) -> None:
    found = TokenPruning().apply(classifier, Context()).model
    with pytest.raises(InputError, match="drops tokens already"):
        TokenPruning().apply(found, Context())
    with pytest.raises(InputError, match="after token pruning"):
        EarlyExit().apply(found, Context(calibration=lambda: iter([inputs(classifier, TEXTS[:1])])))
