"""How it was made: data, recipe, files."""

from __future__ import annotations

import re
from typing import Any

from openglm.report.page import render


def record(make: Any, manifest: Any) -> str:
    section = re.search(r'<section id="record".*?</section>', render(manifest), re.S)
    assert section is not None
    return str(make.words(make.Page(section[0]).text))


def test_what_was_trained_on_is_told_where_something_was_trained(make: Any) -> None:
    assert "Trained on train.tsv." in record(make, make.searched())
    others = tuple(
        item.model_copy(update={"outcome": "accepted"}) if item.outcome == "chosen" else item
        for item in make.searched().candidates
    )
    told = record(make, make.searched(candidates=others))
    assert "Trained on train.tsv: other candidates, not the one chosen." in told
    assert "Trained on" not in record(make, make.sample(training="train.tsv"))
    assert "Trained on" not in record(make, make.searched(training=None))


def test_the_recipes_file_is_named_where_it_is_there(make: Any) -> None:
    told = record(make, make.searched())
    assert "recipe.toml beside this page holds the recipe" in told
    assert "openglm optimize MODEL ... --recipe recipe.toml rebuilds the model with it." in told
    assert "beside this page holds" not in record(make, make.sample())
