"""What open-autoglm-base learns: nothing that is held out, and a teacher's word beside the labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType


def test_no_part_of_what_is_held_out_is_learnt(tasks: ModuleType, data: Path) -> None:
    for task in tasks.WORDS:
        kept, held = tasks.split(data, task)
        assert len(held) == 6
        assert kept
        joined = "\n".join(row.inputs["text"] for row in held)
        assert not [row for row in kept if row.inputs["text"].partition(" ")[2] in joined]
    assert tasks.split(data, "sst-2") == tasks.split.__wrapped__(data, "sst-2"), "the same again"


def test_labels_and_a_teachers_word(tasks: ModuleType, data: Path) -> None:
    kept, _ = tasks.split(data, "cola")
    sure = {row.inputs["text"]: 1.0 for row in kept} | {"grammar: Cats sleep": 1.0, "grammar: Sleep the": 0.0}
    ones: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for sample in tasks.training(data, sure):
        text = sample.inputs["text"]
        ones[text] += int(sample.label or 0)
        counts[text] += 1
    for row in kept:
        text = row.inputs["text"]
        assert counts[text] == row.times == (2 if row.target else 5)
        assert ones[text] in ((2,) if row.target else (2, 3)), "where label and teacher differ, half each"
    assert [counts[text] for text in ("grammar: Cats sleep", "grammar: Sleep the")] == [1, 1]
    assert (ones["grammar: Cats sleep"], ones["grammar: Sleep the"]) == (1, 0)
    similar = tasks.split(data, "sts-b")[0][0].inputs["text"]
    assert (counts[similar], ones[similar]) in ((5, 2), (5, 3)), "2.5 of 5"


def test_further_sentences(tasks: ModuleType, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "sentences.tsv"
    file.write_text("Good birds sing all day\tgut\nToo short\tkurz\n", encoding="utf-8")
    found = tasks.further(data, file)
    kept, _ = tasks.split(data, "cola")
    assert len(found) == 2 * len(kept) + 1
    assert found == tasks.further(data, file)
    own = {row.inputs["text"] for row in kept}
    assert sum(row.inputs["text"] in own for row in found) < len(found) / 4
    assert sum(row.inputs["text"].startswith("grammar: Good birds") for row in found) <= 1
    assert sum("Too short" in row.inputs["text"] for row in found) == 0
    known = {word for row in kept for word in row.inputs["text"].split()}
    known |= {"Good", "birds", "sing", "all", "day"}
    forms = tasks.Spoiler(known).forms
    words = known | {form for word in known for form in forms.get(word.lower(), ())}
    assert {word for row in found for word in row.inputs["text"].split()} <= words | {
        word.capitalize() for word in words
    }
