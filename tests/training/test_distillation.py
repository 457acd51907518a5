"""A student comes nearer to its teacher, from the same steps the same, and what cannot be is said."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import openglm  # noqa: E402
from openglm import distil  # noqa: E402
from openglm.data import open_data  # noqa: E402
from openglm.errors import InputError  # noqa: E402
from openglm.model.model import Model, Trainable  # noqa: E402
from openglm.training import losses  # noqa: E402
from openglm.training.distillation import RATE, RATE_BATCH_NORM, default_rate, run  # noqa: E402
from openglm.training.loop import Progress, Settings  # noqa: E402
from openglm.training.objective import Distillation, Objective, Rows  # noqa: E402

nn = torch.nn
QUICK: dict[str, Any] = {"steps": 6, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32"}


pytestmark = pytest.mark.usefixtures("one_thread")


class Block(nn.Module):
    """Attention and what follows it, of a width of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Any, mask: Any) -> Any:
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        shares = scores.masked_fill(~mask[:, None].bool(), -1e4).softmax(-1)
        return (self.norm(x + shares @ self.value(x)),)


class Reader(nn.Module):
    """Texts into classes, or into vectors."""

    def __init__(self, vocabulary: int, width: int, depth: int, outputs: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, outputs)

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        x = self.table(input_ids)
        for block in self.blocks:
            (x,) = block(x, attention_mask)
        kept = attention_mask[..., None].float()
        return {"logits": self.head((x * kept).sum(1) / kept.sum(1)), "states": x}


TEXTS = [
    {"text": f"the {a} {b} {c}", "label": int("cat" in (a, b, c))}
    for a in ("cat", "dog", "tree", "house")
    for b in ("sat", "ran", "cat", "slept")
    for c in ("on", "under", "big", "cat", "red", "blue")
]


@pytest.fixture(scope="module")
def base(bert_folder: Path) -> Model:
    pytest.importorskip("transformers")
    return openglm.AutoModel.from_pretrained(bert_folder)


def reader(base: Model, width: int, depth: int = 2, outputs: int = 2, seed: int = 0, **changes: Any) -> Model:
    vocabulary = len(base.processor._tokenizer.tokens)  # type: ignore[union-attr]
    module = Reader(vocabulary, width, depth, outputs, seed).eval()
    given = {"task": "classification", "config": {}, "trainable": Trainable(lambda: module, _export)}
    return replace(base, **(given | changes))


def _export(module: Any) -> Any:
    from openglm.model.sources.module import export

    ids = torch.ones(2, 7, dtype=torch.int64)
    example = {"input_ids": ids, "attention_mask": ids.clone(), "token_type_ids": ids * 0}
    dims = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("tokens", min=2, max=64)}
    return export(
        module, example, dynamic_shapes=dict.fromkeys(example, dims), output_names=["logits", "states"]
    )


@pytest.fixture(scope="module")
def teacher(base: Model) -> Model:
    """A teacher that knows which texts have a cat in them."""
    raw = reader(base, 32, seed=1)
    return distil(raw, raw, TEXTS, alpha=0.0, steps=150, batch_size=16, learning_rate=3e-3, precision="fp32")


