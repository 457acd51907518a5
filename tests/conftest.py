"""Small models and a bundle of each, made once for all tests and processes; skipping is not passing in CI."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import glue_files
import small_models
from openglm import cli

DEVICE = "cortex-a53-2gb"


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs `openglm` with arguments in this process."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["openglm", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return Ran(int(left.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def process() -> Callable[..., subprocess.Popen[str]]:
    """Starts `openglm`, or Python code, in a process of its own."""

    def start(*arguments: object, code: str = "from openglm.cli import main; main()", **settings: Any) -> Any:
        settings.setdefault("stdout", subprocess.PIPE)
        environment = os.environ | {"COLUMNS": "120"} | settings.pop("env", {})
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.Popen(
            [item if isinstance(item, bytes) else str(item) for item in command],
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=environment,
            **settings,
        )

    return start


@pytest.fixture
def finished(process: Callable[..., subprocess.Popen[str]]) -> Callable[..., Ran]:
    """Runs what `process` starts to its end."""

    def run(*arguments: object, **settings: Any) -> Ran:
        with process(*arguments, **settings) as child:
            out, err = child.communicate(timeout=120)
        return Ran(child.returncode, out or "", err)

    return run


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`once(name, make)` gives a path that `make` has filled, by whichever test process came first."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    root.mkdir(exist_ok=True)

    def get(name: str, make: Callable[[Path], object]) -> Path:
        path, claim, done = root / name, root / f"{name}.claim", root / f"{name}.done"
        try:
            claim.mkdir()
        except FileExistsError:
            while not done.exists():
                time.sleep(0.05)
            assert path.exists(), f"{name} could not be made by another test process"
            return path
        try:
            make(path)
        finally:
            done.touch()
        return path

    return get


@pytest.fixture(scope="session", autouse=True)
def cache(once: Callable[..., Path]) -> Path:
    """Exported graphs go into a cache of the tests' own; the user's ARM emulation stays in reach."""
    from openglm.arm.install import home

    def make(path: Path) -> None:
        path.mkdir()
        if home().is_dir():
            (path / home().name).symlink_to(home())

    path = once("cache", make)
    os.environ["OPENGLM_CACHE"] = str(path)
    return path


@pytest.fixture(scope="session")
def conv_file(once: Callable[..., Path]) -> Path:
    """An .onnx file: a convolutional classifier of pictures (3, 16, 16) into four classes."""
    return once("conv.onnx", small_models.write_conv)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread: more cost more than they bring at the sizes of tests."""
    import torch

    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.fixture(scope="session")
def write_classifier(bert_folder: Path) -> Callable[..., Path]:
    """Writes the folder of a small text classifier, with `bert_folder`'s tokenizer; its random weights have
    the standard deviation `std`, if given, so that blocks change what they read."""

    def write(folder: Path, *, layers: int, classes: int, std: float | None = None) -> Path:
        import torch
        import transformers

        vocabulary = json.loads((bert_folder / "tokenizer.json").read_text(encoding="utf-8"))["model"][
            "vocab"
        ]
        config = transformers.BertConfig(
            vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=layers, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=64, num_labels=classes,
        )  # fmt: skip
        torch.manual_seed(0)
        network: Any = transformers.BertForSequenceClassification(config)
        for parameter in network.parameters():
            if std is not None and parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=std)
        network.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(bert_folder / name, folder)
        return folder

    return write


@pytest.fixture(scope="session")
def bert_folder(once: Callable[..., Path]) -> Path:
    """A transformers folder: a sentence encoder of two layers with random weights."""
    return once("tiny-bert", small_models.write_bert)


@pytest.fixture(scope="session")
def glue_folder(once: Callable[..., Path]) -> Path:
    """All nine tasks of GLUE in its own layouts, 48 rows to train on and 16 that judge.

    One word tells the label: the classes 0, 1 and 2 are about a cat, a dog and a tree.
    """
    return once("glue", glue_files.write)


@pytest.fixture(scope="session")
def tensorflow_files(once: Callable[..., Path]) -> Path:
    """A folder of small models of TensorFlow: .tflite files, and SavedModel folders."""
    return once("tensorflow", _write_tensorflow)


def _write_tensorflow(path: Path) -> None:
    script = Path(__file__).with_name("tensorflow_files.py")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    subprocess.run([sys.executable, script, path], check=True, capture_output=True, env=environment)


@pytest.fixture(scope="session")
def conv_bundle(once: Callable[..., Path], conv_file: Path) -> Path:
    """A bundle of `conv_file`; take a copy (`bundle`) to change it."""
    return once("conv-bundle", lambda path: _optimize(conv_file, path))


@pytest.fixture(scope="session")
def bert_bundle(once: Callable[..., Path], bert_folder: Path) -> Path:
    """A bundle of `bert_folder`; take a copy (`text_bundle`) to change it."""
    return once("bert-bundle", lambda path: _optimize(bert_folder, path))


def _optimize(source: Path, path: Path) -> None:
    import openglm

    found = openglm.optimize(source, DEVICE, threads=1, calibration_samples=2, evaluation_samples=4)
    found.best.save(path)


@pytest.fixture(scope="session")
def cascade_bundle(once: Callable[..., Path]) -> Path:
    """A bundle of a small model before a large one: x (rows, 8) into three classes, its data beside it.

    `today.npz` is what its threshold was set on, `shifted.npz` inputs on which the small one errs.
    """
    return once("cascade", small_models.write_cascade) / "bundle"


@pytest.fixture
def bundle(conv_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the convolutional bundle, to do what one likes to."""
    return Path(shutil.copytree(conv_bundle, tmp_path / "bundle"))


@pytest.fixture
def doubled_bundle(bundle: Path) -> Path:
    """The same with other weights, and their right hash in the manifest."""
    import json

    import numpy as np
    import onnx.numpy_helper

    from openglm.bundle.manifest import FILE
    from openglm.hashing import sha256

    model = onnx.load(bundle / "model.onnx")
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array * 2, array.dtype), tensor.name))
    onnx.save(model, bundle / "model.onnx")
    manifest = json.loads((bundle / FILE).read_text())
    file = {"sha256": sha256(bundle / "model.onnx"), "bytes": (bundle / "model.onnx").stat().st_size}
    manifest["files"]["model.onnx"] = file
    (bundle / FILE).write_text(json.dumps(manifest))
    return bundle


@pytest.fixture
def text_bundle(bert_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the sentence encoder's bundle, to do what one likes to."""
    return Path(shutil.copytree(bert_bundle, tmp_path / "text-bundle"))


_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI everything is installed: a test that was skipped there proves nothing and fails the run."""
    if os.environ.get("CI") and _skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("CI"):
        for name in _skipped:
            terminalreporter.write_line(f"FAILED because it was skipped: {name}", red=True)
