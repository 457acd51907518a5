"""Work in a process of its own: what is left when its time is over."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from openglm.errors import InputError
from openglm.runtimes.engine import Source
from openglm.targets import apart

HOLDS = """
import fcntl, pathlib, time
file = open({lock!r}, "w")
fcntl.flock(file, fcntl.LOCK_EX)
pathlib.Path({begun!r}).touch()
time.sleep(600)
"""


def test_a_converter_ends_with_the_process_that_started_it(
    conv_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNN converts in a process of its own, in whose place is one that takes too long, and holds a lock."""
    lock, begun, site = tmp_path / "lock", tmp_path / "begun", tmp_path / "site"
    site.mkdir()
    holds = HOLDS.format(lock=str(lock), begun=str(begun))
    patch = f"    from openglm.runtimes import mnn\n    mnn._CONVERT = {holds!r}\n"
    text = f"import sys\nif 'openglm.targets.apart' in ' '.join(sys.orig_argv):\n{patch}"
    (site / "sitecustomize.py").write_text(text, encoding="utf-8")
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    with pytest.raises(InputError, match="after 12 seconds"):
        apart.convert("mnn", Source(conv_file, conv_file), tmp_path / "model.mnn", "fp32", tmp_path, 12)
    assert begun.is_file(), "the converter had not begun"
    assert _free(lock), "a process is left that holds it"


def _free(lock: Path) -> bool:
    """Whether no process holds a lock, or none does soon: one that was killed may be ending."""
    until = time.monotonic() + 10
    with lock.open() as file:
        while time.monotonic() < until:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            else:
                return True
    return False
