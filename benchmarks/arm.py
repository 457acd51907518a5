"""Instructions for one inference on emulated ARM cores: fp32, int8, and a recipe for low-end phones.

    openglm doctor --install arm-emulation
    python benchmarks/arm.py --data ../shared/data

An encoder and a MobileNetV2, which is trained on CIFAR-10 here, once. Counts are the same on every machine;
they are no time. Exits with 1 where a target is missed. Models and counts are kept in build/benchmarks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import cifar
import openglm
import tables
from openglm import AutoModel
from openglm.arm import install
from openglm.arm.compare import count
from openglm.arm.cpus import CPUS
from openglm.arm.emulator import Counts
from openglm.bundle.manifest import FILE
from openglm.data import Dataset, Sample
from openglm.dynamic.program import model_files, open_file
from openglm.model.sources import onnx_file
from quantize_case import by_us

FOLDER = Path(__file__).parent.parent / "build" / "benchmarks"
RECIPE = Path(__file__).with_name("low_end.toml")
DEVICE = "cortex-a53-2gb"
SIZE, HELD_OUT, CALIBRATION = 64, 2000, 256
"""Side of the pictures; of the test pictures, those that guide the recipe; training pictures for ranges."""
TOKENS = (32, 128)
LOW_END = 2.8
"""How many times fewer instructions the recipe shall take on a Cortex-A53."""

Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """A model on one input."""

    name: str
    counts: dict[str, Counts]
    """By processor."""
    accuracy: float | None = None


def counted(name: str, path: Path, batch: Batch, times: int, accuracy: float | None = None) -> Row:
    """A model's file or a bundle's manifest on every processor, `times` inferences; found once and kept."""
    depends = hashlib.sha256(f"{install.needed().packages} {install.needed().source} {times}".encode())
    for file in model_files(path):
        depends.update(file.read_bytes())
    depends.update(b"".join(array.tobytes() for array in batch.values()))
    found = {}
    for cpu in CPUS.values():
        kept = FOLDER / "arm" / f"{depends.hexdigest()[:16]}-{cpu.name}.json"
        if not kept.is_file():
            kept.write_text(json.dumps(vars(count(path, [batch], cpu, times))), encoding="utf-8")
        found[cpu.name] = Counts(**json.loads(kept.read_text(encoding="utf-8")))
        print(f"{name} on {cpu.name}: {found[cpu.name].instructions / 1e6:.2f} M instructions", flush=True)
    return Row(name, found, accuracy)


def encoder() -> list[list[Row]]:
    """all-MiniLM-L6-v2 at each number of tokens, fp32 and int8."""
    folder = FOLDER / "arm"
    fp32 = folder / "all-minilm-l6-v2.onnx"
    if not fp32.is_file():
        onnx_file.write(AutoModel.from_pretrained("all-minilm-l6-v2").graph, fp32)
    int8 = by_us(folder, fp32, [{"pass": "fuse"}, {"pass": "dynamic_wi8_ai8"}], lambda: [])
    rows = []
    for tokens in TOKENS:
        ids = np.random.default_rng(0).integers(1000, 30000, (1, tokens))
        batch = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        title = f"all-MiniLM-L6-v2, {tokens} tokens"
        rows.append(
            [
                counted(f"{title}, fp32", fp32, batch, 1),
                counted(f"{title}, dynamic_wi8_ai8", int8, batch, 1),
            ]
        )
    return rows


def network(data: Path) -> list[Row]:
    """MobileNetV2: fp32, int8, and the recipe."""
    net = cifar.trained(data, FOLDER / "mobilenetv2-64.pt", stages=cifar.SMALL)
    example = (torch.zeros(1, 3, SIZE, SIZE),)
    model = AutoModel.wrap(net, example, name="MobileNetV2", task="image-classification")
    train, test = cifar.images(data, "train"), cifar.images(data, "test")
    folder = FOLDER / "arm"
    fp32 = folder / "mobilenetv2.onnx"
    onnx_file.write(model.graph, fp32)
    steps = [{"pass": "fuse"}, {"pass": "static_wi8_ai8", "method": "entropy"}]
    int8 = by_us(folder, fp32, steps, lambda: (_batch(picture) for picture in train[0][:CALIBRATION]))
    bundle = folder / "low-end"
    if not bundle.is_dir():
        found = openglm.optimize(
            model, DEVICE, recipe=RECIPE, threads=1, metric="accuracy", max_drop=0.2,
            data=_rows("held-out", *(part[:HELD_OUT] for part in test)), train=_rows("train", *train),
            calibration_samples=CALIBRATION, evaluation_samples=HELD_OUT // 2,
        )  # fmt: skip
        found.best.save(bundle)
    named = {
        "fp32": fp32,
        "static_wi8_ai8": int8,
        "channel_pruning_0.7 + distil + static_wi8_ai8": bundle / FILE,
    }
    shown, labels = (part[HELD_OUT:] for part in test)
    rows = []
    for name, path in named.items():
        runner = open_file(path, threads=1)
        answers = [next(iter(runner.run(_batch(picture)).values())).argmax() for picture in shown]
        accuracy = float(np.mean(np.array(answers) == labels.numpy()))
        rows.append(counted(f"MobileNetV2, {name}", path, _batch(shown[0]), 3, accuracy))
    return rows


def _batch(picture: torch.Tensor) -> Batch:
    return {"pixel_values": cifar.enlarge(picture[None], SIZE).numpy()}


def _rows(part: str, pictures: torch.Tensor, labels: torch.Tensor) -> Dataset:
    """Pictures for the recipe, enlarged as they are read."""

    def read() -> Iterator[Sample]:
        for picture, label in zip(pictures, labels.tolist(), strict=True):
            yield Sample({"pixel_values": _batch(picture)["pixel_values"][0]}, label)

    return Dataset(f"CIFAR-10 {part}", read, labelled=True)


def table(groups: list[list[Row]]) -> str:
    """Millions of instructions by processor, and how many times fewer than the first of a group."""
    header = ["model", *(item for name in CPUS for item in (name, "fewer")), "accuracy"]
    lines = []
    for group in groups:
        for row in group:
            cells = [row.name]
            for name in CPUS:
                here, base = (each.counts[name].instructions for each in (row, group[0]))
                cells += [f"{here / 1e6:.2f} M", f"{base / here:.2f}x" if row is not group[0] else ""]
            lines.append([*cells, "" if row.accuracy is None else f"{row.accuracy:.4f}"])
    return tables.markdown(header, lines, left=1)


def kinds(groups: list[list[Row]]) -> str:
    """What multiplies, by processor: vector instructions of each kind."""
    header = ["model", "processor", "float", "int8", "dot product", "matrix"]
    lines = []
    for row in (group[1] for group in groups):
        for name, found in row.counts.items():
            numbers = (found.floats, found.integers, found.dots, found.matrices)
            lines.append([row.name, name, *(f"{number / 1e6:.2f} M" if number else "" for number in numbers)])
    return tables.markdown(header, lines, left=2)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds cifar10-jpeg/")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/benchmarks.md")
    given = parser.parse_args()
    emulation = install.needed()
    (FOLDER / "arm").mkdir(parents=True, exist_ok=True)

    net = network(given.data)
    groups = [net, *encoder()]
    fewer = net[0].counts["cortex-a53"].instructions / net[-1].counts["cortex-a53"].instructions
    met = fewer >= LOW_END
    verdict = f"the recipe takes at least {LOW_END:g}x fewer instructions on a Cortex-A53: {fewer:.2f}x"
    versions = ", ".join(f"{name} {number}" for name, number in emulation.packages.items())
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    text = "\n\n".join(
        [
            table(groups),
            f"- {'PASS' if met else 'MISS'}: {verdict}",
            "What multiplies in the int8 models:",
            kinds(groups),
            f"Counted with QEMU {emulation.qemu}, {versions} for ARM; threads: 1.",
            f"```sh\n{command}\n```",
        ]
    )
    print(f"\n{text}\n", flush=True)
    if given.write_docs:
        tables.write("arm", text)
    if given.json:
        records = [
            {"model": row.name, "accuracy": row.accuracy}
            | {name: vars(found) for name, found in row.counts.items()}
            for group in groups
            for row in group
        ]
        given.json.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
