"""What a model is put beside: networks of the shapes of BERT-base and RoBERTa-large.

Neither latency nor memory depends on the values of weights, so theirs are random, and both are
measured here, in turn with the model. What they score is cited, as a network with random weights
scores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openglm.model.sources import onnx_file, transformers_folder
from openglm.model.sources.module import quiet, require_torch


@dataclass(frozen=True)
class Reference:
    """A published model: its shape, and what is said of it."""

    name: str
    config: Mapping[str, Any]
    """As transformers has it."""
    average: float
    """GLUE average, in [0, 1]: cited, not measured here."""
    cited: Mapping[str, float] = field(default_factory=dict)
    """Scores on dev data by task, in [0, 1]: cited too."""


REFERENCES: tuple[Reference, ...] = (
    Reference(
        "BERT-base",
        # Devlin et al. 2019, uncased; BertConfig's own defaults are this shape.
        {"model_type": "bert"},
        average=0.854,
        cited={"sst-2": 0.932, "mrpc": 0.873, "cola": 0.589, "sts-b": 0.889},
    ),
    Reference(
        "RoBERTa-large",
        # Liu et al. 2019.
        {
            "model_type": "roberta",
            "vocab_size": 50265,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
        },
        average=0.879,
    ),
)


def module_of(config: Mapping[str, Any]) -> Any:
    """A classifier of a shape into two classes, its weights random: transformers' own module."""
    torch = require_torch()
    import transformers

    given = dict(config)
    made = transformers.AutoConfig.for_model(given.pop("model_type"), **given)
    with torch.random.fork_rng([]), quiet():
        torch.manual_seed(0)
        return transformers.AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
            made, attn_implementation="eager", dtype=torch.float32
        )


def write_graph(reference: Reference, path: Path) -> None:
    """Export a network of the shape to an .onnx file."""
    onnx_file.write(transformers_folder.classifier_graph(module_of(reference.config)), path)


def row(inputs: Sequence[str], tokens: int) -> dict[str, np.ndarray]:
    """One text of so many tokens, of no meaning, for a network that takes `inputs`."""
    arrays = {
        # From 5 on: no special token is among them, and no padding.
        "input_ids": 5 + np.arange(tokens, dtype=np.int64)[None] % 1000,
        "attention_mask": np.ones((1, tokens), np.int64),
        "token_type_ids": np.zeros((1, tokens), np.int64),
    }
    return {name: arrays[name] for name in inputs}
