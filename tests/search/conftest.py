"""A labelled data set for the tiny sentence encoder, which a joint search can prune and train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

WORDS = "the a cat dog sat ran on under mat rug small big red blue tree house river moved"


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty sentences as a .tsv file, without labels."""
    words = WORDS.split()
    draws = np.random.default_rng(0)
    lines = [" ".join(draws.choice(words, 3 + number % 5)) for number in range(60)]
    path = tmp_path_factory.mktemp("sentences") / "texts.tsv"
    path.write_text("\n".join(["text", *lines]) + "\n", encoding="utf-8")
    return path
