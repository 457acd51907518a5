"""Peak memory that `fit` predicts, beside what a process really takes on this machine.

    python benchmarks/peak_memory.py --graphs ../shared/data/phone-latency/graphs --write-docs

Networks are those of the graphs' folder that are named below, with random weights, as bundles hold them; and
an encoder in several precisions. Each is loaded and run five times in a process of its own, in ONNX Runtime
on one thread; measured is the peak of resident memory above what Python and numpy take. The constants of
`device/footprint.py` were fitted to the networks that are marked so, and to no other.

Graphs and rows are kept in build/benchmarks/peak_memory. Exits with 1 where fewer than 8 networks that no
constant was fitted to, or a half of them, are predicted within 15 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from pydantic import BaseModel

import tables
from openglm import AutoModel
from openglm.device.footprint import footprint
from openglm.memory.lifetime import peak_activation_bytes
from openglm.model.analysis.statistics import Statistics, analyse
from openglm.model.sources import onnx_file
from openglm.passes.contract import Context, GraphPass
from openglm.passes.recipe import parse

FOLDER = Path(__file__).parent.parent / "build" / "benchmarks" / "peak_memory"
FITTED = (
    "efficientnet_b0__EfficientNet-B0", "densenet121__DenseNet-121", "convnext_tiny__ConvNext-Tiny",
    "mobile_vit__Mobile-VIT", "whisper_tiny__HfWhisperEncoder", "segformer_base__Segformer-Base",
    "distil_bert_base_uncased_hf__Distil-Bert-Base-Uncased-Hf", "fcn_resnet50__FCN-ResNet50",
    "hrnet_face__HRNetFace", "squeezenet1_1__SqueezeNet-1_1", "yolov8_det__YOLOv8-Detection",
    "efficientformer__EfficientFormer",
)  # fmt: skip
UNSEEN = (
    "resnet50__ResNet50", "mnasnet05__MNASNet05", "vit__VIT", "yamnet__YamNet", "googlenet__GoogLeNet",
    "posenet_mobilenet__Posenet-Mobilenet", "shufflenet_v2__Shufflenet-v2", "regnet_y_800mf__RegNet-Y-800MF",
    "opus_mt_en_zh__OpusMTEncoder", "whisper_tiny__HfWhisperDecoder", "bisenet__BiseNet",
    "quicksrnetlarge__QuickSRNetLarge", "yolov11_det__YOLOv11-Detection",
    "unet_segmentation__Unet-Segmentation",
)  # fmt: skip
ENCODER = "all-minilm-l6-v2"
PRECISIONS = {
    "fp32": [],
    "int8": ["dynamic_wi8_ai8"],
    "8-bit weights": ["wi8_afp32"],
    "4-bit weights": ["wi4_afp32"],
}
TOKENS = {"sequence": 128}
WANTED = 0.15
CHILD = """
import sys
from pathlib import Path
import numpy
from openglm.dynamic.footprint import watched
from openglm.runtimes.onnxruntime import Runner

inputs = dict(numpy.load(sys.argv[2], allow_pickle=False))
def run(runner):
    for _ in range(5):
        runner.run(inputs)

print(watched(lambda: Runner(Path(sys.argv[1]), threads=1), run)[1].peak_mb)
"""
"""Measures a model in a process that has not imported the engine yet."""


class Row(BaseModel):
    """A network, its parts as they are analysed, and what it took, in MB (10^6 bytes)."""

    name: str
    fitted: bool
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1

    @property
    def known(self) -> str:
        return "yes" if self.fitted else "no"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--graphs", type=Path, required=True, help="a folder of .onnx graphs without weights")
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in (*FITTED, *UNSEEN):
        rows.append(measured(name.partition("__")[2], filled(given.graphs, name), {}, name in FITTED))
        print(rows[-1], flush=True)
    for precision, passes in PRECISIONS.items():
        path = quantized(precision, passes)
        rows.append(measured(f"{ENCODER}, {precision}", path, TOKENS, False))
        print(rows[-1], flush=True)
    return published(rows, given)


def filled(graphs: Path, name: str) -> Path:
    """A graph with random weights, in a file of their own."""
    target = FOLDER / f"{name}.onnx"
    if target.is_file():
        return target
    proto = onnx.load(graphs / f"{name}.onnx", load_external_data=False)
    rng = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            # All above zero, as variances have to be.
            array = rng.uniform(0.01, 0.03, tuple(tensor.dims)) if kind.kind == "f" else np.zeros(tensor.dims)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(kind), tensor.name))
    onnx_file.write(ir.from_proto(proto), target, mapped=True)
    return target


def quantized(precision: str, passes: list[str]) -> Path:
    """The encoder after a recipe, its weights in a file of their own."""
    target = FOLDER / f"{ENCODER}-{precision.replace(' ', '-')}.onnx"
    graph = AutoModel.from_pretrained(ENCODER).graph
    for step in parse([{"pass": "fuse"}, *({"pass": name} for name in passes)]):
        assert isinstance(step, GraphPass)
        graph = step.apply(graph, Context()).graph
    onnx_file.write(graph, target, mapped=True)
    return target


def measured(name: str, path: Path, dims: dict[str, int], fitted: bool) -> Row:
    """A network's row; what was measured before is taken."""
    model = onnx_file.read(path)
    statistics = analyse(model, dims)
    predicted = footprint(statistics, peak_activation_bytes(statistics.shapes)).peak / 1e6
    kept = path.with_suffix(".json")
    if not kept.is_file():
        inputs = path.with_suffix(".npz")
        np.savez(inputs, **arrays(model, statistics))  # type: ignore[arg-type]
        command = [sys.executable, "-c", CHILD, str(path), str(inputs)]
        kept.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        inputs.unlink()
    return Row(name=name, fitted=fitted, predicted=predicted, measured=json.loads(kept.read_text()))


def arrays(model: ir.Model, statistics: Statistics) -> dict[str, np.ndarray]:
    """Inputs of the sizes that were analysed."""
    rng = np.random.default_rng(0)
    found = {}
    for value in model.graph.inputs:
        if not value.is_initializer():
            assert value.dtype is not None
            kind, shape = value.dtype.numpy(), statistics.shapes.of[value].shape
            found[value.name or ""] = (
                rng.random(shape).astype(kind) if kind.kind == "f" else np.ones(shape, kind)
            )
    return found


def published(rows: list[Row], given: argparse.Namespace) -> int:
    unseen = [row for row in rows if not row.fitted]
    errors = np.array([abs(row.error) for row in unseen])
    good = int((errors <= WANTED).sum())
    table = tables.markdown(
        ["network", "constants fitted to it", "predicted MB", "measured MB", "error"],
        [
            [row.name, row.known, f"{row.predicted:.0f}", f"{row.measured:.0f}", f"{row.error:+.0%}"]
            for row in sorted(rows, key=lambda row: (row.fitted, abs(row.error)))
        ],
        left=2,
    )  # fmt: skip
    text = (
        f"{good} of {len(unseen)} networks that no constant was fitted to are predicted within {WANTED:.0%}, "
        f"the median within {np.median(errors):.1%}, the worst within {errors.max():.0%}.\n\n{table}"
    )
    packages = ("onnxruntime", "numpy")
    tables.publish("peak_memory", text, given, {name: version(name) for name in packages}, "Five runs each.")
    return 0 if good >= max(8, len(unseen) / 2) else 1


if __name__ == "__main__":
    sys.exit(main())
