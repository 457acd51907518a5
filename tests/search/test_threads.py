"""How many threads a bundle runs fastest with."""

from __future__ import annotations

from pathlib import Path

import pytest

from openglm.bundle.manifest import Manifest, ThreadCount, Timing
from openglm.bundle.store import read_manifest
from openglm.search import threads
from openglm.search.threads import counts


@pytest.mark.parametrize(
    ("cores", "here", "expected"),
    [(8, 8, [1, 2, 4, 8]), (8, 6, [1, 2, 4, 6]), (4, 2, [1, 2]), (1, 8, [1]), (3, 16, [1, 2, 3])],
)
def test_counts(cores: int, here: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: here)
    assert counts(cores) == expected


def test_a_bundle_tells(conv_bundle: Path) -> None:
    manifest = read_manifest(conv_bundle)
    numbers = [item.threads for item in manifest.threads]
    assert numbers == counts(manifest.device["units"][0]["cores"])
    assert manifest.best_threads in numbers
    assert all(item.timing.median_ms > 0 for item in manifest.threads)
    page = (conv_bundle / "report.html").read_text(encoding="utf-8")
    assert f"an app is best served by {manifest.best_threads}" in page


@pytest.mark.parametrize(
    ("milliseconds", "best"), [((8.0, 4.2, 4.1, 4.3), 2), ((8.0, 8.1), 1), ((8.0, 5.0, 3.0), 4), ((), None)]
)
def test_the_fewest_that_are_about_as_fast(
    milliseconds: tuple[float, ...], best: int | None, conv_bundle: Path
) -> None:
    found: Manifest = read_manifest(conv_bundle).model_copy(
        update={
            "threads": tuple(
                ThreadCount(threads=1 << place, timing=Timing(median_ms=ms, p10_ms=ms, p90_ms=ms, rounds=5))
                for place, ms in enumerate(milliseconds)
            )
        }
    )
    assert found.best_threads == best
