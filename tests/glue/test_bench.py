"""Judging: every task's figures from answers that are known, what is measured beside, and the page."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openglm.errors import InputError
from openglm.glue import memory, page, read, references
from openglm.glue.bench import MODEL, Bench, Result
from openglm.glue.models import Classifier, Provider
from openglm.glue.references import Reference
from openglm.glue.scores import mean, scores
from openglm.glue.tasks import TASKS, Task

THINGS = ("cat", "dog", "tree")
TINY = {
    "model_type": "bert", "vocab_size": 1100, "hidden_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 512,
}  # fmt: skip


def knowing(wrong: int = 0, classes: Callable[[Task], Any] = lambda task: task.classes) -> Provider:
    """Models that know the answers, all but the first `wrong`, and have their classes in any order."""

    def provide(task: Task) -> Classifier:
        names = classes(task)
        done = [0]

        def run(arrays: dict[str, np.ndarray]) -> np.ndarray:
            label = int(arrays["input_ids"][0, 0])
            if done[0] < wrong:
                label = 1 - label
            done[0] += 1
            if task.classes is None:
                return np.array([[2.0 * label]], np.float32)
            place = [name.lower() for name in names].index(task.classes[label]) if names else label
            return np.eye(task.outputs, dtype=np.float32)[[place]]

        def encode(row: Any) -> dict[str, np.ndarray]:
            words = " ".join(row.values())
            found = next(number for number, thing in enumerate(THINGS) if thing in words)
            ids = np.full((1, len(words.split())), found)
            return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

        return Classifier(encode, run, names, 1000, Path("no.onnx"), None)

    return provide


def judged(
    provide: Provider, slugs: Any, glue: Path, work: Path, others: Any = (), limit: int | None = None
) -> Result:
    bench = Bench(provide, others, threads=1, rounds=5, work=work, tell=lambda _: None)
    for slug in slugs:
        bench.judge(TASKS[slug], read.dev(TASKS[slug], glue), limit)
    return bench.result("a model", "made up", finetuning=False)


def test_all_nine(glue_folder: Path, tmp_path: Path) -> None:
    result = judged(knowing(), TASKS, glue_folder, tmp_path)
    assert [each.task for each in result.tasks] == [task.name for task in TASKS.values()]
    figures = {each.task: sorted(each.scores) for each in result.tasks}
    assert figures == {
        "CoLA": ["matthews"],
        "SST-2": ["accuracy"],
        "MRPC": ["accuracy", "f1"],
        "STS-B": ["pearson", "spearman"],
        "QQP": ["accuracy", "f1"],
        "MNLI": ["matched accuracy", "mismatched accuracy"],
        "QNLI": ["accuracy"],
        "RTE": ["accuracy"],
        "WNLI": ["accuracy"],
    }
    assert all(each.score == pytest.approx(1) for each in result.tasks)
    assert result.sides[0].average == pytest.approx(1)
    assert {each.task: each.rows for each in result.tasks}["MNLI"] == 32


def test_two_figures_count_as_their_mean(glue_folder: Path, tmp_path: Path) -> None:
    result = judged(knowing(wrong=2), ["mrpc", "sst-2"], glue_folder, tmp_path)
    first, second = result.tasks
    # Of 16 rows one of each class is wrong: 7 of 8 found, 7 of 8 right.
    assert first.scores == {"accuracy": 14 / 16, "f1": pytest.approx(7 / 8)}
    assert result.sides[0].average == pytest.approx((mean(first.scores) + second.score) / 2)


def test_classes_in_another_order(glue_folder: Path, tmp_path: Path) -> None:
    turned = knowing(classes=lambda task: tuple(name.upper() for name in reversed(task.classes or ())))
    assert judged(turned, ["mnli", "rte"], glue_folder, tmp_path).sides[0].average == 1
    unnamed = knowing(classes=lambda task: None)
    assert judged(unnamed, ["mnli", "rte"], glue_folder, tmp_path).sides[0].average == 1


def test_a_limit(glue_folder: Path, tmp_path: Path) -> None:
    (first,) = judged(knowing(), ["mnli"], glue_folder, tmp_path, limit=5).tasks
    assert (first.rows, first.whole) == (10, False)
    (all_of_it,) = judged(knowing(), ["rte"], glue_folder, tmp_path, limit=16).tasks
    assert all_of_it.whole


@pytest.mark.parametrize(("slug", "wanted"), [("mnli", "3 classes"), ("sts-b", "one output, a value")])
def test_a_model_of_another_task(slug: str, wanted: str, glue_folder: Path, tmp_path: Path) -> None:
    def provide(task: Task) -> Classifier:
        return knowing()(TASKS["rte"])

    with pytest.raises(InputError, match=wanted):
        judged(provide, [slug], glue_folder, tmp_path, limit=2)


def test_one_class(glue_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"All 1 labels of SST-2's dev data are 0\. Judge on more rows"):
        judged(knowing(), ["sst-2"], glue_folder, tmp_path, limit=1)
    with pytest.raises(InputError, match="MNLI's matched dev data"):
        scores(TASKS["mnli"], {"matched": np.eye(3)}, {"matched": [1, 1, 1]})


@pytest.fixture(scope="module")
def beside(glue_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A model beside a small network in RoBERTa's form."""
    pytest.importorskip("transformers")
    small = TINY | {"model_type": "roberta", "type_vocab_size": 1, "max_position_embeddings": 514}
    others = [Reference("Roberta-small", small, 0.8, {"mrpc": 0.7})]
    return judged(knowing(), ["mrpc", "rte"], glue_folder, tmp_path_factory.mktemp("work"), others)


def test_beside_others(beside: Result) -> None:
    model, other = beside.sides
    assert (model.cited, model.speedup, model.peak_memory_mb) == (False, None, None)
    assert (other.cited, other.average, other.scores) == (True, 0.8, {"MRPC": 0.7})
    assert other.latency.rounds == model.latency.rounds == 10
    assert other.speedup is not None
    assert other.peak_memory_mb is not None
    assert all(set(each.latency) == {MODEL, "Roberta-small"} for each in beside.tasks)


def test_the_page(beside: Result) -> None:
    text = page.render(beside)
    for part in ("a model on GLUE", "Roberta-small (cited)", "70.0", "accuracy 100.0, f1 100.0", "<svg"):
        assert part in text
    assert "GLUE average" not in text  # of two tasks, it compares with no published one
    assert "100.0 (2\u00a0tasks)" in text
    assert text == page.render(Result.model_validate_json(beside.model_dump_json()))


def test_a_page_on_the_model_alone(glue_folder: Path, tmp_path: Path) -> None:
    text = page.render(judged(knowing(), ["rte"], glue_folder, tmp_path, limit=4))
    assert "first 4" in text
    assert "cited" not in text


def test_shapes_as_published() -> None:
    """Parameters of the encoders, counted from their papers' shapes: 110 and 355 million."""
    transformers = pytest.importorskip("transformers")
    counts = []
    for reference in references.REFERENCES:
        given = dict(reference.config)
        config = transformers.AutoConfig.for_model(given.pop("model_type"), **given)
        width, inner = config.hidden_size, config.intermediate_size
        layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
        tables = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
        counts.append(config.num_hidden_layers * layer + tables * width)
    assert [round(count / 1e6) for count in counts] == [109, 354]


def test_memory_of_fine_tuning() -> None:
    pytest.importorskip("transformers")
    found = memory.measure(TINY)
    # The embeddings and two moments of them at the least; not a process with torch in it.
    assert found is not None
    assert 0.2 < found < 500


def test_memory_that_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    assert memory.measure(TINY) is None
