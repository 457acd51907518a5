"""NCNN on the CPU: Tencent's engine for phones, which pnnx converts to."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from ctypes.util import find_library
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from openglm.bundle.manifest import Precision
from openglm.device.host import usable_cores
from openglm.errors import InputError
from openglm.model.tensor import TensorSpec, identifier
from openglm.runtimes import batches, ncnn_files
from openglm.runtimes.buckets import beside
from openglm.runtimes.engine import Engine, Source, check_threads, reason
from openglm.runtimes.ncnn_int8 import quantize

Batch = Mapping[str, np.ndarray]
ALIKE = 0.999
"""The least cosine between a converted graph's answers and ONNX Runtime's."""
_NONE = 233
"""What pnnx writes for an axis that is not there."""
SIZE = 16
"""What an open dimension is converted at where no size of it is named."""


class Take(BaseModel):
    """What one of NCNN's inputs is made of."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Of the graph's input."""
    kind: Literal["ids", "numbers"]
    """Whether embeddings look it up (int32) or else (float32)."""
    rows: int | None
    """The axis of the batch, which NCNN does without."""


class Form(BaseModel):
    """What NCNN's files do not tell of a graph."""

    model_config = ConfigDict(frozen=True)

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    takes: tuple[Take, ...]
    """NCNN's in0, in1, ..."""
    longest: dict[str, int] = {}
    """Of open dimensions of whole numbers: beyond a table's end NCNN reads on."""
    bytes: tuple[int, int] = (0, 0)
    """The sizes of the two files: NCNN itself may crash on a cut one."""

    @classmethod
    def read(cls, target: Path) -> Form:
        """That of a model's file; raises `OSError` and `ValueError` where it is not there, or broken."""
        return cls.model_validate_json(beside(target).read_text(encoding="utf-8"))


class NCNN(Engine):
    """NCNN's two files, .param with the layers and .bin with the weights, and what they take beside them.

    One graph serves all sizes; rows of a batch run one after another. Weights in fp16 take half the room and
    are widened when they are loaded: products are in float32. How int8 is made, `ncnn_int8` tells; there is
    no int4, in which NCNN has blocks too but no fast product.
    """

    name: ClassVar[str] = "ncnn"
    title: ClassVar[str] = "NCNN"
    package: ClassVar[str] = "ncnn"
    converters: ClassVar[tuple[str, ...]] = ("pnnx", "torch")
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")
    suffix: ClassVar[str] = ".ncnn.param"

    def processors(self) -> tuple[str, ...]:
        import ncnn

        if find_library("vulkan") is None:  # ncnn would look for it in several places, and say so
            return ("CPU",)
        cards = [ncnn.get_gpu_info(place).device_name() for place in range(ncnn.get_gpu_count())]
        return "CPU", *(f"Vulkan ({card})" for card in cards)

    def convert(self, source: Source, target: Path, precision: Precision) -> None:
        with tempfile.TemporaryDirectory(prefix="openglm-") as folder:
            made = _converted(source, Path(folder), precision)
            if precision == "int8":
                quantize(made, _fed(made, source))
                _keep(made, Form.read(made))
            for file, place in zip(self.files(made), self.files(target), strict=True):
                shutil.copyfile(file, place)

    def load(self, path: Path, *, threads: int | None = None) -> Runner:
        return Runner(path, threads=threads)

    def files(self, target: Path) -> Sequence[Path]:
        return target, target.with_suffix(".bin"), beside(target)


