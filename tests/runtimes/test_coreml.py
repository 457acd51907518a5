"""Core ML: packages are converted and checked on any machine; only a Mac runs them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from openglm.bundle.manifest import Precision
from openglm.bundle.store import read_manifest
from openglm.errors import InputError
from openglm.model.sources import onnx_file
from openglm.runtimes.coreml import CoreML
from openglm.runtimes.engine import Source
from openglm.targets.export import compare, export

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def source(conv_file: Path) -> Source:
    return Source(conv_file, conv_file, {"batch": [1]})


@pytest.fixture(scope="module")
def package(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("coreml") / "conv.mlpackage"
    CoreML().convert(source, target, "fp32")
    return target


def copied(package: Path, folder: Path) -> Path:
    target = folder / package.name
    for file in CoreML().files(package):
        copy = folder / file.relative_to(package.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return target


def test_a_package_is_what_its_graph_is(source: Source, package: Path) -> None:
    CoreML().check(source, package, "fp32")
    assert {file.name for file in CoreML().files(package)} == {
        "Manifest.json", "conv.mlpackage.json", "model.mlmodel", "weight.bin",
    }  # fmt: skip


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_smaller_weights_are_checked_too(
    source: Source, package: Path, tmp_path: Path, precision: Precision
) -> None:
    target = tmp_path / "conv.mlpackage"
    CoreML().convert(source, target, precision)
    CoreML().check(source, target, precision)
    with pytest.raises(InputError, match="weight"):
        CoreML().check(source, target, "fp32")
    sizes = [sum(file.stat().st_size for file in each.rglob("weight.bin")) for each in (target, package)]
    assert sizes[0] < sizes[1]


def changed(source: Source, folder: Path, factor: float) -> Source:
    """The graph with all its weights multiplied."""
    model = onnx_file.read(source.plain)
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=value.name)
    path = folder / "changed.onnx"
    onnx_file.write(model, path)
    return Source(path, path, source.sizes)


def test_other_weights_are_found_out(source: Source, package: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not in it, or is another"):
        CoreML().check(changed(source, tmp_path, 1.01), package, "fp32")


def test_other_inputs_and_outputs_are_found_out(source: Source, package: Path, tmp_path: Path) -> None:
    model = onnx_file.read(source.plain)
    model.graph.outputs[0].name = "other"
    path = tmp_path / "named.onnx"
    onnx_file.write(model, path)
    with pytest.raises(InputError, match="its outputs are logits"):
        CoreML().check(Source(path, path, source.sizes), package, "fp32")
    target = copied(package, tmp_path)
    beside = target.with_name(f"{target.name}.json")
    sizes = json.loads(beside.read_text())
    sizes["inputs"][0]["shape"][-1] = 8
    beside.write_text(json.dumps(sizes))
    with pytest.raises(InputError, match="'pixel_values' has shape"):
        CoreML().check(source, target, "fp32")


@pytest.mark.parametrize("part", ["model.mlmodel", "weight.bin", "Manifest.json"])
def test_a_broken_package_is_found_out(source: Source, package: Path, tmp_path: Path, part: str) -> None:
    target = copied(package, tmp_path)
    (file,) = target.rglob(part)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="package of Core ML is not the graph"):
        CoreML().check(source, target, "fp32")


def test_texts_of_several_lengths_share_their_weights(bert_file: Path, tmp_path: Path) -> None:
    weights = []
    for lengths in ([8], [8, 16]):
        source = Source(bert_file, bert_file, {"batch": [1], "sequence": lengths})
        target = tmp_path / f"{len(lengths)}.mlpackage"
        CoreML().convert(source, target, "fp16")
        CoreML().check(source, target, "fp16")
        weights.append(sum(file.stat().st_size for file in target.rglob("weight.bin")))
    assert weights[1] < 1.2 * weights[0]


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac runs it")
def test_a_bundle_gets_what_does_not_run_here(
    bundle: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from openglm.cli.export import show

    with pytest.raises(InputError, match="on a Mac only"):
        CoreML().load(package)
    outcomes = export(bundle, ["coreml"], samples=2, rounds=5)
    target = outcomes[1].target
    assert target is not None, outcomes
    assert (target.difference, target.cosine, target.timing, target.samples) == (None, None, None, 0)
    show(outcomes)
    assert "coreml does not run on this machine" in capsys.readouterr().out
    manifest = read_manifest(bundle)
    assert manifest.targets == (target,)
    name = manifest.program.segments[0].models["coreml"]
    inside = [file for file in manifest.files if file.startswith(f"{name}/")]
    assert f"{name}/Manifest.json" in inside
    assert target.size_bytes >= sum(manifest.files[file].bytes for file in inside)
    assert "not run here" in (bundle / "report.html").read_text()
    assert [item.engine for item in compare(bundle, ["all"], samples=2, rounds=5)] == ["onnxruntime"]
    (_, refused) = compare(bundle, ["coreml"], samples=2, rounds=5)
    assert "on a Mac only" in refused.reason
    again = export(bundle, ["coreml"], precision="fp16", samples=2, rounds=5)
    assert again[1].target is not None
    assert not any(file.startswith(f"{name}/") for file in read_manifest(bundle).files) or "fp16" in name
