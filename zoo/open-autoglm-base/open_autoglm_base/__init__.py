"""open-autoglm-base: an encoder for four tasks of GLUE, with an exit after every layer.

`openglm.AutoModel.from_pretrained("open-autoglm-base")` gives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from openglm import Model
    from openglm.data.dataset import Dataset, Sample

FOLDER = Path(__file__).with_name("model")
SCALE = ".scale"
"""What is added to a weight's name for the scales of its rows."""
PAIRS = ("mrpc", "sts-b")
"""The tasks about two texts."""
EXTRA = "exits."
"""How the names begin of what the encoder itself does not have."""


def model() -> Model:
    """The model; its weights are on a grid of 8 bits, row by row."""
    from openglm.model.model import Trainable
    from openglm.model.sources import transformers_folder

    def of_encoder() -> dict[str, torch.Tensor]:
        return {name.removeprefix("model."): tensor for name, tensor in weights(extra=False).items()}

    loaded = transformers_folder.load(str(FOLDER), of_encoder)
    assert loaded.trainable is not None
    plain, export = loaded.trainable.load, loaded.trainable.export

    def module() -> torch.nn.Module:
        return dressed(plain(), loaded.config, weights(extra=True))

    return replace(
        loaded,
        name="open-autoglm-base",
        export=lambda: transformers_folder.cached(FOLDER, lambda: export(module())),
        trainable=Trainable(module, export),
        stand_ins=lambda: stand_ins(loaded.config["openglm_tasks"]),
    )


def stand_ins(tasks: Mapping[str, str]) -> Dataset:
    """Sentences that every Python has, asked as the tasks ask: each after all of their words, and with a
    second one where a task wants two, in turn the same without every third word, and another."""
    from openglm.data.dataset import Dataset, Sample
    from openglm.data.text import calibration_text

    def read() -> Iterator[Sample]:
        texts = [sample.inputs["text"] for sample in calibration_text()]
        # Even samples calibrate and odd ones judge: no text is to be in both.
        for first, pair in enumerate(zip(texts[::2], texts[1::2], strict=False)):
            for task, word in tasks.items():
                for text, other in (pair, pair[::-1]):
                    given = {"text": f"{word} {text}"}
                    if task in PAIRS:
                        given["text_pair"] = _shorter(text) if first % 2 else other
                    yield Sample(given)

    return Dataset("sentences from Python's own manual, asked as its tasks ask,", read, labelled=False)


def _shorter(text: str) -> str:
    return " ".join(word for place, word in enumerate(text.split()) if place % 3 != 2)


def weights(*, extra: bool) -> dict[str, torch.Tensor]:
    """Tensors by name, in float32: those of the encoder, or what it does not have itself."""
    from safetensors import safe_open

    found = {}
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        stored = set(file.keys())
        for name in stored:
            if name.startswith(EXTRA) == extra and not name.endswith(SCALE):
                tensor = file.get_tensor(name).float()
                scaled = name + SCALE in stored
                found[name] = tensor * file.get_tensor(name + SCALE)[:, None] if scaled else tensor
    return found


def dressed(
    module: torch.nn.Module, config: Mapping[str, Any], extra: Mapping[str, torch.Tensor]
) -> torch.nn.Module:
    """The encoder with its exits, and places to drop tokens at, in place."""
    from openglm.dynamic.gates.tokens import LEAST
    from openglm.passes.structure.blocks import blocks
    from openglm.training import exits, shortening

    found = blocks(module)[:-1]
    outputs = len(extra["exits.heads.0.answer.weight"])
    heads = {block.name: exits.ExitHead(config["hidden_size"], outputs, tokens=True) for block in found}
    exits.attach(module, heads)
    attention = [
        block.attention.holder
        for place, block in enumerate(found)
        if place in config["openglm_tokens_after"] and block.attention is not None
    ]
    shortening.attach(module, [block.name for block in blocks(module)], attention, LEAST)
    module.load_state_dict(dict(extra), strict=False)
    return module.eval()
