"""`.pt2` files: read as they were saved, and no code in one ever runs."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from openglm.errors import InputError
from openglm.model.auto import AutoModel

torch = pytest.importorskip("torch", reason="torch, which reads .pt2 files, is not installed")


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
        self.register_buffer("shift", torch.ones(2))

    def forward(self, x: Any) -> Any:
        return self.layer(x) + self.shift + torch.tensor([1.0, 2.0])


@pytest.fixture(scope="session")
def saved(once: Callable[..., Path]) -> Path:
    def make(path: Path) -> None:
        torch.manual_seed(0)
        batch = torch.export.Dim("batch")
        program = torch.export.export(Net(), (torch.randn(2, 4),), dynamic_shapes={"x": {0: batch}})
        torch.export.save(program, path)

    return once("net.pt2", make)


class Malice:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


@pytest.fixture
def changed(saved: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the file with entries replaced, added, or (None) left out."""

    def make(entries: dict[str, Any]) -> Path:
        path = tmp_path / "changed.pt2"
        with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
            root = old.namelist()[0].partition("/")[0]
            for name in old.namelist():
                short = name.partition("/")[2]
                content = entries.pop(short, ...)
                if content is ...:
                    new.writestr(name, old.read(name))
                elif callable(content):
                    new.writestr(name, content(old.read(name)))
                elif content is not None:
                    new.writestr(name, content)
            for short, content in entries.items():
                new.writestr(f"{root}/{short}", content)
        return path

    return make


def test_graph_equals_the_program(saved: Path) -> None:
    model = AutoModel.from_pretrained(saved)
    assert (model.name, model.task) == ("net", "generic")
    session = onnxruntime.InferenceSession(ir.to_proto(model.graph).SerializeToString())
    program = torch.export.load(saved).module()
    for rows in (1, 5):
        x = torch.randn(rows, 4)
        found = session.run(None, {"x": x.numpy()})[0]
        np.testing.assert_allclose(found, program(x).detach().numpy(), atol=1e-6)


def test_pickled_weight(changed: Callable[..., Path], tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def pickled(content: bytes) -> str:
        config = json.loads(content)
        next(iter(config["config"].values()))["use_pickle"] = True
        return json.dumps(config)

    path = changed(
        {
            "data/weights/model_weights_config.json": pickled,
            "data/weights/weight_0": pickle.dumps(Malice(marker)),
        }
    )
    refused(path, "pickled objects", marker)


def test_custom_object(changed: Callable[..., Path], tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def custom(content: bytes) -> str:
        config = json.loads(content)
        next(iter(config["config"].values()))["path_name"] = "opaque_obj_0"
        return json.dumps(config)

    path = changed(
        {
            "data/constants/model_constants_config.json": custom,
            "data/constants/opaque_obj_0": pickle.dumps(Malice(marker)),
        }
    )
    refused(path, "pickled objects", marker)


def test_pickled_sample_inputs(changed: Callable[..., Path], tmp_path: Path) -> None:
    marker, buffer = tmp_path / "marker", io.BytesIO()
    torch.save((Malice(marker),), buffer)
    refused(changed({"data/sample_inputs/model.pt": buffer.getvalue()}), "sample inputs", marker)


@pytest.mark.parametrize("name", ["data/weights/model.pt", "data/constants/model.pt"])
def test_older_payloads(changed: Callable[..., Path], tmp_path: Path, name: str) -> None:
    marker, buffer = tmp_path / "marker", io.BytesIO()
    torch.save({"layer.weight": Malice(marker)}, buffer)
    refused(changed({name: buffer.getvalue()}), "older .pt2 format", marker)


@pytest.mark.parametrize(
    "name",
    [
        "data/aotinductor/model/wrapper.so",
        "serialized_state_dict.pt",
        "MODELS/model.json",
        "models/MODEL.json",
        "data/weights/model_WEIGHTS_config.json",
    ],
)
def test_more_than_a_graph_and_tensors(changed: Callable[..., Path], tmp_path: Path, name: str) -> None:
    refused(changed({name: b"{}"}), "holds|whole", tmp_path / "marker")


def test_two_files_of_one_name(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.pt2"
    path.write_bytes(saved.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("model.json"))
        content = archive.read(name)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(name, content)
    refused(path, "holds more than", tmp_path / "marker")


def evaluated(document: dict[str, Any], code: str, place: str) -> None:
    if place == "guard":
        document["guards_code"] = [code]
    elif place == "range":
        document["range_constraints"][code] = {"min_val": 0, "max_val": 4}
    else:
        graph = document["graph_module"]["graph"]
        key, value = next(iter(graph["tensor_values"].items()))
        size = value["sizes"][0]
        value["sizes"][0] = {"as_expr": {"expr_str": code, "hint": None}} if place == "size" else size
        if place == "name":
            graph["inputs"][0]["as_tensor"]["name"] = f"{key}={code}"


@pytest.mark.parametrize("place", ["guard", "size", "range", "name"])
@pytest.mark.parametrize("code", ["__import__('pathlib').Path({!r}).touch()", "open({!r}, 'w')"])
def test_code_where_sizes_belong(changed: Callable[..., Path], tmp_path: Path, place: str, code: str) -> None:
    marker = tmp_path / "marker"

    def edit(content: bytes) -> str:
        document = json.loads(content)
        evaluated(document, code.format(str(marker)), place)
        return json.dumps(document)

    refused(changed({"models/model.json": edit}), "could run code", marker)


def test_sizes_that_depend_on_each_other_are_plain(tmp_path: Path) -> None:
    class Pairs(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, y: Any) -> Any:
            return x + y.view(-1, 2)

    batch = torch.export.Dim("batch", max=64)
    shapes = {"x": {0: batch}, "y": {0: 2 * batch}}
    program = torch.export.export(Pairs(), (torch.randn(4, 2), torch.randn(8)), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "pairs.pt2")
    assert AutoModel.from_pretrained(tmp_path / "pairs.pt2").name == "pairs"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip"])
def test_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    refused(path, "not a whole .pt2 file", tmp_path / "marker")


def test_cut_archive(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    for share in (0.3, 0.9, 0.99):
        path.write_bytes(saved.read_bytes()[: int(saved.stat().st_size * share)])
        refused(
            path,
            "whole|older",  # the archive within it may be whole
            tmp_path / "marker",
        )


@pytest.mark.parametrize(
    "config", ["[]", '{"config": []}', '{"config": {"w": 1}}', '{"config": {"w": {}}}', "{"]
)
def test_broken_config(changed: Callable[..., Path], tmp_path: Path, config: str) -> None:
    path = changed({"data/weights/model_weights_config.json": config})
    refused(path, "not a whole .pt2 file", tmp_path / "marker")


def test_plain_pickle_named_pt2(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "net.pt2"
    torch.save(Malice(marker), path)
    refused(path, "older .pt2 format", marker)


def refused(path: Path, text: str, marker: Path) -> None:
    with pytest.raises(InputError, match=text):
        AutoModel.from_pretrained(path)
    assert not marker.exists(), "code in the file was run"
