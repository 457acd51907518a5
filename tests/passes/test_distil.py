"""The pass against `openglm.distil`, and how blocks are paired."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import openglm  # noqa: E402
from openglm.data import open_data  # noqa: E402
from openglm.errors import InputError  # noqa: E402
from openglm.model.model import Model  # noqa: E402
from openglm.passes.contract import Context, parse_step  # noqa: E402
from openglm.passes.distil import Distil, paired  # noqa: E402

DATA = open_data(
    [{"text": f"the {a} {b}"} for a in ("cat", "dog", "tree", "house") for b in ("sat", "ran", "ate")]
)


@pytest.fixture(scope="module")
def teacher(bert_folder: Path) -> Model:
    """With weights larger than a fresh initialisation's, whose blocks change next to nothing."""
    model = openglm.AutoModel.from_pretrained(bert_folder)
    module = copy.deepcopy(model.module)
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.with_module(module)


@pytest.fixture(scope="module")
def student(teacher: Model) -> Model:
    """The teacher's second block alone."""
    module = copy.deepcopy(teacher.module)
    del module.model.encoder.layer[0]
    return teacher.with_module(module)


def outputs(model: Model) -> Any:
    arrays = model.processor([sample.inputs for sample in DATA])  # type: ignore[misc]
    with torch.no_grad():
        return model.module(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def test_is_what_distil_gives(teacher: Model, student: Model) -> None:
    before = {name: tensor.clone() for name, tensor in student.module.state_dict().items()}
    config = Distil(steps=40, batch_size=6, learning_rate=1e-3, hidden=0.5, relations=0.5)
    told: list[tuple[float, str]] = []
    context = Context(teacher=teacher, training=DATA, trained=lambda *words: told.append(words))
    found = config.apply(student, context)
    assert found.changed
    block, other = (f"model.encoder.layer.{index}" for index in (0, 1))
    qkv = [
        tuple(f"{name}.attention.self.{kind}" for kind in ("query", "key", "value"))
        for name in (block, other)
    ]
    same: Any = openglm.distil(
        teacher, student, DATA, steps=40, batch_size=6, learning_rate=1e-3, hidden=0.5, relations=0.5,
        hidden_pairs=[(block, other)], relation_pairs=[(qkv[0], qkv[1])],
    )  # fmt: skip
    assert torch.equal(outputs(found.model), outputs(same))
    own = student.module.state_dict()
    assert own.keys() == before.keys()
    assert all(torch.equal(before[name], own[name]) for name in own)
    far, near = (torch.dist(outputs(model), outputs(teacher)) for model in (student, found.model))
    assert near < 0.6 * far
    assert told[-1][0] == 1
    assert told[-1][1].startswith("step 40 of 40, loss 0.")
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert any("labels" in note for note in found.notes)


def test_teachers_answers_are_told_of(teacher: Model, student: Model) -> None:
    told: list[tuple[float, str]] = []
    context = Context(teacher=teacher, training=DATA, trained=lambda *words: told.append(words))
    Distil(steps=4, batch_size=6).apply(student, context)
    assert told[:2] == [
        (0, "the teacher has answered 50% of the samples"),
        (0, "the teacher has answered 100% of the samples"),
    ]
    assert len(told) == 6


def test_keeps_its_state(teacher: Model, student: Model, tmp_path: Path) -> None:
    told: list[float] = []
    context = Context(
        teacher=teacher, training=DATA, checkpoint=tmp_path, trained=lambda share, _: told.append(share)
    )
    first = Distil(steps=3).apply(student, context)
    assert told
    told.clear()
    assert torch.equal(outputs(Distil(steps=3).apply(student, context).model), outputs(first.model))
    assert not told


@given(st.integers(1, 24), st.integers(1, 24))
def test_blocks_are_paired_evenly_and_last_with_last(students: int, teachers: int) -> None:
    pairs = paired(students, teachers)
    assert [first for first, _ in pairs] == list(range(students))
    assert pairs[-1] == (students - 1, teachers - 1)
    for first, second in pairs:
        assert 0 <= second < teachers
        assert abs((second + 1) / teachers - (first + 1) / students) < 1 / teachers


def test_blocks_of_usual_depths() -> None:
    assert paired(3, 6) == [(0, 1), (1, 3), (2, 5)]
    assert paired(4, 4) == [(i, i) for i in range(4)]


def test_what_is_needed(teacher: Model, student: Model) -> None:
    with pytest.raises(InputError, match="data to train on"):
        Distil().apply(student, Context(teacher=teacher))
    with pytest.raises(InputError, match="needs a teacher"):
        Distil().apply(student, Context(training=DATA))


def test_layers_to_compare_are_needed(teacher: Model) -> None:
    class Plain(torch.nn.Module):
        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return input_ids.float()

    plain = replace(teacher.with_module(Plain()), task="generic")
    for config in (Distil(hidden=1.0), Distil(relations=1.0)):
        with pytest.raises(InputError, match="No transformer blocks"):
            config.apply(plain, Context(teacher=teacher, training=DATA))


def test_recipe() -> None:
    config = Distil(steps=50, hidden=0.5)
    assert parse_step(config.to_recipe()) == config
    assert config.code == "distil_50"
    assert Distil.needs_training
    for wrong in ({"temperature": 0}, {"alpha": 2}, {"steps": 0}, {"augment": "flip"}, {"hidden": -1}):
        with pytest.raises(InputError):
            parse_step({"pass": "distil", **wrong})