def answers(model: Model, texts: Any = TEXTS) -> Any:
    arrays = model.processor(texts)  # type: ignore[misc]
    with torch.no_grad():
        found = model.module(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    return losses.main_output(found)


def agreement(first: Model, second: Model) -> float:
    return float((answers(first).argmax(-1) == answers(second).argmax(-1)).float().mean())


def state(model: Model) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_student_learns_from_answers_alone(base: Model, teacher: Model) -> None:
    student = reader(base, 16, depth=1, seed=5)
    before, own = (state(student), agreement(student, teacher))
    unlabelled = [{"text": row["text"]} for row in TEXTS]
    taught = distil(
        teacher, student, unlabelled, steps=150, batch_size=16, learning_rate=1e-2, precision="fp32"
    )
    assert own < 0.7
    assert agreement(taught, teacher) > 0.97
    assert same(state(student), before)
    assert taught.module is not student.module
    assert not taught.module.training
    kind = answers(taught).softmax(-1) - answers(teacher).softmax(-1)
    assert kind.abs().mean() < 0.1


def test_student_runs_in_the_engine(base: Model, teacher: Model) -> None:
    import onnx_ir as ir
    import onnxruntime

    taught = distil(teacher, reader(base, 16), TEXTS, hidden=0.5, **PAIRS, **QUICK)
    session = onnxruntime.InferenceSession(ir.to_proto(taught.graph).SerializeToString())
    arrays = taught.processor(TEXTS[:5])  # type: ignore[misc]
    feeds = {item.name: arrays[item.name] for item in session.get_inputs()}
    (found,) = session.run(["logits"], feeds)
    np.testing.assert_allclose(found, answers(taught, TEXTS[:5]).numpy(), atol=1e-4)


QKV = [tuple(f"blocks.{i}.{kind}" for kind in ("query", "key", "value")) for i in range(2)]
PAIRS: dict[str, Any] = {"hidden_pairs": [("blocks.0", "blocks.0"), ("blocks.1", "blocks.1")]}
RELATED: dict[str, Any] = {"relation_pairs": [(QKV[1], QKV[1])]}


@pytest.mark.parametrize("labels", [True, False])
def test_loss_is_the_sum_of_its_parts(base: Model, teacher: Model, labels: bool) -> None:
    student = reader(base, 16, seed=3)
    wanted = Distillation(2.0, 0.6, 0.5, 0.25, **PAIRS, **RELATED)
    data = TEXTS if labels else [{"text": row["text"]} for row in TEXTS]
    rows = Rows(teacher, student, data, None, labels=True)
    objective = Objective(teacher, "classification", wanted)
    batch = rows.student.batch([0, 5, 40])
    trained = nn.ModuleDict({"student": student.module})
    with objective.tapping(student.module):
        trained["projections"] = objective.projections(student.module, rows, 0)
        total, parts = objective(trained, batch, rows)
    first, second = student.module(**batch.inputs), teacher.module(**batch.inputs)
    soft = losses.soft(first["logits"], second["logits"], 2.0)
    mask = batch.inputs["attention_mask"]
    expected = soft
    if labels:
        expected = 0.6 * soft + 0.4 * losses.hard(first["logits"], batch.labels)
    projection = trained["projections"][1]
    assert [layer.weight.shape for layer in trained["projections"]] == [(32, 16)] * 2
    states = [{}, {}]  # type: ignore[var-annotated]
    for which, module in enumerate((student.module, teacher.module)):
        x = module.table(batch.inputs["input_ids"])
        for number, block in enumerate(module.blocks):
            inside = x
            (x,) = block(x, mask)
            states[which][number] = x
        states[which]["qkv"] = [getattr(block, kind)(inside) for kind in ("query", "key", "value")]
    hidden = [losses.hidden(trained["projections"][i](states[0][i]), states[1][i], mask) for i in range(2)]
    related = [
        losses.relations(a, b, 1, mask) for a, b in zip(states[0]["qkv"], states[1]["qkv"], strict=True)
    ]
    expected = expected + 0.5 * sum(hidden) / 2 + 0.25 * sum(related) / 3
    torch.testing.assert_close(total, expected)
    assert set(parts) == {"teacher", "hidden", "relations"} | ({"labels"} if labels else set())
    total.backward()
    assert projection.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.module.parameters())
    student.module.zero_grad()


@pytest.mark.parametrize("options", [{}, {"hidden": 1.0, **PAIRS}, {"relations": 1.0, **RELATED}])
def test_is_deterministic_and_resumes(
    base: Model, teacher: Model, tmp_path: Path, options: dict[str, Any]
) -> None:
    settings = {**QUICK, "steps": 20, **options}  # more than an epoch: the teacher's answers are kept
    one = state(distil(teacher, reader(base, 16), TEXTS, **settings))
    assert same(one, state(distil(teacher, reader(base, 16), TEXTS, **settings)))
    assert not same(one, state(distil(teacher, reader(base, 16), TEXTS, seed=1, **settings)))

    def stop(progress: Progress) -> None:
        if progress.step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(teacher, reader(base, 16), TEXTS, checkpoint=tmp_path, progress=stop, **settings)
    steps: list[int] = []
    found = distil(
        teacher,
        reader(base, 16),
        TEXTS,
        checkpoint=tmp_path,
        progress=lambda p: steps.append(p.step),
        **settings,
    )
    assert [step for step in steps if step] == list(range(14, 21))
    assert same(one, state(found))
    steps.clear()
    again = distil(
        teacher,
        reader(base, 16),
        TEXTS,
        checkpoint=tmp_path,
        progress=lambda p: steps.append(p.step),
        **settings,
    )
    assert steps == []
    assert same(one, state(again))


def test_checkpoint_of_other_data_teacher_or_loss_is_not_used(
    base: Model, teacher: Model, tmp_path: Path
) -> None:
    def steps(teacher: Model = teacher, data: Any = TEXTS, **options: Any) -> int:
        seen: list[Progress] = []
        distil(teacher, reader(base, 16), data, checkpoint=tmp_path, progress=seen.append, **QUICK, **options)
        return len(seen)

    assert steps() == 6
    assert steps() == 0
    assert steps(alpha=0.5) == 6
    assert steps(data=TEXTS[1:]) == 6
    assert steps(teacher=reader(base, 32, seed=9)) == 6


