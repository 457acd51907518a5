"""`optimize`, from the model to the bundle, on tiny models with random weights."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import openglm
from openglm.bundle.manifest import FILE, Manifest
from openglm.bundle.store import read_manifest, sha256
from openglm.device.budget import Budget
from openglm.errors import InputError, OutputError
from openglm.model.sources import onnx_file
from openglm.search import optimize as search
from openglm.search import space
from openglm.search import trial as trials
from openglm.search.bench import Bench, Setup
from openglm.search.optimize import Progress
from openglm.search.result import Result

DEVICE = "cortex-a53-2gb"


def optimize(source: object, **more: Any) -> Result:
    settings = {"threads": 1, "calibration_samples": 2, "evaluation_samples": 4} | more
    return search.optimize(source, DEVICE, **settings)  # type: ignore[arg-type]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only two recipes are tried."""
    whole = space.schemes
    monkeypatch.setattr(space, "schemes", lambda statistics: dict(list(whole(statistics).items())[:1]))


@pytest.mark.parametrize("name", ["conv_bundle", "bert_bundle"])
def test_what_a_bundle_says(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    manifest = read_manifest(folder)
    outcomes = [item.outcome for item in manifest.candidates]
    assert outcomes.count("chosen") == 1
    assert manifest.candidates[0].recipe == ()
    chosen = manifest.candidates[outcomes.index("chosen")]
    assert manifest.recipe == chosen.recipe
    for item in manifest.candidates:
        assert item.reason.endswith(".")
        assert all(step["pass"] for step in item.recipe)
        if item.outcome == "accepted":
            assert item.timing
            assert item.speedup
            assert item.quality
    assert manifest.device["name"] == DEVICE
    assert manifest.after.size_bytes == (folder / "model.onnx").stat().st_size == chosen.size_bytes
    assert manifest.before.quality.value == pytest.approx(1.0)
    assert manifest.before.quality.value - manifest.after.quality.value <= manifest.max_drop
    assert {"openglm", "onnxruntime", "python"} <= set(manifest.versions)
    assert {layer["phase"] for layer in manifest.layers} == {"before", "after"}
    assert all(sha256(folder / path) == file.sha256 for path, file in manifest.files.items())
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert manifest.name in page


def test_recipe_can_be_applied_again(bert_bundle: Path) -> None:
    from openglm.passes.contract import parse_step

    for item in read_manifest(bert_bundle).candidates:
        assert [parse_step(step).to_recipe() for step in item.recipe] == list(item.recipe)


def test_save_and_load(conv_file: Path, tmp_path: Path, quick: None) -> None:
    result = optimize(conv_file)
    for target in ("made", "made.zip"):
        assert result.best.save(tmp_path / target) == tmp_path / target
        with openglm.load(tmp_path / target) as session:
            assert session.verify() <= 0.01
            assert session.manifest.command == "openglm.optimize(...)"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "made.zip"]


