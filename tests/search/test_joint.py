"""The joint search on a tiny encoder: what it keeps, going on after a kill, rebuilding from a recipe."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import openglm
from openglm.bundle.store import read_manifest
from openglm.device import profile
from openglm.device.budget import Budget
from openglm.errors import InputError
from openglm.hashing import sha256
from openglm.passes.channels import ChannelPruning
from openglm.passes.contract import ModulePass
from openglm.passes.distil import Distil
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.fuse import Fuse
from openglm.passes.layers import LayerPruning
from openglm.passes.low_rank import LowRank
from openglm.passes.neurons import NeuronPruning
from openglm.passes.vocabulary import VocabularyPruning
from openglm.search.bench import Setup
from openglm.search.hunt import Hunt
from openglm.search.optimize import optimize
from openglm.search.result import Result
from openglm.search.study import FILE, NAME, NAME_FILE

torch = pytest.importorskip("torch")

DEVICE = "cortex-a53-2gb"
WORDS = "the a cat dog sat ran on under mat rug small big red blue tree house river moved"
SETTINGS: dict[str, Any] = {"threads": 1, "calibration_samples": 8, "evaluation_samples": 16}


def search(source: object, data: Path, **more: Any) -> Result:
    return optimize(source, DEVICE, data=data, **SETTINGS | more)  # type: ignore[arg-type]


def test_a_recipe_rebuilds_the_same_model(bert_folder: Path, sentences: Path, tmp_path: Path) -> None:
    recipe = (
        LayerPruning(keep=1, which="even"),
        NeuronPruning(keep=0.5),
        Distil(steps=12, batch_size=8),
        Fuse(),
        DynamicInt8(),
    )
    given = {"max_drop": 1.0, "recipe": recipe}
    first = search(bert_folder, sentences, **given)
    trial = first.trials[1]
    assert trial.accepted, trial.candidate.reason
    assert trial.candidate.recipe == tuple(step.to_recipe() for step in recipe)
    assert {"pruning", "training", "exporting", "judging", "measuring"} <= set(trial.candidate.spent)
    bundle = first.front[0].save(tmp_path / "made") if first.front[0].trial is trial else None
    bundle = bundle or next(item for item in first.front if item.trial is trial).save(tmp_path / "made")
    assert (bundle / "recipe.toml").is_file()
    again = search(bert_folder, sentences, max_drop=1.0, recipe=bundle / "recipe.toml")
    assert again.trials[1].path is not None
    assert sha256(again.trials[1].path) == sha256(bundle / "model.onnx")
    shapes = {tuple(item.dims) for item in onnx.load(bundle / "model.onnx").graph.initializer}
    assert (64, 64) in shapes, "64 of 128 neurons"
    assert (64, 128) not in shapes


def test_a_pruned_vocabulary_comes_with_its_tokenizer(
    bert_folder: Path, sentences: Path, tmp_path: Path
) -> None:
    recipe = (VocabularyPruning(minimum=10_000), Fuse())
    result = search(bert_folder, sentences, max_drop=1.0, recipe=recipe, folder=tmp_path / "study")
    trial = result.trials[1]
    assert trial.processor is not None, trial.candidate.notes
    again = search(bert_folder, sentences, max_drop=1.0, recipe=recipe, folder=tmp_path / "study")
    for found in (result, again):
        solution = next(item for item in found.front if item.trial.recipe)
        with openglm.load(solution.save(tmp_path / "made")) as session:
            assert session.verify() <= 1e-3
            assert session.processor is not None
            ids = session.processor([{"text": "the cat sat on a mat"}])["input_ids"]
            original = result.bench.model.processor([{"text": "the cat sat on a mat"}])["input_ids"]
            assert ids.shape[1] > original.shape[1], "words that went are read in pieces"
            assert session.run(text="the cat sat on a mat")["sentence_embedding"].shape == (1, 64)


TECHNIQUES = {"int8", "half its neurons", "half its heads", "low rank", "left out"}


def test_structures_are_cut_and_trained(bert_folder: Path, sentences: Path, tmp_path: Path) -> None:
    result = search(
        bert_folder, sentences, max_drop=0.2, time_limit_s=25.0, folder=tmp_path / "study", train=sentences
    )
    cut = [trial for trial in result.trials if any(isinstance(step, ModulePass) for step in trial.recipe)]
    assert cut
    assert result.best.candidate.outcome == "chosen"
    assert result.sensitivities
    # Which of them there was time for is the machine's matter.
    assert len({item.technique for item in result.sensitivities} & TECHNIQUES) > 1
    assert len({trial.candidate.code for trial in result.trials}) > 3
    assert not (tmp_path / "study" / "training").exists(), "checkpoints go when a search ends by itself"
    manifest = read_manifest(result.best.save(tmp_path / "made"))
    assert manifest.sensitivities == result.sensitivities
    assert manifest.training is not None


def test_without_data_nothing_is_cut(bert_folder: Path) -> None:
    result = optimize(bert_folder, DEVICE, **SETTINGS)
    steps = [step for trial in result.trials for step in trial.recipe]
    assert steps
    assert not any(isinstance(step, ModulePass) for step in steps)


KILLED = """
import os, signal, sys
from pathlib import Path
from openglm.search import hunt, trial
from openglm.search.optimize import optimize
judge, calls = trial._judge, []
def counted(*given):
    calls.append(1)
    if len(calls) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return judge(*given)
