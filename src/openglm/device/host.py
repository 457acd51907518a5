"""The device `host`: this machine, measured in about two seconds and remembered.

What is timed is what inference does: matrix products in fp32 and int8, a copy of memory, a read
from storage. What cannot be timed from here, such as power, is assumed, and its source says so.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from openglm.device.profile import Device

FORMAT = 1  # of the cached file; raised when what is measured, or how, changes
GEMM = 1024  # side of the square matrices whose product is the peak
LAYER = (128, 768, 768)  # a projection of BERT-base at sequence length 128
COPY_BYTES = 128 * 1024**2  # far above every cache
READ_BYTES = 32 * 1024**2


def measure(refresh: bool = False, cache: Path | None = None) -> Device:
    """This machine as a `Device` named "host"; its sources say what was measured and what assumed.

    The result is kept in the user's cache folder (or in the file `cache`) and used again while
    the processor, the cores and memory granted, and the versions of the libraries stay the same;
    `refresh` measures again. A cache that cannot be read or written is no error. Figures are the
    best of several runs, so that other work on the machine lowers them little.
    """
    file = cache or platformdirs.user_cache_path("openglm") / "host.json"
    key = _key()
    if not refresh and (known := _read(file, key)) is not None:
        return known
    device = _measure(file.parent)
    _write(file, key, device)
    return device


def usable_cores() -> int:
    """Cores this process may use: of the machine, less what affinity or a container's quota takes."""
    if sys.version_info >= (3, 13):
        cores = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _first_line("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and int(quota[1]) > 0:
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def ram_bytes() -> int:
    """Bytes of memory this process may use: of the machine, or of its container where that is less."""
    limits = [_physical_memory()]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if (text := _first_line(path)).isdigit():
            limits.append(int(text))
    return min(limits)


def _physical_memory() -> int:
    if sys.platform == "win32":
        import ctypes

        class Status(ctypes.Structure):
            _fields_ = (
                ("length", ctypes.c_ulong),
                ("load", ctypes.c_ulong),
                *(
                    (name, ctypes.c_ulonglong)
                    for name in ("total", "free", "page", "pf", "virtual", "vf", "ext")
                ),
            )

        status = Status(length=ctypes.sizeof(Status))
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status.total)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def processor_name() -> str:
    """What this machine's processor is called."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("model name", "cpu part")):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown"


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


# The cache


def _key() -> dict[str, Any]:
    """What a measurement holds for."""
    return {
        "format": FORMAT,
        "processor": processor_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": usable_cores(),
        "ram_bytes": ram_bytes(),
        "numpy": version("numpy"),
        "onnxruntime": version("onnxruntime"),
    }


def _read(file: Path, key: dict[str, Any]) -> Device | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return Device.model_validate(kept["device"]) if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # absent, cut off, edited, or of another version: measuring again mends them all


def _write(file: Path, key: dict[str, Any], device: Device) -> None:
    text = json.dumps({"key": key, "device": device.model_dump(mode="json")}, indent=2)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(file)  # in one step: another process sees the old file or the new one
    except OSError:
        # No room or no right to write: it is measured again next time.
        with suppress(OSError):
            part.unlink()


# The measurements


def _measure(folder: Path) -> Device:
    cores = usable_cores()
    machine = f"{processor_name()}, {cores} thread{'s' * (cores > 1)}, {date.today().isoformat()}"
    sources = {"units.cpu.cores": "measured: cores that this process may use"}
    square = (GEMM, GEMM, GEMM)
    layer = _onnx_gops(LAYER, "fp32", cores)
    # The fastest, because which library and size suits the caches best differs between processors.
    fp32 = max(_numpy_gops(), _onnx_gops(square, "fp32", cores) or 0.0, layer or 0.0)
    peaks = {"fp32": fp32}
    sources["units.cpu.peak_gops.fp32"] = (
        f"measured: the fastest of a {GEMM}-square matrix product in numpy and in ONNX Runtime "
        f"and of a layer of {' x '.join(map(str, LAYER))}, {machine}"
    )
    if (int8 := _onnx_gops(square, "int8", cores)) is not None:
        peaks["int8"] = int8
        sources["units.cpu.peak_gops.int8"] = (
            f"measured: {GEMM}-square MatMulInteger, ONNX Runtime, {machine}"
        )
    sources["units.cpu.efficiency"] = (
        "assumed: ONNX Runtime did not run the layer that is timed for it"
        if layer is None
        else "measured: that layer in ONNX Runtime, over the fp32 peak"
    )
    sources["units.cpu.power_w"] = "assumed: 8 W a core; this machine's power is not measured"
    sources["memory.ram_gb"] = "measured: memory that this process may use"
    sources["memory.app_share"] = "assumed: a desktop or server leaves most of its memory to one program"
    sources["memory.bandwidth_gb_s"] = (
        f"measured: copy of {COPY_BYTES >> 20} MiB, read and write counted, {machine}"
    )
    storage, sources["storage_read_mb_s"] = _storage(folder)
    sources["idle_power_w"] = "assumed: not measured"
    sources["thermal.sustained_fraction"] = "assumed: cooled for lasting load"
    unit = {
        "name": "cpu",
        "kind": "cpu",
        "cores": cores,
        "peak_gops": {precision: round(peak, 1) for precision, peak in peaks.items()},
        "efficiency": 0.7 if layer is None else round(layer / fp32, 2),
        "power_w": 8.0 * cores,
    }
    return Device.model_validate(
        {
            "name": "host",
            "title": f"This machine ({processor_name()}, {platform.system()})",
            "tier": "host",
            "year": date.today().year,
            "units": [unit],
            "memory": {
                "ram_gb": round(ram_bytes() / 1e9, 2),
                "app_share": 0.8,
                "bandwidth_gb_s": round(_bandwidth_gb_s(cores), 1),
            },
            "storage_read_mb_s": storage,
            "idle_power_w": 20.0,
            "thermal": {"sustained_fraction": 1.0},
            "sources": sources,
        }
    )


def _best_s(run: Callable[[], object], seconds: float) -> float:
    """The shortest of the runs that fit in `seconds`, after one that is not counted; at least three."""
    run()
    best, count = float("inf"), 0
    end = time.perf_counter() + seconds
    while count < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best, count = min(best, time.perf_counter() - start), count + 1
    return best


def _numpy_gops() -> float:
    a = np.ones((GEMM, GEMM), np.float32)
    b, out = np.ones_like(a), np.empty_like(a)
    return 2 * GEMM**3 / _best_s(lambda: np.matmul(a, b, out=out), 0.3) / 1e9


def _onnx_gops(shape: tuple[int, int, int], precision: str, threads: int) -> float | None:
    """Speed of one matrix product of `shape` (rows, inner, columns); None where it does not run."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rows, inner, columns = shape
    integer = precision == "int8"
    # u8 x s8 is the pair that ONNX Runtime's int8 kernels are written for.
    kind, weight = (TensorProto.UINT8, np.int8) if integer else (TensorProto.FLOAT, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if integer else "MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kind, [rows, inner])],
        [helper.make_tensor_value_info("y", TensorProto.INT32 if integer else kind, [rows, columns])],
        [numpy_helper.from_array(np.ones((inner, columns), weight), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feed = {"x": np.ones((rows, inner), np.uint8 if integer else np.float32)}
        best = _best_s(lambda: session.run(None, feed), 0.25)
    except Exception:
        return None  # ONNX Runtime has no common error class; a build without a kernel still has a profile
    return 2 * rows * inner * columns / best / 1e9


def _bandwidth_gb_s(threads: int) -> float:
    size = min(COPY_BYTES, ram_bytes() // 16)
    source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
    pieces = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        # numpy releases the interpreter lock while it copies, so the pieces run side by side.
        best = _best_s(lambda: list(pool.map(lambda piece: np.copyto(piece[1], piece[0]), pieces)), 0.3)
    return 2 * size / best / 1e9


def _storage(folder: Path) -> tuple[float, str]:
    """Sequential read in megabytes (10^6 bytes) a second, and its source.

    The file lies in `folder`, not with the system's temporary files, which are often kept in memory.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(os.urandom(READ_BYTES))  # random, so that no file system stores it as less
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                how = "after the system was asked to drop it from its cache"
            else:
                how = "from the system's cache, so an upper bound"
            file.seek(0)
            start = time.perf_counter()
            while file.read(1 << 20):
                pass
            elapsed = time.perf_counter() - start
        return round(READ_BYTES / elapsed / 1e6, 0), f"measured: read of a {READ_BYTES >> 20} MiB file {how}"
    except OSError:
        return 500.0, "assumed: no file could be written to read back"