def test_work_files_go_with_the_result(
    conv_file: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = optimize(conv_file)
    assert result.best.trial.path is not None
    assert result.best.trial.path.exists()
    del result
    assert not list(tmp_path.iterdir())


def test_no_loss_allowed(bert_folder: Path) -> None:
    for item in optimize(bert_folder, max_drop=0.0).candidates:
        if item.quality and item.quality.value < 1.0:
            assert item.outcome == "refused"
            assert "0 is allowed" in item.reason


def test_a_short_model_is_measured_at_its_own_length(bert_bundle: Path) -> None:
    assert read_manifest(bert_bundle).shape["sequence"] == 64


@pytest.fixture
def labelled(conv_file: Path, tmp_path: Path) -> Path:
    """Noise, labelled with what the model says of it."""
    from openglm.runtimes.onnxruntime import Runner

    pictures = np.random.default_rng(0).standard_normal((24, 3, 16, 16), dtype=np.float32)
    labels = Runner(conv_file).run({"pixel_values": pictures})["logits"].argmax(1)
    np.savez(tmp_path / "data.npz", pixel_values=pictures, label=labels)
    return tmp_path / "data.npz"


def test_accuracy(conv_file: Path, labelled: Path, quick: None) -> None:
    result = optimize(conv_file, data=labelled, metric="accuracy", evaluation_samples=12)
    quality = result.best.candidate.quality
    assert quality is not None
    assert (quality.metric, quality.samples) == ("accuracy", 12)
    assert result.bench.baseline.value == 1.0
    assert "data.npz" in result.bench.feed.description


def test_spearman(bert_folder: Path, tmp_path: Path, quick: None) -> None:
    words = ["cat", "dog", "tree", "house", "river", "mat", "rug", "a"]
    lines = ["text\ttext_pair\tlabel"]
    lines += [f"the {word}\tthe {words[index // 2]}\t{index}" for index, word in enumerate(words)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    result = optimize(
        bert_folder, data=tmp_path / "pairs.tsv", metric="spearman", max_drop=0.5, time_limit_s=3.0
    )
    assert result.bench.baseline.metric == "spearman"
    assert result.bench.baseline.samples == 4
    assert -1 <= result.bench.baseline.value <= 1


def test_own_metric(
    conv_file: Path, labelled: Path, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_for_this_test.py").write_text("def half(outputs, labels, reference):\n    return 0.5\n")
    monkeypatch.chdir(tmp_path)
    result = optimize(conv_file, data=labelled, metric="mine_for_this_test:half")
    assert result.bench.baseline.value == 0.5


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"metric": "accuracy"}, "needs labels, and the data has none"),
        ({"metric": "acuracy"}, "There is no metric 'acuracy'"),
        ({"max_drop": -0.1}, "makes no sense"),
        ({"max_drop": float("nan")}, "makes no sense"),
        ({"time_limit_s": 0}, "leaves no time"),
        ({"time_limit_s": float("nan")}, "leaves no time"),
        ({"evaluation_samples": 0}, "At least one sample"),
        ({"threads": 0}, "0 threads cannot run"),
        ({"threads": -3}, "-3 threads cannot run"),
        ({"data": "missing.tsv"}, "There is no file"),
        ({"dims": {"sequence": 5}}, "no input dimension 'sequence'"),
        ({"data": [{"other": np.zeros(3)}]}, "The data has other where the model takes pixel_values"),
        ({"data": []}, "sample"),
    ],
)
def test_input_that_cannot_be_used(conv_file: Path, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        optimize(conv_file, **settings)


def test_time_that_is_up(conv_file: Path, tmp_path: Path) -> None:
    result = optimize(conv_file, time_limit_s=1e-6)
    assert result.candidates[0].outcome == "chosen"
    assert {item.outcome for item in result.candidates[1:]} == {"not tried"}
    assert {item.reason for item in result.candidates[1:]} == {"The time was up before it."}
    assert not result.stopped
    result.best.save(tmp_path / "made")
    assert openglm.load(tmp_path / "made").verify() == 0


def test_nothing_fits(conv_file: Path, tmp_path: Path, quick: None) -> None:
    result = search.optimize(conv_file, DEVICE, Budget(size_mb=0.0001), threads=1, evaluation_samples=2)
    assert not result.best.verdict.fits
    result.best.save(tmp_path / "made")
    assert not Manifest.model_validate(json.loads((tmp_path / "made" / FILE).read_text())).verdict_after[
        "fits"
    ]


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Ctrl-C in the given call of a function."""
    original, calls = getattr(owner, name), []

    def function(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*given, **more)

    monkeypatch.setattr(owner, name, function)


@pytest.mark.parametrize("place", ["during a trial", "between trials"])
def test_ctrl_c_keeps_what_was_judged(
    conv_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    seen = []

    def progress(told: Progress) -> None:
        seen.extend([told] if told.finished else [])
        if place == "between trials" and told.finished and len(seen) == 2:
            raise KeyboardInterrupt

    if place == "during a trial":
        interrupt(monkeypatch, trials, "_judge", 3)
    result = optimize(conv_file, progress=progress)
    assert result.stopped
    assert len(result.trials) == 3
    left = [item.outcome for item in result.candidates]
    assert left[3:] == ["not tried"] * (len(left) - 3)
    assert len(left) > 4
    assert openglm.load(result.best.save(tmp_path / "made")).verify() <= 0.01


@pytest.mark.parametrize(("owner", "name"), [(Setup, "bench"), (Bench, "fingerprint")])
def test_ctrl_c_before_anything_was_judged(
    conv_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    interrupt(monkeypatch, owner, name, 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        optimize(conv_file)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_the_bundle_is_written(
    conv_file: Path, bundle: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openglm.search import package

    result = optimize(conv_file)
    before = (bundle / FILE).read_bytes()
    interrupt(monkeypatch, package, "list_files", 2)
    with pytest.raises(KeyboardInterrupt):
        result.best.save(bundle)
    assert (bundle / FILE).read_bytes() == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    result.best.save(bundle)
    assert (bundle / FILE).read_bytes() != before


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), OSError(errno.EIO, "I/O error")], ids=repr)
def test_a_pass_that_breaks_costs_only_itself(
    conv_file: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    original, calls = trials._judge, []

    def judge(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise error
        return original(*given)

    monkeypatch.setattr(trials, "_judge", judge)
    result = optimize(conv_file)
    failed = [item for item in result.candidates if item.outcome == "failed"]
    assert len(failed) == 1
    assert type(error).__name__ in failed[0].reason
    assert "not tried" not in {item.outcome for item in result.candidates}


def test_full_disk_in_mid_search(conv_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = trials.onnx_file.write, []

    def write(*given: Any) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*given)

    monkeypatch.setattr(trials.onnx_file, "write", write)
    result = optimize(conv_file, folder=tmp_path / "study")
    assert "No space left" in result.full
    assert len(result.trials) >= 2
    assert {item.outcome for item in result.candidates[len(result.trials) :]} == {"not tried"}
    monkeypatch.setattr(trials.onnx_file, "write", original)
    again = optimize(conv_file, folder=tmp_path / "study")
    assert not again.full
    assert len(again.trials) > len(result.trials)
    judged = [item.candidate for item in result.trials[1:]]
    assert [item.candidate for item in again.trials[1 : len(result.trials)]] == judged


def test_full_disk_for_work_files(conv_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(onnx_file, "write", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OutputError, match=r"Work files cannot be written .*No space"):
        optimize(conv_file)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["copyfile", "savez_compressed", "write_text"])
def test_full_disk_for_the_bundle(
    conv_file: Path, bundle: Path, quick: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import shutil

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    result = optimize(conv_file)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    owner: dict[str, Any] = {"copyfile": shutil, "savez_compressed": np, "write_text": Path}
    monkeypatch.setattr(owner[name], name, full)
    with pytest.raises(OutputError, match="The disk is full"):
        result.best.save(bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_progress_counts_up(conv_file: Path, quick: None) -> None:
    told: list[Progress] = []
    optimize(conv_file, progress=told.append)
    done = [item.done for item in told]
    assert done == sorted(done)
    assert {item.total for item in told} == {None, 600.0}
    assert sum(item.finished is not None for item in told) == 2


def test_weights_that_are_nan(tmp_path: Path, conv_file: Path) -> None:
    import onnx

    model = onnx.load(conv_file)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if array.size > 100:
            array.reshape(-1)[0] = np.nan
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(InputError, match="NaN or infinite"):
        optimize(tmp_path / "nan.onnx")


@pytest.mark.parametrize("content", ["", "{}", '{"candidate": {}, "verdict": null, "pace": null}'])
def test_a_record_that_is_damaged(conv_file: Path, tmp_path: Path, quick: None, content: str) -> None:
    optimize(conv_file, folder=tmp_path / "study")
    with sqlite3.connect(tmp_path / "study" / "study.db") as database:
        change = "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'content'"
        assert database.execute(change, [json.dumps(content)]).rowcount
    with pytest.raises(InputError, match="of trial 0 is damaged"):
        optimize(conv_file, folder=tmp_path / "study")
