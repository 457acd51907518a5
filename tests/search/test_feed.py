"""What stands in for data that the user does not give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from openglm import AutoModel
from openglm.data.dataset import Dataset, Sample
from openglm.model.model import Model
from openglm.search.feed import Feed


def feed(model: Model) -> Feed:
    return Feed(model, None, {"batch": 1}, calibration_samples=2, evaluation_samples=2)


def test_english_stands_in_for_text(bert_folder: Path) -> None:
    assert (
        "English sentences from Python's own manual"
        in feed(AutoModel.from_pretrained(bert_folder)).description
    )


def test_a_model_may_bring_what_stands_in(bert_folder: Path) -> None:
    model = AutoModel.from_pretrained(bert_folder)
    texts = [f"the cat sat on the mat {'again ' * place}".strip() for place in range(4)]
    own = Dataset("cats", lambda: (Sample({"text": text}) for text in texts), labelled=False)
    found = feed(replace(model, stand_ins=lambda: own))
    assert found.description == "no data was given: cats calibrate (even) and judge (odd)"
    assert model.processor is not None
    for given, text in ((list(found.calibration()), texts[::2]), (found.first(2), texts[1::2])):
        for batch, one in zip(given, text, strict=True):
            np.testing.assert_array_equal(batch["input_ids"], model.processor([{"text": one}])["input_ids"])
