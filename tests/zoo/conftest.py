"""The folder `zoo`, and rows of the four tasks to be made into what its modules learn from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ZOO = Path(__file__).parents[2] / "zoo"
ROWS = 40


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ZOO))
    import tasks

    monkeypatch.setattr(tasks, "HELD_OUT", dict.fromkeys(tasks.WORDS, 6))
    monkeypatch.setattr(tasks, "LONG", 3)
    tasks.split.cache_clear()
    yield tasks
    for name in ("tasks", "spoiling", "pretraining"):
        sys.modules.pop(name, None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Training rows of the four tasks; every third sentence of SST-2 is a part of another."""
    texts = [f"The {word} number {number} ran home" for number in range(ROWS // 2) for word in ("cat", "dog")]
    phrases = [text.removesuffix(" ran home") if place % 3 == 0 else text for place, text in enumerate(texts)]
    layouts = {
        "SST-2": ["sentence\tlabel", *(f"{text}\t{place % 2}" for place, text in enumerate(phrases))],
        "CoLA": [f"a\t{place % 2}\t\t{text}" for place, text in enumerate(texts)],
        "MRPC": [
            "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            *(f"{place % 2}\t1\t2\t{text}\tIt did {place}" for place, text in enumerate(texts)),
        ],
        "STS-B": [
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
            *(
                f"{place}\tm\tm\t1\t0\tn\tn\t{text}\tIt did {place}\t2.500"
                for place, text in enumerate(texts)
            ),
        ],
    }
    for task, lines in layouts.items():
        (tmp_path / task).mkdir()
        (tmp_path / task / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path
