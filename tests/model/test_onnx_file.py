"""ONNX files: what is refused, and that what is read is written back the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from openglm.errors import InputError
from openglm.model.sources import onnx_file
from openglm.model.tensor import specs


def net(weight: np.ndarray | None = None) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[batch, 16] x) => (float[batch, 16] y)'
        " { h = MatMul(x, w)  y = Relu(h) }"
    )
    weight = np.arange(256, dtype=np.float32).reshape(16, 16) if weight is None else weight
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return proto


def external(folder: Path, location: str = "net.data") -> Path:
    """A model whose weight is in a file beside it."""
    proto = net()
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], location, 0, 1024)
    (folder / "net.data").write_bytes(proto.graph.initializer[0].raw_data)
    proto.graph.initializer[0].ClearField("raw_data")
    (folder / "net.onnx").write_bytes(proto.SerializeToString())
    return folder / "net.onnx"


def test_read_and_write(tmp_path: Path) -> None:
    path = tmp_path / "a net.onnx"
    onnx.save(net(), path)
    model = onnx_file.load(str(path))
    assert (model.name, model.task) == ("a net", "generic")
    assert [str(spec) for spec in model.inputs] == ["x: float32[batch, 16]"]
    onnx_file.write(model.graph, tmp_path / "again.onnx")
    x = np.random.default_rng(0).standard_normal((3, 16), dtype=np.float32)
    results = [
        onnxruntime.InferenceSession(str(tmp_path / name)).run(None, {"x": x})[0]
        for name in ("a net.onnx", "again.onnx")
    ]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"no model at all\n", b"PK\x03\x04" + b"\0" * 50])
def test_no_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a whole ONNX file"):
        onnx_file.read(path)


def test_cut_anywhere(tmp_path: Path) -> None:
    """A file that is cut is refused, or, cut between two fields, at least never crashes."""
    whole = net().SerializeToString()
    path = tmp_path / "net.onnx"
    refused = 0
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            onnx_file.check_finite(onnx_file.read(path))
        except InputError:
            refused += 1
    assert refused >= len(range(0, len(whole), 7)) - 1


def test_folder_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").mkdir()
    with pytest.raises(InputError, match="There is no file"):
        onnx_file.read(tmp_path / "net.onnx")


def test_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    model = onnx_file.read(path)
    assert model.graph.initializers["w"].const_value is not None
    assert model.graph.initializers["w"].const_value.numpy()[15, 15] == 255


def test_weights_lie_apart_where_they_are_to_be_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx_file.read(external(tmp_path))
    for folder, most in ((tmp_path / "small", 2000), (tmp_path / "large", 1000)):
        folder.mkdir()
        monkeypatch.setattr(onnx_file, "_MAPPED", most)
        onnx_file.write(model, folder / "net.onnx", mapped=True)
    assert [file.name for file in (tmp_path / "small").iterdir()] == ["net.onnx"]
    data = onnx_file.data_file(tmp_path / "large" / "net.onnx")
    assert data.stat().st_size >= 1024
    assert (tmp_path / "large" / "net.onnx").stat().st_size < 1024
    x = np.random.default_rng(0).standard_normal((3, 16), dtype=np.float32)
    one, other = (
        onnxruntime.InferenceSession(str(tmp_path / name / "net.onnx")).run(None, {"x": x})[0]
        for name in ("small", "large")
    )
    assert np.array_equal(one, other)


def test_external_data_is_taken_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx_file.read(external(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    onnx_file.write(model, elsewhere / "net.onnx")
    monkeypatch.setattr(onnx_file, "_LARGEST", 100)
    onnx_file.write(model, elsewhere / "large.onnx")
    assert sorted(path.name for path in elsewhere.iterdir()) == ["large.onnx", "large.onnx.data", "net.onnx"]
    x = np.random.default_rng(0).standard_normal((3, 16), dtype=np.float32)
    results = [
        onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]
        for path in (tmp_path / "net.onnx", elsewhere / "net.onnx", elsewhere / "large.onnx")
    ]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor), (
        "the model stays as it was"
    )


def test_external_data_missing(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "net.data").unlink()
    with pytest.raises(InputError, match=r"net\.data .* is missing"):
        onnx_file.read(path)


def test_external_data_too_short(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "net.data").write_bytes(b"\0" * 1023)
    with pytest.raises(InputError, match="shorter than the model says"):
        onnx_file.read(path)


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "sub/../../secret"])
def test_external_data_outside(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 2048)
    (tmp_path / "inside" / "sub").mkdir(parents=True)
    path = external(tmp_path / "inside", place)
    with pytest.raises(InputError, match="outside its own folder"):
        onnx_file.read(path)


def test_external_data_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    path = external(tmp_path / "inside")
    (tmp_path / "inside/net.data").rename(tmp_path / "secret")
    (tmp_path / "inside/net.data").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="outside its own folder"):
        onnx_file.read(path)


def test_external_data_of_a_constant_outside(tmp_path: Path) -> None:
    proto = net()
    tensor = proto.graph.initializer.pop()
    onnx.external_data_helper.set_external_data(tensor, "../secret", 0, 1024)
    tensor.ClearField("raw_data")
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=tensor))
    (tmp_path / "secret").write_bytes(b"\0" * 2048)
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside/net.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="outside its own folder"):
        onnx_file.read(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    weight = np.zeros((16, 16), np.float32)
    weight[3, 5] = bad
    onnx.save(net(weight), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="'w' holds 1 values that are NaN or infinite"):
        onnx_file.check_finite(onnx_file.read(tmp_path / "net.onnx"))


def test_weight_with_too_few_bytes(tmp_path: Path) -> None:
    proto = net()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:100]
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(InputError):
        onnx_file.check_finite(onnx_file.read(tmp_path / "net.onnx"))


@pytest.mark.parametrize(
    "kind",
    [
        None,
        ir.TensorType(ir.DataType.STRING),
        ir.TensorType(ir.DataType.INT4),
        ir.TensorType(ir.DataType.BFLOAT16),
        ir.SequenceType(ir.TensorType(ir.DataType.FLOAT)),
    ],
)
def test_an_output_that_is_no_tensor_of_numbers(kind: ir.TypeProtocol | None) -> None:
    with pytest.raises(InputError, match="'out' is not a tensor of numbers"):
        specs([ir.Value(name="out", type=kind, shape=ir.Shape([1]))])


def test_a_processor_beside_the_file(tmp_path: Path) -> None:
    tokens = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (int64[batch, 8] input_ids) => (int64[batch, 8] y)'
        " { y = Identity(input_ids) }"
    )
    onnx.save(tokens, tmp_path / "text.onnx")
    picture = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[n, 4, 4, 3] x) => (float[n, 4, 4, 3] y)'
        " { y = Identity(x) }"
    )
    onnx.save(picture, tmp_path / "picture.onnx")
    assert onnx_file.load(str(tmp_path / "text.onnx")).processor is None
    assert onnx_file.load(str(tmp_path / "picture.onnx")).processor is None

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat"])}
    tokenizer = {
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": vocabulary,
                  "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "added_tokens": [],
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    size = {"height": 4, "width": 4}
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"do_resize": True, "size": size, "do_rescale": True, "rescale_factor": 1 / 255})
    )
    made = onnx_file.load(str(tmp_path / "text.onnx")).processor
    assert made is not None
    assert made([{"text": "Cat cat"}])["input_ids"].tolist() == [[2, 4, 4, 3, 0, 0, 0, 0]]
    made = onnx_file.load(str(tmp_path / "picture.onnx")).processor
    assert made is not None
    assert made([{"image": np.full((4, 4, 3), 255, np.uint8)}])["x"].shape == (1, 4, 4, 3)
