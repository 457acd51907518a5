"""Sessions: what they take, what they give, and that what they recorded is what they still give."""

from __future__ import annotations

import json
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import openglm
from openglm import hashing
from openglm.bundle.manifest import FILE
from openglm.dynamic.session import Session
from openglm.errors import InputError, VerificationError


@pytest.fixture
def texts(bert_bundle: Path) -> Session:
    return openglm.load(bert_bundle, threads=1)


@pytest.fixture
def pictures(conv_bundle: Path) -> Session:
    return openglm.load(conv_bundle, threads=1)


def embedding(session: Session, *args: Any, **named: Any) -> np.ndarray:
    return session.run(*args, **named)["sentence_embedding"]


def replaced(bundle: Path, name: str, content: bytes) -> Path:
    """The bundle with another file, its hash in the manifest put right."""
    (bundle / name).write_bytes(content)
    manifest = json.loads((bundle / FILE).read_text())
    manifest["files"][name] = {"sha256": hashing.sha256(bundle / name), "bytes": len(content)}
    (bundle / FILE).write_text(json.dumps(manifest))
    return bundle


def test_one_text_and_several(texts: Session) -> None:
    one, several = embedding(texts, text="the cat sat"), embedding(texts, text=["the cat sat", "a dog"])
    assert one.shape == (1, 64)
    assert several.shape == (2, 64)
    np.testing.assert_allclose(one[0], several[0], atol=0.05)  # another batch, other int8 ranges
    np.testing.assert_array_equal(embedding(texts, text=("the cat sat",)), one)


def test_pairs(texts: Session) -> None:
    both = embedding(texts, text=["the cat", "a dog"], text_pair=["sat", "ran"])
    assert both.shape == (2, 64)
    assert not np.array_equal(
        embedding(texts, text="the cat", text_pair="sat"), embedding(texts, text="the cat")
    )


def test_arrays_are_what_a_text_becomes(texts: Session) -> None:
    arrays = texts.processor([{"text": "the cat sat"}])
    np.testing.assert_array_equal(embedding(texts, arrays), embedding(texts, text="the cat sat"))


def test_a_long_text_is_cut(texts: Session) -> None:
    long = embedding(texts, text="cat " * 10_000)
    assert np.isfinite(long).all()
    np.testing.assert_array_equal(long, embedding(texts, text="cat " * 20_000))


