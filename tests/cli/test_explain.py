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


def test_json_is_the_manifest_with_the_front_and_the_time(command: Command, bert_bundle: Path) -> None:
    record = json.loads(command("explain", bert_bundle, "--json").out)
    outcomes = [item["outcome"] for item in record["candidates"]]
    places, spent = record.pop("front"), record.pop("spent")
    assert outcomes.index("chosen") in places
    assert all(outcomes[place] in ("chosen", "accepted") for place in places)
    assert sum(spent.values()) == pytest.approx(record["elapsed_s"])
    assert record == json.loads((bert_bundle / FILE).read_bytes())


LONG = "layer_pruning_{} + neuron_pruning_0.5 + distil_300 + fuse + dynamic_wi8_ai8"


@pytest.fixture
def searched(bundle: Path) -> Path:
    """A bundle whose manifest tells of 40 candidates, 20 of them on the front, and of 18 parts."""
    manifest = json.loads((bundle / FILE).read_text())
    chosen = next(item for item in manifest["candidates"] if item["outcome"] == "chosen")
    candidates = [
        chosen
        | {
            "code": LONG.format(index),
            "recipe": [{"pass": "layer_pruning"}, {"pass": "distil"}],
            "outcome": "refused" if index >= 20 else "chosen" if index == 3 else "accepted",
            "reason": f"Loses 0.0{index} of fidelity; 0.01 is allowed.",
            "speedup": 1.1 + 0.1 * index,
            "size_bytes": 1_000_000 + 10_000 * index,
            "loss": 0.001 * index,
            "effort": 1,
            "seconds": 10.0,
            "spent": {"training": 6.0, "measuring": 3.0, "waiting": 1.0},
        }
        for index in range(40)
    ]
    sensitivities = [
        {"part": f"net.layer.{index} {what}", "modules": [], "technique": technique, "cost": 0.001 * index}
        for index in range(9)
        for what, technique in (("attention", "half its heads"), ("feed-forward", "half its neurons"))
    ]
    manifest |= {"candidates": candidates, "sensitivities": sensitivities, "elapsed_s": 500.0}
    manifest["training"] = "train[1].tsv"
    (bundle / FILE).write_text(json.dumps(manifest))
    return bundle


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_long_search_fits_two_screens(command: Command, searched: Path) -> None:
    ran = command("explain", searched)
    assert ran.code == 0
    text = words(ran.out)
    for said in (
        "The front: what else could be had",
        "What was tried: 19 accepted, 1 chosen, 20 refused; the one chosen and the nearest misses",
        "training took 48%",
        "The first recipe that pays was there after 10.0 s of trying: number 1,",
        "Layer 8's attention is the tenderest: half its heads costs 0.0080 of fidelity.",
        "training train[1].tsv",
        "trained once",
    ):
        assert said in text, said
    assert len(ran.out.splitlines()) < 75
    assert text.count("--all shows them") == 3


def test_a_cut_list_of_the_front_keeps_the_chosen_one(command: Command, searched: Path) -> None:
    front = command("explain", searched).out.partition("What was tried")[0]
    assert LONG.format(3) in words(front), "it is the seventeenth"
    assert "and 14 more; --all shows them" in front


def test_nothing_is_cut_where_all_is_asked_for(command: Command, searched: Path) -> None:
    text = words(command("explain", searched, "--all").out)
    for index in range(40):
        assert f"0.0{index} of fidelity" in text
    for index in range(9):
        assert f"layer {index}, feed-forward" in text
    assert "--all shows them" not in text


def test_json_of_a_long_search_has_all_of_it(command: Command, searched: Path) -> None:
    record = json.loads(command("explain", searched, "--json").out)
    assert record["front"] == list(range(19, -1, -1))
    assert record["spent"] == {"training": 240.0, "measuring": 120.0, "waiting": 40.0, "other": 100.0}
    assert len(record["sensitivities"]) == 18


def test_a_narrow_terminal_breaks_no_figure(finished: Callable[..., Any], searched: Path) -> None:
    ran = finished("explain", searched, env={"COLUMNS": "44"})
    assert ran.code == 0, ran.err
    plain = words(ran.out)
    assert "layer 8, attention: half its heads 0.0080" in plain
    assert "20 accepted 3.00x 1.2 MB" in plain
    texts = ran.out.partition("The front")[2].partition("Costliest")[0].splitlines()
    assert all(len(line) <= 44 for line in texts)


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
