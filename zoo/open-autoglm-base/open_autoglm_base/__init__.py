"""open-autoglm-base: an encoder for four tasks of GLUE, with an exit after every layer.

`openglm.AutoModel.from_pretrained("open-autoglm-base")` gives it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from openglm import Model

FOLDER = Path(__file__).with_name("model")
SCALE = ".scale"
"""What is added to a weight's name for the scales of its rows."""
EXTRA = ("exits.", "fading.")
"""How the names begin of what the encoder itself does not have."""


def model() -> Model:
    """The model; its weights are on a grid of 8 bits, row by row."""
    from openglm.model.model import Trainable
    from openglm.model.sources import transformers_folder

    loaded = transformers_folder.load(str(FOLDER), lambda: _of_encoder(weights()))
    assert loaded.trainable is not None
    plain, export = loaded.trainable.load, loaded.trainable.export

    def module() -> torch.nn.Module:
        return dressed(plain(), loaded.config, weights())

    return replace(
        loaded,
        name="open-autoglm-base",
        export=lambda: transformers_folder.cached(FOLDER, lambda: export(module())),
        trainable=Trainable(module, export),
    )


def weights() -> dict[str, torch.Tensor]:
    """All tensors by name, in float32."""
    from safetensors.torch import load_file

    stored = load_file(FOLDER / "model.safetensors")
    return {
        name: tensor.float() * stored[name + SCALE][:, None] if name + SCALE in stored else tensor.float()
        for name, tensor in stored.items()
        if not name.endswith(SCALE)
    }


def _of_encoder(every: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("model."): tensor for name, tensor in every.items() if not name.startswith(EXTRA)
    }


def dressed(
    module: torch.nn.Module, config: Mapping[str, Any], every: Mapping[str, torch.Tensor]
) -> torch.nn.Module:
    """The encoder with its exits, thresholds and gates, in place."""
    from openglm.dynamic.cutting import GATES
    from openglm.passes.structure.blocks import blocks
    from openglm.training import exits, fading

    found = blocks(module)[:-1]
    width, outputs = every["exits.heads.0.answer.weight"].T.shape
    heads = {block.name: exits.ExitHead(width, outputs, hidden=True) for block in found}
    exits.attach(module, heads)
    after = [
        (block.name, block.attention.holder)
        for place, block in enumerate(found)
        if place in config["openglm_tokens_after"] and block.attention is not None
    ]
    fading.attach(module, [block.name for block in blocks(module)], after, keep=1.0)
    module.load_state_dict({name: every[name] for name in every if name.startswith(EXTRA)}, strict=False)
    notes, gates = module.graph_notes, json.dumps(config["openglm_gates"])
    module.graph_notes = lambda: {**notes(), GATES: gates}  # type: ignore[operator,assignment]
    return module.eval()
