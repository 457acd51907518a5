"""`openglm explain`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openglm.bundle.manifest import FILE, Manifest

Command = Callable[..., Any]


def test_for_people(command: Command, bert_bundle: Path) -> None:
    ran = command("explain", bert_bundle)
    assert ran.code == 0
    for text in (
        "tiny-bert for cortex-a53-2gb",
        "Predicted for",
        "Measured on",
        "What was tried",
        "Costliest layers",
    ):
        assert text in ran.out
    manifest = Manifest.model_validate_json((bert_bundle / FILE).read_bytes())
    assert ran.out.count("refused") >= sum(item.outcome == "refused" for item in manifest.candidates)


def test_json_is_the_manifest(command: Command, bert_bundle: Path) -> None:
    record = json.loads(command("explain", bert_bundle, "--json").out)
    assert record == json.loads((bert_bundle / FILE).read_bytes())


@pytest.mark.parametrize("key", ["device", "verdict_before", "verdict_after"])
def test_manifest_that_lacks_what_is_told(command: Command, bundle: Path, key: str) -> None:
    manifest = json.loads((bundle / FILE).read_text())
    manifest[key] = {}
    (bundle / FILE).write_text(json.dumps(manifest))
    ran = command("explain", bundle)
    assert ran.code == 4
    assert "lacks or mangles" in ran.err


def test_markup_in_a_name_is_text(command: Command, bundle: Path) -> None:
    manifest = json.loads((bundle / FILE).read_text())
    manifest["name"] = "[red]net[/red]"
    (bundle / FILE).write_text(json.dumps(manifest))
    assert "[red]net[/red]" in command("explain", bundle).out