trial._judge = counted
optimize(sys.argv[1], "cortex-a53-2gb", data=sys.argv[2], folder=sys.argv[3], threads=1,
         calibration_samples=8, evaluation_samples=16, max_drop=0.2, time_limit_s=600,
         storage=sys.argv[5] or None)
"""


@pytest.mark.parametrize(("at", "database"), [(2, False), (5, False), (4, True)])
def test_killed_and_gone_on_with(
    bert_folder: Path, sentences: Path, tmp_path: Path, at: int, database: bool,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    study = tmp_path / "study"
    storage = request.getfixturevalue("postgresql") if database else None
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, bert_folder, sentences, study, str(at), storage or ""], timeout=300
    )
    assert ran.returncode == -signal.SIGKILL
    before = _contents(study, storage)
    assert len(before) == at - 1
    tried: list[str] = []
    result = search(
        bert_folder, sentences, max_drop=0.2, time_limit_s=12.0, folder=study, storage=storage,
        progress=lambda told: tried.append(told.finished.candidate.code) if told.finished else None,
    )  # fmt: skip
    after = _contents(study, storage)
    assert after[: len(before)] == before
    assert len(after) == len(before) + len(tried)
    codes = [item.code for item in result.candidates if item.outcome != "not tried"]
    assert len(codes) == len(set(codes)), "nothing is tried twice"


def _contents(study: Path, storage: str | None) -> list[str]:
    name = NAME if storage is None else (study / NAME_FILE).read_text(encoding="utf-8")
    query = (
        "SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id) "
        "JOIN studies USING (study_id) "
        f"WHERE key = 'content' AND study_name = '{name}' ORDER BY trial_id"
    )
    if storage is None:
        with sqlite3.connect(study / FILE) as database:
            rows = database.execute(query).fetchall()
    else:
        psycopg = pytest.importorskip("psycopg")
        with psycopg.connect(storage) as server:
            rows = server.execute(query).fetchall()
    return [str(json.loads(row[0])) for row in rows]


def test_a_search_for_other_data_is_not_gone_on_with(
    bert_folder: Path, sentences: Path, tmp_path: Path
) -> None:
    given = {"recipe": (Fuse(),), "folder": tmp_path / "study"}
    search(bert_folder, sentences, **given)
    with pytest.raises(InputError, match="begun with other largest loss"):
        search(bert_folder, sentences, **given, max_drop=0.5)
    with pytest.raises(InputError, match="begun with other data"):
        search(bert_folder, Path(_copy(sentences, tmp_path, skip=3)), **given)


def _copy(path: Path, folder: Path, skip: int) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    (folder / "other.tsv").write_text("\n".join([lines[0], *lines[skip:]]) + "\n", encoding="utf-8")
    return str(folder / "other.tsv")


def test_a_password_stays_out_of_the_bundle(conv_file: Path, tmp_path: Path) -> None:
    result = optimize(conv_file, DEVICE, recipe=(Fuse(),), **SETTINGS)
    command = "openglm optimize net.onnx --storage postgresql://me:secret@host/base --output x"
    made = result.best.save(tmp_path / "made", command=command)
    assert read_manifest(made).command == command.replace("secret", "***")


def test_training_without_data(bert_folder: Path) -> None:
    result = optimize(bert_folder, DEVICE, recipe=(Distil(steps=1), Fuse()), **SETTINGS)
    assert result.trials[1].candidate.outcome == "failed"
    assert "nothing to train on" in result.trials[1].candidate.reason


def test_an_onnx_file_is_cut(conv_file: Path) -> None:
    result = optimize(conv_file, DEVICE, recipe=(ChannelPruning(keep=0.5, multiple=2), Fuse()), **SETTINGS)
    original, pruned = (trial.candidate.size_bytes for trial in result.trials)
    assert original is not None
    assert pruned is not None
    assert pruned < original


def test_a_budget_that_nothing_meets(bert_folder: Path, sentences: Path) -> None:
    from openglm.device.budget import Budget

    result = search(bert_folder, sentences, budget=Budget(size_mb=1e-4), recipe=(Fuse(), DynamicInt8()))
    assert not result.best.verdict.fits
    unmet = [limit for limit in result.best.verdict.limits if not limit.ok]
    assert [limit.name for limit in unmet] == ["size"]
    assert result.best.candidate.code == "fuse + dynamic_wi8_ai8", "the one that misses it least"


def test_two_processes(bert_folder: Path, sentences: Path, tmp_path: Path) -> None:
    result = search(
        str(bert_folder), sentences, max_drop=0.2, time_limit_s=25.0, folder=tmp_path / "study", workers=2
    )
    assert len(result.trials) > 2
    assert result.best.trial.path is not None
    assert {"accepted", "refused", "failed"} >= {trial.candidate.outcome for trial in result.trials}
    assert not any(trial.candidate.outcome == "failed" for trial in result.trials), result.explain()
    assert openglm.load(result.best.save(tmp_path / "made")).verify() <= 0.01


def test_workers_need_a_source(bert_folder: Path, sentences: Path) -> None:
    model = openglm.AutoModel.from_pretrained(bert_folder)
    with pytest.raises(InputError, match="object of this process"):
        search(model, sentences, workers=2)
    with pytest.raises(InputError, match="0 workers"):
        search(str(bert_folder), sentences, workers=0)


def test_a_killed_worker(bert_folder: Path, sentences: Path, tmp_path: Path) -> None:
    """A trial whose process is killed is tried again by another."""
    killed: list[int | None] = []

    def kill(told: Any) -> None:
        if not killed and "fuse" in told.text:
            (worker,) = multiprocessing.active_children()
            killed.append(worker.pid)
            worker.kill()
            worker.join()

    result = search(
        str(bert_folder), sentences, recipe=(LayerPruning(keep=1, which="even"), Fuse()), max_drop=1.0,
        folder=tmp_path / "study", workers=2, progress=kill,
    )  # fmt: skip
    assert killed
    assert result.trials[1].candidate.outcome != "failed", result.trials[1].candidate.reason


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A classifier of three classes; where `twice`, two of its layers share their weights."""

    def __init__(self, twice: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.front, self.middle, self.again, self.back = (
            torch.nn.Linear(*sizes) for sizes in ((16, 64), (64, 64), (64, 64), (64, 3))
        )
        if twice:
            self.again.weight = self.middle.weight

    def forward(self, x: Any) -> Any:
        return self.back(self.again(self.middle(self.front(x).relu()).relu()).relu())


def rows(labels: Any) -> list[dict[str, Any]]:
    draws = np.random.default_rng(0)
    return [{"x": draws.normal(size=16).astype(np.float32), "label": label} for label in labels]


def classifier(**more: Any) -> Any:
    return openglm.AutoModel.wrap(Net(**more), [torch.randn(2, 16)], task="classification")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, 7] * 14, "The label 7 is none of the model's 3 classes"),
        ([1] * 40, "Every label of .* is 1"),
    ],
)
def test_labels_that_nothing_can_be_trained_on(labels: list[int], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        search(classifier(), rows(labels), folder=tmp_path / "study")  # type: ignore[arg-type]
    assert not (tmp_path / "study").exists()


def test_shared_weights(tmp_path: Path) -> None:
    """What is cut and trained keeps its outputs' names, and layers that share weights stay as they are."""
    recipe = (LowRank(keep=0.75), Distil(steps=2, batch_size=8), Fuse())
    model = classifier(twice=True)
    result = search(model, rows([0, 1, 2] * 14), recipe=recipe, max_drop=1.0)  # type: ignore[arg-type]
    trial = result.trials[1]
    assert trial.candidate.outcome != "failed", trial.candidate.reason
    (output,) = [spec.name for spec in model.outputs]
    assert set(result.bench.reference) == {output}
    assert any("share" in note or "another layer" in note for note in trial.candidate.notes)


@pytest.mark.parametrize(("rows", "offered"), [(40, False), (400, True)])
def test_exits_are_in_the_search_where_the_data_can_show_what_they_cost(
    write_classifier: Any, tmp_path: Path, rows: int, offered: bool
) -> None:
    """Of 400 rows 200 do not judge, of these 100 set gates, of these 50 test them."""
    model = write_classifier(tmp_path / "model", layers=2, classes=2)
    words = WORDS.split()
    data = [{"text": " ".join(words[number % 5 :][:4]), "label": number // 5 % 2} for number in range(rows)]
    setup = Setup(
        model=str(model), device=profile.load(DEVICE), budget=Budget(), data=data, training=None,
        metric="accuracy", max_drop=0.2, dims=None, threads=1, calibration_samples=4, evaluation_samples=8,
    )  # fmt: skip
    hunt = Hunt(setup.bench(tmp_path), tmp_path, None, 10.0, 0.0, lambda _: None)
    assert ("exits" in hunt.space.choices) == offered
    if offered:
        assert hunt.space.gates_drop == 0.1
