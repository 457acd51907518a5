"""Transformers folders: exported once, kept, and refused where they are not whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from openglm.errors import InputError, OutputError
from openglm.model.auto import AutoModel
from openglm.model.model import Model
from openglm.model.sources import onnx_file, transformers_folder


@pytest.fixture
def folder(bert_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert_folder, tmp_path / "a model"))


def kept(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in (cache / "graphs").glob("*.onnx")}


def run(model: Model, texts: list[str]) -> np.ndarray:
    assert model.processor is not None
    session = onnxruntime.InferenceSession(ir.to_proto(model.graph).SerializeToString())
    return np.asarray(session.run(None, model.processor([{"text": text} for text in texts]))[0])


def test_graph_equals_the_module(bert_folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is what is compared with")
    import torch

    model = AutoModel.from_pretrained(bert_folder)
    assert (model.name, model.task) == ("tiny-bert", "embedding")
    texts = ["the cat sat on the mat.", "a dog", ""]
    found = run(model, texts)
    module = transformers.AutoModel.from_pretrained(bert_folder).eval()
    arrays = model.processor([{"text": text} for text in texts])  # type: ignore[misc]
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with torch.no_grad():
        hidden = module(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_a_decoders_tokens_see_none_behind_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is what is compared with")
    import torch

    config = transformers.GPT2Config(
        vocab_size=60, n_positions=64, n_embd=32, n_layer=2, n_head=2, num_labels=3, pad_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    module = transformers.GPT2ForSequenceClassification(config).eval()
    module.save_pretrained(tmp_path)
    tokens, mask = np.random.default_rng(0).integers(1, 60, (2, 9)), np.ones((2, 9), np.int64)
    tokens[1, 6:], mask[1, 6:] = 0, 0
    with torch.no_grad():
        expected = module(input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask)).logits
    graph = AutoModel.from_pretrained(tmp_path).graph
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    (found,) = session.run(None, {"input_ids": tokens, "attention_mask": mask})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_second_load_reads_what_is_kept(
    bert_folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    AutoModel.from_pretrained(bert_folder).graph  # noqa: B018
    monkeypatch.setattr(transformers_folder, "_export", lambda *_: pytest.fail("exported again"))
    assert run(AutoModel.from_pretrained(bert_folder), ["a cat"]).shape == (1, 64)


@pytest.mark.parametrize("damage", [b"", b"no graph", None])
def test_a_damaged_copy_is_made_again(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    graph = AutoModel.from_pretrained(bert_folder).graph
    monkeypatch.setenv("OPENGLM_CACHE", str(tmp_path))
    monkeypatch.setattr(transformers_folder, "_export", lambda *_: graph)
    AutoModel.from_pretrained(bert_folder).graph  # noqa: B018
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] if damage is None else damage)
    AutoModel.from_pretrained(bert_folder).graph  # noqa: B018
    assert path.read_bytes() == whole
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_weights_that_change_while_python_runs_are_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = AutoModel.from_pretrained(folder).graph
    exported = []

    def export(*_: Any) -> ir.Model:
        exported.append(1)
        return graph

    monkeypatch.setattr(transformers_folder, "_export", export)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    AutoModel.from_pretrained(folder).graph  # noqa: B018
    assert exported == [1]


@pytest.mark.parametrize("place", ["a file", "a file/deeper"])
def test_cache_that_cannot_be_written(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    graph = AutoModel.from_pretrained(bert_folder).graph
    (tmp_path / "a file").touch()
    monkeypatch.setenv("OPENGLM_CACHE", str(tmp_path / place))
    monkeypatch.setattr(transformers_folder, "_export", lambda *_: graph)
    with pytest.raises(OutputError, match="OPENGLM_CACHE"):
        AutoModel.from_pretrained(bert_folder).graph  # noqa: B018


def test_full_disk_leaves_no_part(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = AutoModel.from_pretrained(bert_folder).graph

    def write(_: ir.Model, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setenv("OPENGLM_CACHE", str(tmp_path))
    monkeypatch.setattr(transformers_folder, "_export", lambda *_: graph)
    monkeypatch.setattr(onnx_file, "write", write)
    with pytest.raises(OutputError, match="No space left"):
        AutoModel.from_pretrained(bert_folder).graph  # noqa: B018
    assert not list((tmp_path / "graphs").iterdir())


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_weights_that_are_missing_are_not_made_up(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(InputError, match=r"has no weights for .*layer\.2"):
        AutoModel.from_pretrained(folder).graph  # noqa: B018


def test_code_that_comes_with_a_model_is_not_run(folder: Path) -> None:
    (folder / "own.py").write_text(f"open({str(folder / 'marker')!r}, 'w')\n")
    change(
        folder / "config.json",
        architectures=["AutoModel"],
        model_type="own",
        auto_map={"AutoModel": "own.Own", "AutoConfig": "own.Own"},
    )
    with pytest.raises(InputError, match="cannot load"):
        AutoModel.from_pretrained(folder).graph  # noqa: B018
    assert not (folder / "marker").exists()


@pytest.mark.parametrize("names", ["BertModel", [5], {"a": 1}, ["NoSuchModel"]])
def test_architecture_that_is_none(folder: Path, names: Any) -> None:
    change(folder / "config.json", architectures=names)
    with pytest.raises(InputError, match="architecture"):
        AutoModel.from_pretrained(folder).graph  # noqa: B018


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"])
def test_broken_config(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"config\.json"):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"type": "a.Pooling"}]', "null"])
def test_broken_stages(folder: Path, content: str) -> None:
    (folder / "modules.json").write_text(content)
    with pytest.raises(InputError, match=r"modules\.json lists no stages"):
        AutoModel.from_pretrained(folder)


def test_stage_that_is_not_supported(folder: Path) -> None:
    (folder / "modules.json").write_text(
        '[{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "d"}]'
    )
    with pytest.raises(InputError, match="stage 'Dense'"):
        AutoModel.from_pretrained(folder)


def test_no_pooling_is_no_embedding(folder: Path) -> None:
    (folder / "modules.json").write_text('[{"type": "x.Transformer", "path": ""}]')
    assert AutoModel.from_pretrained(folder).task == "generic"


def test_without_a_tokenizer_arrays_are_taken(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert AutoModel.from_pretrained(folder).processor is None


def test_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json is broken"):
        AutoModel.from_pretrained(folder)


def test_pickled_weights_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"only pytorch_model\.bin, a pickle"):
        AutoModel.from_pretrained(folder)


def test_cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cannot load"):
        AutoModel.from_pretrained(folder).graph  # noqa: B018


def test_task_by_architecture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "modules.json").unlink()
    tasks: dict[str, str] = {
        "BertForSequenceClassification": "classification",
        "ViTForImageClassification": "image-classification",
        "GPT2LMHeadModel": "text-generation",
        "BertModel": "generic",
    }
    for architecture, task in tasks.items():
        change(folder / "config.json", architectures=[architecture])
        assert AutoModel.from_pretrained(folder).task == task
