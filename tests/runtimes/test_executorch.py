"""ExecuTorch's own: which operators XNNPACK computes in integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openglm.runtimes.engine import Source
from openglm.runtimes.executorch import ExecuTorch
from openglm.runtimes.onnxruntime import Runner
from openglm.targets.proof import prove


@pytest.mark.parametrize("name", ["residual", "separable"])
def test_convolutions_have_the_graphs_integers(name: str, static_nets: Path, tmp_path: Path) -> None:
    path = static_nets / f"{name}.onnx"
    source = Source(path, static_nets / f"{name}.plain.onnx", {"batch": [1]})
    engine = ExecuTorch()
    engine.convert(source, whole := tmp_path / "fp32.pte", "fp32")
    engine.convert(source, small := tmp_path / "int8.pte", "int8")
    # Without a kernel of XNNPACK's there is none at all for these: a file that loads has all delegated.
    assert small.stat().st_size < 0.45 * whole.stat().st_size
    rng = np.random.default_rng(3)
    batches = [{"pixel_values": rng.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(8)]
    ours, theirs = Runner(path, threads=1), engine.load(small, threads=1)
    expected = [ours.run(each) for each in batches]
    assert prove([theirs.run(each) for each in batches], expected).cosine > 0.998


def test_four_bits_of_linear_layers(tmp_path: Path) -> None:
    import torch

    from openglm.model.sources import onnx_file
    from openglm.model.sources.module import export

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 64))
    path = tmp_path / "net.onnx"
    onnx_file.write(export(net, {"input": torch.randn(1, 256)}, output_names=["y"]), path)
    source, engine = Source(path, path, {"batch": [1]}), ExecuTorch()
    sizes = {}
    for precision in ("fp32", "int8", "int4"):
        engine.convert(source, target := tmp_path / f"{precision}.pte", precision)
        sizes[precision] = target.stat().st_size
    assert sizes["int4"] < 0.7 * sizes["int8"] < 0.3 * sizes["fp32"]
    batches = [{"input": np.random.default_rng(k).normal(size=(1, 256)).astype(np.float32)} for k in range(4)]
    ours, theirs = Runner(path, threads=1), engine.load(target, threads=1)
    assert prove([theirs.run(x) for x in batches], [ours.run(x) for x in batches]).cosine > 0.98
