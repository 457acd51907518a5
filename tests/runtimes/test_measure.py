"""Measuring: in turn, as many rounds as asked, and never a round too few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openglm.errors import InputError
from openglm.runtimes import measure
from openglm.runtimes.onnxruntime import Runner


def test_in_turn() -> None:
    order: list[str] = []
    times = measure.interleaved(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=4, warmup=1
    )
    assert "".join(order) == "ab" * 5
    assert [len(rounds) for rounds in times.values()] == [4, 4]
    assert all((rounds >= 0).all() for rounds in times.values())


def test_little_time_still_gives_five_rounds() -> None:
    assert len(measure.interleaved({"a": lambda: None}, rounds=50, seconds=0)["a"]) == 5


def test_summary_and_speedup() -> None:
    timing = measure.summary(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    assert (timing.median_ms, timing.rounds) == (3.0, 5)
    assert timing.p10_ms < timing.median_ms < timing.p90_ms
    # A machine that slows down to half its speed in the middle changes times, and not their ratio.
    original, candidate = np.array([2.0, 2, 4, 4]), np.array([1.0, 1, 2, 2])
    assert measure.speedup(original, candidate) == 2


def test_host() -> None:
    host = measure.host("engine 1", 3)
    assert host.cores >= 1
    assert host.processor
    assert (host.engine, host.threads) == ("engine 1", 3)


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_runner_refuses(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"ONNX Runtime cannot load net\.onnx"):
        Runner(tmp_path / "net.onnx")