@pytest.mark.parametrize("text", ["", " ", "\n", "🙂", "\ud800", "\0", "ünknown wörds"])
def test_odd_texts(texts: Session, text: str) -> None:
    assert np.isfinite(embedding(texts, text=text)).all()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"text": "a", "image": "b"},
        {"text_pair": "a"},
        {"image": "a", "text_pair": "b"},
        {"text": []},
        {"text": ["a", "b"], "text_pair": ["c"]},
        {"text": [1]},
        {"text": [None]},
        {"text": ["a"], "text_pair": [None, "b"]},
    ],
)
def test_what_does_not_go_together(texts: Session, given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        texts.run(**given)


def test_arrays_along_with_text(texts: Session) -> None:
    arrays = texts.processor([{"text": "a"}])
    for more in ({"text": "a"}, {"text_pair": "a"}, {"image": "a"}):
        with pytest.raises(InputError):
            texts.run(arrays, **more)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((1, 3, 8, 8), np.float32), r"shape \[1, 3, 8, 8\]"),
        (np.zeros((3, 16, 16), np.float32), "shape"),
        (np.array([["a"]]), "type"),
        ([[1], [2, 3]], "differ in length"),
    ],
)
def test_wrong_shape_or_type(pictures: Session, array: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        pictures.run({"pixel_values": array})


def test_wrong_names(pictures: Session) -> None:
    with pytest.raises(InputError, match="'pixel_values' is missing"):
        pictures.run({"x": np.zeros(1)})
    with pytest.raises(InputError, match="no set of inputs"):
        pictures.run([np.zeros(1)])  # type: ignore[arg-type]


def test_no_processor(pictures: Session) -> None:
    with pytest.raises(InputError, match="takes arrays only: pixel_values"):
        pictures.run(text="a")


def test_threads_give_what_one_gives(texts: Session) -> None:
    words = ["the cat sat", "a dog ran", "big red house", "small blue river"]
    expected = [embedding(texts, text=word) for word in words]
    found: dict[int, np.ndarray] = {}

    def work(index: int) -> None:
        for _ in range(5):
            found[index] = embedding(texts, text=words[index])

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, array in enumerate(expected):
        np.testing.assert_array_equal(found[index], array)


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads(conv_bundle: Path, threads: int) -> None:
    with pytest.raises(InputError, match="threads cannot run anything"):
        openglm.load(conv_bundle, threads=threads)


def test_closed(bert_bundle: Path) -> None:
    with openglm.load(bert_bundle) as session:
        session.run(text="a")
    with pytest.raises(InputError, match="The session is closed"):
        session.run(text="a")
    session.close()


def test_zip_is_unpacked_while_open(
    bert_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = Path(shutil.make_archive(str(tmp_path / "b"), "zip", bert_bundle))
    with openglm.load(path) as session:
        assert len(list(tmp_path.glob("openglm-*"))) == 1
        session.run(text="a")
    assert not list(tmp_path.glob("openglm-*"))
    openglm.load(path).run(text="a")  # never closed: it goes with the session
    assert not list(tmp_path.glob("openglm-*"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../slip", b"")
    with pytest.raises(VerificationError):
        openglm.load(path)
    assert not list(tmp_path.glob("openglm-*"))


def test_read_only_bundle(bundle: Path) -> None:
    for path in (*bundle.iterdir(), bundle):
        path.chmod(0o555 if path.is_dir() else 0o444)
    with openglm.load(bundle) as session:
        assert session.verify() <= 0.01
    bundle.chmod(0o755)


@pytest.mark.parametrize("name", ["with space", "ünï", b"\xff\xfe"])
def test_paths(bert_bundle: Path, tmp_path: Path, name: str | bytes) -> None:
    import os

    folder = tmp_path / os.fsdecode(name)
    shutil.copytree(bert_bundle, folder)
    with openglm.load(folder) as session:
        session.verify()
        session.run(text="a")


def test_verify(texts: Session, pictures: Session) -> None:
    assert texts.verify() <= 0.01
    assert pictures.verify() <= 0.01


@pytest.mark.parametrize(("rounding", "right"), [(0.0, False), (0.02, False), (0.04, True), (1e6, True)])
def test_what_a_bundle_says_of_rounding_is_allowed_twice(bundle: Path, rounding: float, right: bool) -> None:
    with np.load(bundle / "probes.npz") as file:
        recorded = {name: array.copy() for name, array in file.items()}
    output = next(name for name in recorded if "/out." in name)
    recorded[output].reshape(-1)[0] += 0.06 * np.abs(recorded[output]).max()
    np.savez(bundle.parent / "probes.npz", **recorded)
    replaced(bundle, "probes.npz", (bundle.parent / "probes.npz").read_bytes())
    manifest = json.loads((bundle / FILE).read_text()) | {"rounding": rounding}
    (bundle / FILE).write_text(json.dumps(manifest))
    with openglm.load(bundle) as session:
        if right:
            assert 0.05 < session.verify() < 0.07
        else:
            with pytest.raises(VerificationError, match=f"rounding explains {max(2 * rounding, 0.01):.2%}"):
                session.verify()


def test_no_rounding_explains_another_model(doubled_bundle: Path) -> None:
    manifest = json.loads((doubled_bundle / FILE).read_text()) | {"rounding": 1e6}
    (doubled_bundle / FILE).write_text(json.dumps(manifest))
    with openglm.load(doubled_bundle) as session, pytest.raises(VerificationError, match="25"):
        session.verify()


@pytest.mark.parametrize(
    ("change", "text"),
    [(lambda w: w * 1.5, "differ from the recorded"), (lambda w: w * np.nan, "differ from the recorded")],
)
def test_another_models_outputs(bundle: Path, change: Callable[[np.ndarray], np.ndarray], text: str) -> None:
    model = onnx.load(bundle / "model.onnx")
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and array.ndim > 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(change(array).astype(array.dtype), tensor.name))
    with (
        openglm.load(replaced(bundle, "model.onnx", model.SerializeToString())) as session,
        pytest.raises(VerificationError, match=text),
    ):
        session.verify()


@pytest.mark.parametrize(
    "signature",
    [
        "(float[n, 3, 16, 16] pixel_values) => (float[n, 3, 16, 16] other)",
        "(float[n] x) => (float[n] logits)",
    ],
)
def test_a_model_with_other_names(bundle: Path, signature: str) -> None:
    one, other = ("pixel_values", "other") if "pixel" in signature else ("x", "logits")
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g {signature} {{ {other} = Relu({one}) }}'
    )
    with (
        openglm.load(replaced(bundle, "model.onnx", proto.SerializeToString())) as session,
        pytest.raises(VerificationError, match="do not go with the model"),
    ):
        session.verify()


def test_a_model_that_does_not_load(bundle: Path) -> None:
    with pytest.raises(VerificationError, match="cannot load"):
        openglm.load(replaced(bundle, "model.onnx", b"no model"))


def test_probes_that_prove_nothing(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    for arrays in ({}, {"0/in.pixel_values": np.zeros((1, 3, 16, 16), np.float32)}, {"x": np.zeros(1)}):
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with (
            openglm.load(replaced(bundle, "probes.npz", path.read_bytes())) as session,
            pytest.raises(VerificationError),
        ):
            session.verify()


def test_pickles_in_probes_are_not_read(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, **{"0/in.pixel_values": np.array([{}], object)})  # type: ignore[arg-type]
    with (
        openglm.load(replaced(bundle, "probes.npz", path.read_bytes())) as session,
        pytest.raises(VerificationError, match="allow_pickle"),
    ):
        session.verify()


def test_tokenizer_that_is_gone_from_the_bundle(text_bundle: Path) -> None:
    (text_bundle / "tokenizer.json").unlink()
    with pytest.raises(VerificationError, match=r"lacks its file tokenizer\.json"):
        openglm.load(text_bundle)
