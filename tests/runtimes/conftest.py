"""Graphs and networks that several engines convert."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from openglm.model.sources import onnx_file
from openglm.passes.contract import Context
from openglm.passes.dequantize import Dequantize


@pytest.fixture(scope="session")
def static_nets(once: Callable[..., Path]) -> Path:
    """A folder of two networks for pictures (1, 3, 32, 32), as blocks of ResNet ("residual") and of
    MobileNetV2 ("separable"): NAME.onnx in integers, NAME.plain.onnx in the floats that these mean."""
    return once("static-nets", _write)


def _write(folder: Path) -> None:
    import torch
    from torch import nn

    from openglm.model.sources.module import export
    from openglm.passes.static_wi8_ai8 import StaticInt8

    class Net(nn.Module):
        def __init__(self, block: nn.Module, act: nn.Module) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), act)
            self.block = block
            self.last = nn.Sequential(nn.Conv2d(64, 128, 3, 2, 1), act, nn.Conv2d(128, 128, 1), act)
            self.classifier = nn.Linear(128, 10)

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            x = self.first(pixel_values)
            return self.classifier(self.last(x + self.block(x)).mean((2, 3)))

    torch.manual_seed(0)
    blocks = {
        "residual": (
            nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1)),
            nn.ReLU(),
        ),
        "separable": (
            nn.Sequential(
                nn.Conv2d(64, 128, 1), nn.ReLU6(), nn.Conv2d(128, 128, 3, 1, 1, groups=128), nn.ReLU6(),
                nn.Conv2d(128, 64, 1),
            ),
            nn.ReLU6(),
        ),
    }  # fmt: skip
    folder.mkdir()
    inputs = [{"pixel_values": torch.randn(1, 3, 32, 32).numpy()} for _ in range(8)]
    for name, (block, act) in blocks.items():
        net = Net(block, act).eval()
        graph = export(net, {"pixel_values": torch.randn(1, 3, 32, 32)}, output_names=["logits"])
        made = StaticInt8().apply(graph, Context(calibration=lambda: iter(inputs))).graph
        onnx_file.write(made, folder / f"{name}.onnx")
        onnx_file.write(Dequantize().apply(made, Context()).graph, folder / f"{name}.plain.onnx")


@pytest.fixture
def bert_file(bert_bundle: Path, tmp_path: Path) -> Path:
    """An .onnx file: a text encoder of two layers in float32, its rows and length open."""
    (path,) = (file for file in bert_bundle.iterdir() if file.suffix == ".onnx")
    plain = tmp_path / "bert.onnx"
    onnx_file.write(Dequantize().apply(onnx_file.read(path), Context()).graph, plain)
    return plain
