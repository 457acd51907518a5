"""MNN on the CPU: Alibaba's engine for phones, which converts from ONNX."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.runtimes.engine import Engine, Source, check_threads

_SMALLER: dict[Precision, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("--fp16",),
    "int8": ("--weightQuantBits", "8", "--weightQuantAsymmetric", "0"),
    "int4": ("--weightQuantBits", "4", "--weightQuantBlock", "32"),
}
_CONVERT = "import sys, MNN, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
"""Not MNN's own command: importing MNN.tools installs a package of its makers' from the network."""


class MNN(Engine):
    """MNN's own files. Integer weights are widened when a file is loaded; products are in floats."""

    name: ClassVar[str] = "mnn"
    title: ClassVar[str] = "MNN"
    package: ClassVar[str] = "MNN"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int4")
    suffix: ClassVar[str] = ".mnn"

    def processors(self) -> tuple[str, ...]:
        return ("CPU",)

    def convert(self, source: Source, target: Path, precision: Precision) -> None:
        command = [sys.executable, "-c", _CONVERT, "-f", "ONNX", "--bizCode", "openglm"]
        command += ["--modelFile", str(source.plain), "--MNNModel", str(target), *_SMALLER[precision]]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode or not target.is_file():
            said = f"{done.stdout}\n{done.stderr}"
            raise InputError(f"MNN cannot convert it: {_reason(said)}.", "Try another engine.")

    def load(self, path: Path, *, threads: int | None = None) -> Runner:
        return Runner(path, threads=threads)


class Runner:
    """A model loaded in MNN."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        from MNN import expr, nn

        from openglm.device.host import usable_cores

        check_threads(threads)
        self._expr = expr
        settings: dict[str, Any] = {
            "backend": "CPU",
            "numThread": threads or usable_cores(),
            "precision": "high",
            # No "memory": 2, with which products are in integers: the wheel's kernels know AVX2 and no VNNI,
            # and on x86 these take as long as in floats or longer, static ones of `_tools.mnnquant` too.
        }
        self._manager = nn.create_runtime_manager((settings,))
        try:
            self._module = nn.load_module_from_file(str(path), [], [], runtime_manager=self._manager)
            info = self._module.get_info()
        except (RuntimeError, SystemError, AttributeError) as error:
            raise InputError(f"MNN cannot load {path.name}.", "Export the bundle again.") from error
        self.inputs = list(info["inputNames"])
        self.outputs = list(info["outputNames"])

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name; raises `InputError` for inputs it cannot run on."""
        given = [self._variable(arrays[name]) for name in self.inputs]
        found = self._module.forward(given)
        if len(found) != len(self.outputs):
            raise InputError("The model cannot run on these inputs.", "Check their shapes.")
        return {name: np.array(value.read()) for name, value in zip(self.outputs, found, strict=True)}

    def _variable(self, array: np.ndarray) -> Any:
        whole = array.dtype.kind in "iub"
        kind = np.int32 if whole else np.float32
        held = np.ascontiguousarray(array, kind)
        types = self._expr
        return types.const(held, list(held.shape), types.NCHW, types.int if whole else types.float)


def _reason(said: str) -> str:
    """The line of the converter's account that tells what it does not know."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "not support" in line.lower()]
    told = (telling or lines or ["it gives no reason"])[-1]
    # Before it stand the time and a line of the engine's source.
    return re.sub(r"^\[[\d:]+\] \S*:\d+: ", "", told).removesuffix(".")[:300]