class Runner:
    """A model loaded in NCNN."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        import ncnn

        check_threads(threads)
        self._mat = ncnn.Mat
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads or usable_cores()
        options.use_vulkan_compute = False
        for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(options, f"use_{half}", False)
        try:
            self._form = Form.read(path)
            files = (path, path.with_suffix(".bin"))
            if self._form.bytes != tuple(file.stat().st_size for file in files):
                raise ValueError("its files are not as they were exported")
            if self._net.load_param(str(files[0])) or self._net.load_model(str(files[1])):
                raise ValueError("NCNN does not take it")
        except (ValueError, OSError) as error:
            raise InputError(
                f"NCNN cannot load {path.name}: {reason(error)}.", "Export the bundle again."
            ) from error
        self.inputs = [spec.name for spec in self._form.inputs]
        first = {spec.shape[0] if spec.shape else None for spec in self._form.inputs}
        self._rows = next(iter(first)) if len(first) == 1 else None

    def run(self, arrays: Batch) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name; raises `InputError` for inputs it cannot run on."""
        found = [self._run(row) for row in self.rows(arrays)]
        if len(found) == 1:
            return found[0]
        return {spec.name: np.concatenate([each[spec.name] for each in found]) for spec in self._form.outputs}

    def rows(self, arrays: Batch) -> list[Batch]:
        """A batch's rows, as batches of one; inputs without a batch as they are."""
        if not isinstance(self._rows, str):
            return [arrays]
        count = len(arrays[self.inputs[0]])
        return [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(count)]

    def _run(self, arrays: Batch) -> dict[str, np.ndarray]:
        sizes = {
            size: arrays[spec.name].shape[axis]
            for spec in self._form.inputs
            for axis, size in enumerate(spec.shape)
        }
        for name, most in self._form.longest.items():
            if sizes[name] > most:
                raise InputError(f"The input is longer than the model takes: {name} {most}.", "Cut it.")
        extractor = self.fed(arrays)
        found = {}
        for place, spec in enumerate(self._form.outputs):
            failed, value = extractor.extract(f"out{place}")
            if failed:
                raise InputError("The model cannot run on these inputs.", "Check their shapes.")
            shape = [size if isinstance(size, int) else sizes.get(size, -1) for size in spec.shape]
            try:
                found[spec.name] = np.array(value).reshape(shape).astype(spec.dtype, copy=False)
            except ValueError as error:
                raise InputError("The model cannot run on these inputs.", "Check their shapes.") from error
        return found

    def fed(self, arrays: Batch) -> Any:
        """An extractor of NCNN's that has one row of inputs."""
        extractor = self._net.create_extractor()
        for place, take in enumerate(self._form.takes):
            array = arrays[take.name] if take.rows is None else arrays[take.name].take(0, take.rows)
            held = np.ascontiguousarray(array, np.int32 if take.kind == "ids" else np.float32)
            extractor.input(f"in{place}", self._mat(held).clone())
        return extractor


class _Way(NamedTuple):
    """A file that pnnx reads, and what it takes."""

    file: Path
    takes: Sequence[tuple[str, Literal["ids", "numbers"]]]


