"""ONNX Runtime, on the CPU or on another processor that its build knows: an "execution provider"."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.runtimes.engine import Engine, Runs, Source, check_threads

NAME = "onnxruntime"
CPU = "CPU"
_PROVIDER = "ExecutionProvider"

_EXACT = "session.x64quantprecision"
_PROBE = bytes.fromhex(
    "08083a560a180a01780a0177120179220d4d61744d756c496e74656765721201672a0d0802080110034201774a027f7f"
    "5a130a0178120e0a0c080212080a0208010a02080262130a0179120e0a0c080612080a0208010a02080142040a00100d"
)
"""The graph y = MatMulInteger(x, [[127], [127]]), x being (1, 2) in uint8."""

_TWICE = "Attempt to replace the existing tensor"
"""What ONNX Runtime 1.30 fails with where it makes the exact kernels' form of one weight twice."""


class OnnxRuntime(Engine):
    """The engine that bundles are made with: it takes a graph as it is."""

    name: ClassVar[str] = NAME
    title: ClassVar[str] = "ONNX Runtime"
    package: ClassVar[str] = "onnxruntime"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int4")
    suffix: ClassVar[str] = ".onnx"
    chooses: ClassVar[bool] = True

    @property
    def install(self) -> str:
        return "pip install openglm"

    def processors(self) -> tuple[str, ...]:
        import onnxruntime

        return tuple(name.removesuffix(_PROVIDER) for name in onnxruntime.get_available_providers())

    def convert(self, source: Source, target: Path, precision: Precision) -> None:
        from openglm.model.sources import onnx_file  # what runs a bundle reads no graph

        onnx_file.write(onnx_file.read(source.graph), target, mapped=True)

    def files(self, target: Path) -> Sequence[Path]:
        data = target.with_name(f"{target.name}.data")
        return (target, data) if data.is_file() else (target,)

    def load(self, path: Path, *, threads: int | None = None) -> Runner:
        return Runner(path, threads=threads, arena=self.arena, processor=self.processor or CPU)

    def load_each(self, paths: Sequence[Path], *, threads: int | None = None) -> list[Runs]:
        if not self.arena or len(paths) == 1:
            return super().load_each(paths, threads=threads)
        processor = self.processor or CPU
        with _one_arena():
            return [Runner(path, threads=threads, shared=True, processor=processor) for path in paths]

    def placed(self, path: Path) -> Mapping[str, Sequence[str]]:
        return Runner(path, threads=1, processor=self.processor or CPU).placed()


class Runner:
    """A model file loaded in ONNX Runtime.

    `threads` are the threads within an operator, all of the machine's where None; `arena` keeps
    memory between runs, one that is `shared` for all that are loaded within `_one_arena`. What `processor`
    does not know, the CPU runs. Raises `InputError` for a file the engine does not take, and where the
    processor cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        arena: bool = True,
        shared: bool = False,
        processor: str = CPU,
    ) -> None:
        import onnxruntime

        check_threads(threads)
        self._processor = processor
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = arena
        if shared:
            options.add_session_config_entry("session.use_env_allocators", "1")
        # A pattern is a second block for all activations, beside the first run's chunks, and saves no time.
        options.enable_mem_pattern = False
        # Threads that went on spinning between runs would slow whatever is measured or run beside.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if _overflows():
            # Answers would not be a phone's. Where it is not needed it nearly halves the speed of AVX512.
            options.add_session_config_entry(_EXACT, "1")
        try:
            self._session = _session(path, options, processor)
        except Exception as error:  # the engine's own kinds share no base
            raise InputError(
                f"ONNX Runtime cannot load {path.name}: {_reason(error)}.",
                "Check that the model is whole and that its operators are known to this engine.",
            ) from error
        if f"{processor}{_PROVIDER}" not in self._session.get_providers():
            raise InputError(
                f"ONNX Runtime cannot use {processor} on this machine.", "Check its driver and libraries."
            )
        self.inputs = [item.name for item in self._session.get_inputs()]
        self.outputs = [item.name for item in self._session.get_outputs()]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name; raises `InputError` for inputs it cannot run on."""
        try:
            found: list[Any] = self._session.run(self.outputs, dict(arrays))
        except Exception as error:
            raise InputError(
                f"The model cannot run on these inputs: {_reason(error)}.",
                "Check their shapes, and that text is not longer than the model takes.",
            ) from error
        return dict(zip(self.outputs, found, strict=True))

    def placed(self) -> dict[str, list[str]]:
        """The operators, as the engine has joined them, by what runs them, the processor that was asked for
        first; empty for versions before 1.24, which do not tell."""
        if not hasattr(self._session, "get_provider_graph_assignment_info"):
            return {}
        found: dict[str, set[str]] = {self._processor: set()}
        for part in self._session.get_provider_graph_assignment_info():
            operators = found.setdefault(part.ep_name.removesuffix(_PROVIDER), set())
            operators |= {node.op_type for node in part.get_nodes()}
        return {name: sorted(operators) for name, operators in found.items()}


@contextmanager
def _one_arena() -> Iterator[None]:
    """What is loaded meanwhile as `shared` has one arena, which goes with the last of it.

    The segments of a program never run at once. With an arena each, they would hold memory for each, and
    write where nothing is in the processor's cache any more.
    """
    import onnxruntime

    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(place, None)
    try:
        yield
    finally:  # an empty one in its place, or the process would keep this one for good
        onnxruntime.create_and_register_allocator(place, None)


@cache
def _overflows() -> bool:
    """Whether the engine adds pairs of int8 products in 16 bits on this processor, which may overflow: it
    does on x86 without VNNI."""
    import onnxruntime

    session = onnxruntime.InferenceSession(_PROBE, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((1, 2), 255, np.uint8)})
    return int(found[0, 0]) != 2 * 255 * 127


def _session(path: Path, options: Any, processor: str) -> Any:
    """The engine's session; with a warning, without the exact kernels, where it fails to make these."""
    import onnxruntime

    providers = list(dict.fromkeys([f"{processor}{_PROVIDER}", f"{CPU}{_PROVIDER}"]))

    def load() -> Any:
        return onnxruntime.InferenceSession(_named(path), options, providers=providers)

    try:
        return load()
    except Exception as error:
        if _TWICE not in str(error):
            raise
    options.add_session_config_entry(_EXACT, "0")
    session = load()
    warnings.warn(
        f"Layers of {path.name} share weights, for which ONNX Runtime has no exact int8 kernels on this "
        "processor: large sums may overflow, and answers differ from those of a phone.",
        RuntimeWarning,
        stacklevel=3,
    )
    return session


def _named(path: Path) -> str | bytes:
    """What the engine opens a file by: its path, or its content where the path is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return str(path)


def version() -> str:
    """The engine's version."""
    import onnxruntime

    return str(onnxruntime.__version__)


def _reason(error: Exception) -> str:
    # "[ONNXRuntimeError] : 1 : FAIL : Load model from x failed:..." ends in the reason.
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.rsplit(" : ", 1)[-1].removesuffix(".")[:300]
