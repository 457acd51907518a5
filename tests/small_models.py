"""Files of small models with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

WORDS = "the a cat dog sat ran on under mat rug small big red blue tree house river moved slept ate"


def write_conv(path: Path) -> None:
    """A convolutional classifier of pictures, as an .onnx file."""
    import torch

    from openglm.model.sources import onnx_file
    from openglm.model.sources.module import export

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = torch.nn.Sequential(
                torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
                torch.nn.Conv2d(16, 32, 3, 2, 1), torch.nn.ReLU(),
            )  # fmt: skip
            self.classifier = torch.nn.Linear(32, 4)

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.features(pixel_values).mean((2, 3)))

    torch.manual_seed(0)
    onnx_file.write(export(Net(), {"pixel_values": torch.randn(1, 3, 16, 16)}, output_names=["logits"]), path)


def write_bert(path: Path) -> None:
    """A sentence encoder, as a transformers folder."""
    import torch
    import transformers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = special + letters + [f"##{letter}" for letter in letters] + [".", ","] + WORDS.split()
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(path)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary},
    }  # fmt: skip
    kind = "sentence_transformers.models."
    stages = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    files = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {"pad_token": "[PAD]"},
        "modules.json": [{"type": kind + name, "path": where} for name, where in stages],
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
    }
    (path / "1_Pooling").mkdir()
    for name, content in files.items():
        (path / name).write_text(json.dumps(content), encoding="utf-8")


def write_cascade(path: Path) -> None:
    """A folder with a bundle of two models, one before the other, and its data."""
    import numpy as np
    import onnx.numpy_helper
    import onnx.parser
    import onnx_ir as ir

    import openglm
    from openglm.model.sources import onnx_file
    from openglm.passes.recipe import parse
    from openglm.search import trial
    from openglm.search.hunt import Hunt
    from openglm.search.result import Solution

    path.mkdir()
    rng = np.random.default_rng(0)
    weight = (3 * rng.normal(size=(8, 3))).astype(np.float32)
    near = (weight + 0.5 * rng.normal(size=weight.shape)).astype(np.float32)
    wide = rng.normal(size=(8, 64)).astype(np.float32)
    arrays = {"wide": wide, "back": np.linalg.pinv(wide)}  # some work, and x again
    for name, array, steps in (
        ("small", near, "y = Identity(x)"),
        ("large", weight, "z = MatMul(x, wide) y = MatMul(z, back)"),
    ):
        text = f"g (float[n,8] x) => (float[n,3] logits) {{ {steps} logits = MatMul(y, w) }}"
        proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 20]> ' + text)
        for key, value in {"w": array, **(arrays if name == "large" else {})}.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(value, key))
        onnx_file.write(ir.from_proto(proto), path / f"{name}.onnx")
    x = rng.normal(size=(1600, 8)).astype(np.float32)
    # Along this direction the small one is wrong by much, and sure of it.
    wrong = np.linalg.svd(near - weight)[0][:, 0].astype(np.float32)
    shifted = x + 5 * np.sign(x @ wrong)[:, None] * wrong
    for name, given in (("today", x), ("shifted", shifted)):
        np.savez(path / f"{name}.npz", x=given, label=(given @ weight).argmax(1))
    np.savez(path / "few.npz", x=x[:4])
    recipe = parse([{"pass": "cascade", "small": str(path / "small.onnx"), "max_drop": 0.05}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "NOISE", 0.0)  # so small a model gains nothing by being spared
        patch.setattr(Hunt, "_tidy", lambda hunt: None)
        found = openglm.optimize(
            path / "large.onnx", "cortex-a53-2gb", data=path / "today.npz", metric="accuracy", max_drop=0.1,
            recipe=recipe, threads=1, evaluation_samples=100,
        )  # fmt: skip
    (made,) = [each for each in found.trials if each.recipe]
    Solution(found, made).save(path / "bundle")