def _through_torch(source: Source, folder: Path) -> _Way:
    """PyTorch's script of the module that openglm makes of the graph."""
    import torch

    from openglm.model.modules.arithmetic import prepare
    from openglm.model.modules.graph_module import of_graph
    from openglm.model.sources import onnx_file

    module = of_graph(onnx_file.read(source.plain))
    names = {identifier(spec.name): spec.name for spec in source.inputs}
    takes = [(names[name], kind) for name, kind in prepare(module)]
    shapes = next(_shapes(source))
    kinds = {"ids": torch.int32, "numbers": torch.float32}
    example = tuple(torch.ones(shapes[name], dtype=kinds[kind]) for name, kind in takes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
    traced.save(str(folder / "model.pt"))
    return _Way(folder / "model.pt", takes)


def _through_onnx(source: Source, folder: Path) -> _Way:
    """The graph itself, which pnnx reads more layers of, and fewer encoders."""
    from openglm.model.sources import onnx_file

    onnx_file.write(onnx_file.read(source.plain), folder / "model.onnx")
    whole = {spec.name: spec.dtype.startswith("int") for spec in source.inputs}
    return _Way(folder / "model.onnx", [(name, "ids" if ids else "numbers") for name, ids in whole.items()])


def _converted(source: Source, folder: Path, precision: Precision) -> Path:
    """NCNN's files of a graph, by whichever way gets there first; raises `InputError` with the reasons."""
    told = []
    for way in (_through_torch, _through_onnx):
        place = folder / way.__name__
        place.mkdir()
        try:
            made = _by(way, source, place, precision)
            _check(made, source)
            return made
        except Exception as error:  # PyTorch's kinds share no base
            told.append(error.problem.removesuffix(".") if isinstance(error, InputError) else reason(error))
    raise InputError(f"NCNN cannot convert it: {'; '.join(told)}.", "Try another engine.")


def _by(way: Callable[[Source, Path], _Way], source: Source, folder: Path, precision: Precision) -> Path:
    """NCNN's files of a graph, in a folder that gets much else; raises `InputError` with the reason where
    pnnx cannot, or leaves layers that NCNN does not have."""
    import ncnn
    import pnnx

    file, takes = way(source, folder)
    types = {"ids": "i64" if file.suffix == ".onnx" else "i32", "numbers": "f32"}
    command = [str(pnnx.EXEC_PATH), str(file), f"fp16={int(precision == 'fp16')}"]
    for key, shapes in zip(("inputshape", "inputshape2"), _shapes(source), strict=False):
        given = (f"[{','.join(map(str, shapes[name]))}]{types[kind]}" for name, kind in takes)
        command.append(f"{key}={','.join(given)}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    made = folder / "model.ncnn.param"
    if done.returncode or not made.is_file():
        raise InputError(f"pnnx ended with exit code {done.returncode}", "Try another engine.")
    layers = ncnn_files.read_param(made)
    if unknown := {layer.kind for layer in layers if ncnn.layer_to_index(layer.kind) < 0}:
        raise InputError(f"it has no {', '.join(sorted(unknown))}", "Try another engine.")
    # What pnnx writes to try the graph tells which inputs lose a batch's axis.
    script = (folder / "model_ncnn.py").read_text(encoding="utf-8")
    rows = dict(re.findall(r"Mat\(in(\d+)\.numpy\(\), batch_index=(\d+)\)", script))
    rows = {place: int(axis) for place, axis in rows.items() if int(axis) != _NONE}
    made_of = [
        Take(name=name, kind=kind, rows=rows.get(str(place))) for place, (name, kind) in enumerate(takes)
    ]
    texts = {size for spec in source.inputs for size in spec.shape[1:] if spec.dtype.startswith("int")}
    longest = {name: max(sizes) for name, sizes in source.sizes.items() if name in texts}
    form = Form(inputs=source.inputs, outputs=source.outputs, takes=tuple(made_of), longest=longest)
    _keep(made, form)
    return made


def _keep(made: Path, form: Form) -> None:
    """Write what goes beside NCNN's files."""
    sizes = (made.stat().st_size, made.with_suffix(".bin").stat().st_size)
    beside(made).write_text(form.model_copy(update={"bytes": sizes}).model_dump_json(), encoding="utf-8")


def _shapes(source: Source) -> Iterator[dict[str, tuple[int, ...]]]:
    """The shapes of all inputs, for one row; once more with other sizes where any but a batch's is open."""
    first = {spec.shape[0] if spec.shape else None for spec in source.inputs}
    rows = first if len(first) == 1 else set()
    names = {size for spec in source.inputs for size in spec.shape if isinstance(size, str)} - rows
    one = {name: min(source.sizes.get(name) or (SIZE,)) for name in names}
    for sizes in (one, {name: size // 2 or 2 for name, size in one.items()})[: 2 if names else 1]:
        yield {
            spec.name: tuple(sizes.get(size, 1) if isinstance(size, str) else size for size in spec.shape)
            for spec in source.inputs
        }


def _inputs(source: Source) -> Iterator[Batch]:
    """What a converted graph is tried on."""
    for shapes in _shapes(source):
        yield {spec.name: np.ones(shapes[spec.name], spec.dtype) for spec in source.inputs}
    if source.calibration is not None:
        yield from batches.read(source.calibration)[:2]


def _check(made: Path, source: Source) -> None:
    """Raise `InputError` where a graph does not answer as ONNX Runtime does: pnnx takes what it makes of a
    graph for right."""
    from openglm.runtimes import onnxruntime

    runner, reference = Runner(made, threads=1), onnxruntime.Runner(source.plain, threads=1)
    for given in _inputs(source):
        found, expected = runner.run(given), reference.run(given)
        for name, array in expected.items():
            a, b = (np.asarray(item, np.float64).ravel() for item in (found[name], array))
            if a @ b < ALIKE * np.linalg.norm(a) * np.linalg.norm(b):
                raise InputError(f"its '{name}' is not that of ONNX Runtime", "Try another engine.")


def _fed(made: Path, source: Source) -> Iterator[Any]:
    """Extractors that have inputs to calibrate on."""
    if source.calibration is not None:
        runner = Runner(made, threads=1)
        for batch in batches.read(source.calibration):
            for row in runner.rows(batch):
                extractor = runner.fed(row)
                extractor.set_light_mode(False)  # else what a layer has read is gone
                yield extractor
