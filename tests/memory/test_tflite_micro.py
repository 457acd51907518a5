"""The offline plan in a .tflite file: as TFLite Micro reads it, and LiteRT computes what it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openglm.errors import InputError
from openglm.memory import tflite_micro
from openglm.memory.plan import spans
from openglm.memory.problem import overlap
from openglm.model.tflite.reading import read

litert = pytest.importorskip("ai_edge_litert.interpreter")


def outputs(path: Path) -> list[np.ndarray]:
    interpreter = litert.Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    random = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        numbers = random.standard_normal(detail["shape"]) * (40 if detail["dtype"] == np.int8 else 1)
        interpreter.set_tensor(detail["index"], numbers.astype(detail["dtype"]))
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


@pytest.mark.parametrize("name", ["vision_fp32", "vision_int8"])
def test_the_file_carries_the_plan_and_runs_as_before(
    name: str, tensorflow_files: Path, tmp_path: Path
) -> None:
    source, target = tensorflow_files / f"{name}.tflite", tmp_path / "planned.tflite"
    planned = tflite_micro.plan(source)
    tflite_micro.write(source, planned, target)
    graph = read(target).subgraphs[0]
    offsets = tflite_micro.offsets_in(target)
    assert tflite_micro.offsets_in(source) is None
    assert offsets is not None
    assert len(offsets) == len(graph.tensors)
    made = {index for operation in graph.operations for index in operation.outputs} | set(graph.inputs)
    assert {index for index, offset in enumerate(offsets) if offset >= 0} == made
    tensors = tflite_micro.tensor_lifetimes(graph)
    placed = [offsets[int(tensor.values[0])] for tensor in tensors]
    assert all(offset % 16 == 0 for offset in placed)
    assert overlap(spans(tensors, 16), placed) is None
    assert planned.optimal
    for before, after in zip(outputs(source), outputs(target), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_plan_replaces_the_one_before(tensorflow_files: Path, tmp_path: Path) -> None:
    source, once, twice = (
        tensorflow_files / "vision_fp32.tflite",
        tmp_path / "1.tflite",
        tmp_path / "2.tflite",
    )
    tflite_micro.write(source, tflite_micro.plan(source), once)
    wide = tflite_micro.plan(once, align=256)
    tflite_micro.write(once, wide, twice)
    offsets = tflite_micro.offsets_in(twice)
    assert offsets == [
        {int(place.values[0]): place.offset for place in wide.placements}.get(index, -1)
        for index in range(len(offsets or ()))
    ]


def test_what_tflite_micro_could_not_take(tensorflow_files: Path, tmp_path: Path) -> None:
    source = tensorflow_files / "vision_fp32.tflite"
    with pytest.raises(InputError, match="16 bytes"):
        tflite_micro.write(source, tflite_micro.plan(source, align=4), tmp_path / "out.tflite")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no size that is known beforehand"):
        tflite_micro.plan(tensorflow_files / "text_fp32.tflite")
