"""What is imported, and how soon help is there."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HEAVY = ("torch", "transformers", "tokenizers", "PIL", "huggingface_hub")
HELP_SECONDS = 0.3
"""Of processor time, the most that `openglm --help` may take."""

# Imports of the heavy packages fail, so that no test passes because one happens to be loaded lazily.
BLOCK = f"""
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
"""
REPORT = f"print(sorted(set(sys.modules) & set({HEAVY})))"
UNUSED = ("onnx", "onnx_ir", "openvino", "MNN", "ai_edge_litert", "executorch")
"""What a bundle that runs in ONNX Runtime has no use for."""


def test_import_alone(finished: Callable[..., Any]) -> None:
    assert finished(code=f"import sys, openglm; {REPORT}").out.strip() == "[]"


def test_load_and_run_a_bundle(finished: Callable[..., Any], bert_bundle: Path, conv_bundle: Path) -> None:
    code = f"""
import sys
import openglm
with openglm.load({str(bert_bundle)!r}) as session:
    print(session.run(text="the cat sat")["sentence_embedding"].shape)
with openglm.load({str(conv_bundle)!r}) as session:
    print(session.verify() <= 0.01)
print(sorted(set(sys.modules) & set({UNUSED})))
{REPORT}
"""
    for prefix in ("", BLOCK):
        ran = finished(code=prefix + code)
        assert ran.out.splitlines() == ["(1, 64)", "True", "[]", "[]"], ran.err


def test_bundle_commands_need_none_of_them(finished: Callable[..., Any], bert_bundle: Path) -> None:
    code = BLOCK + "from openglm.cli import main; main()"
    for arguments in (
        ("run", bert_bundle, "--text", "a cat"),
        ("verify", bert_bundle),
        ("explain", bert_bundle),
    ):
        ran = finished(*arguments, code=code)
        assert ran.code == 0, ran.err


def test_onnx_file_needs_none_of_them(finished: Callable[..., Any], conv_file: Path, tmp_path: Path) -> None:
    code = BLOCK + "from openglm.cli import main; main()"
    ran = finished(
        "optimize", conv_file, "-d", "cortex-a53-2gb", "-o", tmp_path / "made", "--samples", 2, code=code
    )
    assert ran.code == 0, ran.err


def test_exported_graph_is_kept(finished: Callable[..., Any], bert_folder: Path) -> None:
    finished("inspect", bert_folder)  # exports it, where no test has yet
    ran = finished("inspect", bert_folder, "--json", code=BLOCK + "from openglm.cli import main; main()")
    assert ran.code == 0, ran.err
    assert '"embedding"' in ran.out


def test_help_is_quick() -> None:
    taken = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", "from openglm.cli import main; main()", "--help"],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < HELP_SECONDS, taken
