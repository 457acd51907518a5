"""Graphs on emulated ARM processors: their answers are this machine's, and their instructions are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openglm.arm.cpus import CPUS, cpu
from openglm.arm.emulator import Counts, EmulationError, Emulator
from openglm.arm.install import Emulation
from openglm.errors import InputError
from openglm.runtimes.onnxruntime import Runner

RNG = np.random.default_rng(1)
X = {"x": RNG.normal(size=(6, 256)).astype(np.float32)}


def counted(path: Path, name: str) -> Counts:
    with Emulator(cpu(name), counted=3) as emulator:
        emulator.load(path).run(X)
        return emulator.spent


@pytest.mark.parametrize("name", CPUS)
def test_integers_are_the_same_bit_for_bit(
    emulation: Emulation, integers: Path, layer: Path, name: str
) -> None:
    given = {
        "x": RNG.normal(size=(1, 16, 9, 9)).astype(np.float32),
        "a": RNG.integers(0, 256, (4, 64)).astype(np.uint8),
    }
    with Emulator(cpu(name)) as emulator:
        found, here = emulator.load(integers).run(given), Runner(integers, threads=1).run(given)
        assert list(found) == list(here)
        for output, array in here.items():
            assert found[output].dtype == array.dtype
            np.testing.assert_array_equal(found[output], array)
        floats = emulator.load(layer)
        assert floats.inputs == ["x"]
        wanted = Runner(layer, threads=1).run(X)["y"]
        np.testing.assert_allclose(floats.run(X)["y"], wanted, atol=1e-5 * wanted.max())


def test_each_processor_multiplies_in_its_own_way(emulation: Emulation, int8_layer: Path) -> None:
    old, new, newest = (counted(int8_layer, name) for name in ("cortex-a53", "cortex-a76", "armv8.6-i8mm"))
    products = 6 * 256 * 128
    assert old.dots == old.matrices == 0
    assert old.integers >= products / 16
    # A dot product of a vector makes 16 products, a product of matrices 32.
    assert new.dots >= products / 16
    assert new.matrices == 0
    assert newest.matrices >= products / 32
    assert newest.dots == 0
    assert newest.instructions < new.instructions < old.instructions


def test_counts_are_the_same_from_start_to_start(emulation: Emulation, int8_layer: Path) -> None:
    one, other = (counted(int8_layer, "cortex-a53") for _ in range(2))
    assert one.integers == other.integers
    assert one.instructions == pytest.approx(other.instructions, rel=0.02)  # it is a small graph


def test_what_cannot_be_done_is_told_and_the_rest_goes_on(
    emulation: Emulation, layer: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(layer.read_bytes()[:200])
    with Emulator(cpu("cortex-a53")) as emulator:
        with pytest.raises(InputError, match=r"cannot load broken\.onnx"):
            emulator.load(broken)
        runner = emulator.load(layer)
        with pytest.raises(InputError, match="cannot run on these inputs"):
            runner.run({"x": np.zeros((1, 3), np.float32)})
        assert runner.run(X)["y"].shape == (6, 128)
        emulator._process.kill()
        with pytest.raises(EmulationError, match="ended on the emulated cortex-a53"):
            runner.run(X)
        work = emulator.work
    assert not work.exists()


def test_unknown_processor() -> None:
    with pytest.raises(InputError, match="no emulated processor 'cortex-a54'"):
        cpu("cortex-a54")