def test_keeping_the_teachers_answers_changes_nothing(
    base: Model, teacher: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    hook = teacher.module.register_forward_hook(lambda *_: calls.append(1))
    settings = {**QUICK, "steps": 24}
    kept = distil(teacher, reader(base, 16), TEXTS, **settings)
    assert len(calls) == 12 + 3  # 96 rows, 8 at a time; and looks at the shape of its output
    monkeypatch.setattr(Rows, "answer", lambda *_: None)
    asked = distil(teacher, reader(base, 16), TEXTS, **settings)
    hook.remove()
    assert len(calls) > 24
    torch.testing.assert_close(answers(kept), answers(asked), rtol=1e-3, atol=1e-4)


def test_each_sees_its_own_token_ids(base: Model, teacher: Model) -> None:
    """A student whose vocabulary is turned around learns the same as one with the teacher's."""
    import json

    content = json.loads(base.processor._content)  # type: ignore[union-attr]
    count = len(content["model"]["vocab"])
    content["model"]["vocab"] = {word: count - 1 - i for word, i in content["model"]["vocab"].items()}
    content["post_processor"] |= {"sep": ["[SEP]", count - 4], "cls": ["[CLS]", count - 3]}
    other = type(base.processor)(json.dumps(content).encode(), base.processor.inputs, pad_id=count - 1)  # type: ignore[union-attr,call-arg]
    plain, turned = reader(base, 16), reader(base, 16, processor=other)
    with torch.no_grad():
        turned.module.table.weight.copy_(plain.module.table.weight.flip(0))
    assert torch.equal(answers(plain), answers(turned))
    for options in ({}, {"hidden": 1.0, **PAIRS}):
        settings = {**QUICK, "steps": 15} | options
        first, second = (distil(teacher, each, TEXTS, **settings) for each in (plain, turned))
        assert not torch.equal(answers(first), answers(plain))
        torch.testing.assert_close(answers(first), answers(second), rtol=1e-4, atol=1e-5)


def test_texts_cut_otherwise_are_not_compared_token_by_token(base: Model, teacher: Model) -> None:
    short = type(base.processor)(base.processor._content, base.processor.inputs, 4)  # type: ignore[union-attr,call-arg]
    student = reader(base, 16, processor=short)
    with pytest.raises(InputError, match="token by token"):
        distil(teacher, student, TEXTS, hidden=1.0, **PAIRS, **QUICK)
    distil(teacher, student, TEXTS, **QUICK)


def test_vectors_are_compared_by_size_and_angle(base: Model) -> None:
    guide = reader(base, 32, outputs=8, seed=1, task="embedding")
    student = reader(base, 16, depth=1, outputs=8, seed=2, task="embedding")
    data = [{"text": row["text"], "text_pair": "a red cat", "label": 0.3} for row in TEXTS]
    taught = distil(guide, student, data, steps=120, batch_size=16, learning_rate=1e-2, precision="fp32")

    def alike(model: Model) -> float:
        return float(torch.cosine_similarity(answers(model), answers(guide)).mean())

    assert alike(student) < 0.5
    assert alike(taught) > 0.95


@pytest.mark.parametrize("outputs", [3, 1])
def test_other_outputs(base: Model, teacher: Model, outputs: int) -> None:
    with pytest.raises(InputError, match=rf"\[1, 2\] and the student .* \[1, {outputs}\]"):
        distil(teacher, reader(base, 16, outputs=outputs), TEXTS, alpha=1.0, **QUICK)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"alpha": 1.5}, "alpha"),
        ({"hidden": 1.0}, "none are named"),
        ({"relations": -1.0}, "relations"),
        ({"hidden": 1.0, "hidden_pairs": [("blocks.7", "blocks.0")]}, "The student has no layer 'blocks.7'"),
        ({"hidden": 1.0, "hidden_pairs": [("head", "head")]}, "The layer 'head' gives a tensor"),
        ({"hidden": 1.0, "hidden_pairs": [("blocks", "blocks")]}, "The layer 'blocks' is not called"),
        ({"augment": "mirror_shift"}, "mirror_shift is for pictures"),
        ({"steps": 0}, "steps is 0"),
        ({"patience": 2}, "nothing to evaluate on"),
    ],
)
def test_what_cannot_be(base: Model, teacher: Model, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        distil(teacher, reader(base, 16), TEXTS, **(QUICK | options))


def test_labels_of_one_class_and_labels_beyond_the_classes(base: Model, teacher: Model) -> None:
    for label, said in ((1, "teaches a model to answer nothing else"), (7, "The label 7 is none")):
        data = [row | {"label": label} for row in TEXTS]
        with pytest.raises(InputError, match=said):
            distil(teacher, reader(base, 16), data, **QUICK)
        distil(teacher, reader(base, 16), data, alpha=1.0, **QUICK)


def test_without_labels_alpha_is_one(base: Model, teacher: Model) -> None:
    data = [{"text": row["text"]} for row in TEXTS]
    settings = Settings(steps=6, batch_size=8, learning_rate=1e-3, precision="fp32")
    found, history = run(teacher, reader(base, 16), data, Distillation(alpha=0.3), settings)
    other = distil(teacher, reader(base, 16), TEXTS, alpha=1.0, **QUICK)
    assert same(state(found), state(other))
    assert history.notes == ["No labels were used: the student learnt from the teacher's answers alone."]


def test_best_weights_by_validation(base: Model, teacher: Model) -> None:
    settings = Settings(
        steps=60,
        batch_size=8,
        learning_rate=0.3,
        precision="fp32",
        evaluate_every=4,
        patience=3,
        weight_decay=0,
    )
    taught, history = run(
        teacher, reader(base, 16), TEXTS[:48], Distillation(alpha=1.0), settings, validation=TEXTS[48:]
    )
    assert history.best is not None
    assert history.step == history.best[0] + 12 < 60
    assert history.best[1] == max(value for _, value in history.evaluations)
    rest = TEXTS[48:]
    found = losses.soft(answers(taught, rest), answers(teacher, rest), 3.0)
    assert history.best[1] == pytest.approx(-float(found), rel=1e-4)


@pytest.fixture(scope="module")
def pictures() -> tuple[Callable[[int], Model], list[dict[str, Any]]]:
    class Eye(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            torch.manual_seed(width)
            self.conv, self.norm = nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width)
            self.head = nn.Linear(width, 3)

        def forward(self, x: Any) -> Any:
            return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

    def make(width: int) -> Model:
        return openglm.AutoModel.wrap(
            Eye(width), {"x": torch.zeros(1, 3, 16, 16)}, task="image-classification"
        )

    random = np.random.default_rng(0)
    return make, [{"x": random.normal(size=(3, 16, 16)).astype(np.float32)} for _ in range(40)]


def test_pictures(pictures: Any) -> None:
    make, data = pictures
    teacher, student = make(12), make(6)
    before = copy.deepcopy(student.module.state_dict())
    settings = {**QUICK, "steps": 60, "learning_rate": 1e-2}
    told = []

    def distance(model: Model) -> float:
        x = torch.from_numpy(np.stack([row["x"] for row in data]))
        with torch.no_grad():
            return float(losses.soft(model.module.eval()(x), teacher.module(x), 3.0))

    plain = distil(teacher, student, data, progress=told.append, **settings)
    varied = distil(teacher, student, data, augment="mirror_shift", **settings)
    assert told[0].step == 0
    assert told[-1].step == 60
    assert distance(plain) < 0.3 * distance(student)
    assert distance(varied) < 0.3 * distance(student)
    assert not same(state(plain), state(varied))
    assert same(student.module.state_dict(), before)
    assert plain.module.norm.num_batches_tracked == 60
    assert default_rate(student.module) == RATE_BATCH_NORM
    assert default_rate(nn.LayerNorm(3)) == RATE


@pytest.mark.parametrize("steps", [(4, 6), (30, 4), (4, 30)])
def test_trainings_that_share_a_teacher(base: Model, teacher: Model, steps: tuple[int, int]) -> None:
    """What came before changes nothing, and is not asked again; 30 steps go through the data twice."""
    data, asked = open_data(TEXTS), [0]

    def trained(count: int, shared: dict[str, Any] | None) -> dict[str, Any]:
        settings = Settings(steps=count, batch_size=8, learning_rate=1e-3, precision="fp32")
        student = reader(base, 16, depth=1, seed=5)
        return state(run(teacher, student, data, Distillation(), settings, shared=shared).model)

    handle = teacher.module.register_forward_hook(lambda *_: asked.__setitem__(0, asked[0] + 1))
    try:
        shared: dict[str, Any] = {}
        for count in steps:
            before = asked[0]
            found = trained(count, shared)
            once = asked[0] - before
        assert same(found, trained(steps[1], None))
        before = asked[0]
        trained(steps[1], shared)
        assert asked[0] - before <= 2 < once, "only the checks before a training ask it"
    finally:
        handle.remove()
