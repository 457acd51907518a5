"""What the encoder learns before its tasks: which words are spoilt, and how alike two texts are.

all-MiniLM-L6-v2 was made to tell what sentences mean; of grammar it knows little, and CoLA alone is too
small to learn it from. So it is shown sentences with words spoilt, and says of every word whether it
is one of them, as a discriminator does (ELECTRA, Clark et al. 2020). What it knew it keeps by telling of
pairs how alike they are, by its own cosine before.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tasks
import torch
from sklearn.isotonic import IsotonicRegression
from spoiling import Spoiler
from torch import nn
from torch.nn import functional

from openglm import AutoModel, Model
from openglm.data.dataset import Sample
from openglm.glue import read
from openglm.glue.finetuning import copy_tokenizer, encoder_folder
from openglm.glue.tasks import TASKS
from openglm.model.sources import transformers_folder
from openglm.training.loop import Progress, Settings, train
from openglm.training.samples import WINDOW, Batch, Samples

EPOCHS, BATCH, RATE = 3, 64, 2e-4
SHORTEST, LONGEST = 4, 24
"""Words of a sentence."""
OFTEN = 4
"""How often one of CoLA's sentences comes where others come once: they are most like what is asked."""
LIKE = ("sts-b", "mrpc")
"""Tasks whose texts are paired, beside those of the file."""
WORD_WEIGHT, PAIR_WEIGHT = 3.0, 2.0
"""What the loss of words counts, and of pairs, where that of a sentence counts 1."""
NO_WORD = -1.0
"""In place of a mark: no word begins here."""


class Pair(NamedTuple):
    """Two texts, and how alike they are, from 0 to 1."""

    first: str
    second: str
    alike: float

    @property
    def words(self) -> int:
        """Of both."""
        return len(self.first.split()) + len(self.second.split())


class Rows:
    """Sentences, half of them spoilt, otherwise in each epoch, and pairs; a batch holds either."""

    def __init__(self, folder: Path, texts: list[str], pairs: list[Pair]) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.texts, self.pairs = texts, pairs
        self.spoiler = Spoiler(texts)

    def batches(self, size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, always the same; texts of about one length together."""
        draws = random.Random(f"{seed} {epoch}")
        spoilt = []
        for text in self.texts:
            words = text.split()
            spoilt.append(self.spoiler(text, draws) if draws.random() < 0.5 else (words, [0] * len(words)))
        sentences = _groups(spoilt, lambda row: len(row[0]), size, draws)
        pairs = _groups(
            self.pairs, lambda pair: len(pair.first.split()) + len(pair.second.split()), size, draws
        )
        groups: list[tuple[Callable[[Any], Batch], list[Any]]]
        groups = [*((self._sentences, each) for each in sentences), *((self._pairs, each) for each in pairs)]
        draws.shuffle(groups)
        for make, group in groups[start:]:
            yield make(group)

    def _sentences(self, rows: list[tuple[list[str], list[int]]]) -> Batch:
        told = tasks.WORDS["cola"]
        encoded = self.tokenizer(
            [[told, *words] for words, _ in rows], is_split_into_words=True, padding=True, return_tensors="pt"
        )
        marks = torch.full(encoded.input_ids.shape, NO_WORD)
        for place, (_, own) in enumerate(rows):
            before = 0
            for token, word in enumerate(encoded.word_ids(place)):
                if word and word != before:
                    marks[place, token] = own[word - 1]
                    before = word
        whole = torch.tensor([float(any(own)) for _, own in rows])
        return Batch({**encoded, "marks": marks}, whole, torch.arange(len(rows)))

    def _pairs(self, rows: list[Pair]) -> Batch:
        told = tasks.WORDS["sts-b"]
        firsts, seconds = [f"{told} {row.first}" for row in rows], [row.second for row in rows]
        encoded = self.tokenizer(firsts, seconds, padding=True, return_tensors="pt")
        alike = torch.tensor([row.alike for row in rows])
        return Batch({**encoded}, alike, torch.arange(len(rows)))


def _groups(
    rows: list[Any], length: Callable[[Any], int], size: int, draws: random.Random
) -> list[list[Any]]:
    rows = draws.sample(rows, len(rows))
    windows = [sorted(rows[at : at + WINDOW * size], key=length) for at in range(0, len(rows), WINDOW * size)]
    return [window[at : at + size] for window in windows for at in range(0, len(window), size)]


class Pretrained(nn.Module):
    """An encoder with a logit for each token, one for a sentence and one for a pair."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import BertModel

        self.encoder: nn.Module
        self.encoder, _ = transformers_folder.from_pretrained(BertModel, folder)
        width = self.encoder.config.hidden_size
        # The folder's pooler was not trained with the rest.
        nn.init.normal_(self.encoder.pooler.dense.weight, std=0.02)
        nn.init.zeros_(self.encoder.pooler.dense.bias)
        self.word, self.sentence, self.pair = (nn.Linear(width, 1) for _ in range(3))

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits: that words are wrong (rows, tokens), that sentences are, that pairs are alike (rows,)."""
        states, pooled = self.encoder(**inputs)[:2]
        return self.word(states)[..., 0], self.sentence(pooled)[:, 0], self.pair(pooled)[:, 0]


def loss(module: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """The cross-entropy of what is said of words and sentences, or of pairs."""
    marks = batch.inputs.get("marks")
    word, sentence, pair = module(**{name: each for name, each in batch.inputs.items() if name != "marks"})
    said = functional.binary_cross_entropy_with_logits
    assert batch.labels is not None
    if marks is None:
        pairs = said(pair.float(), batch.labels)
        return PAIR_WEIGHT * pairs, {"pairs": pairs.item()}
    begins = marks != NO_WORD
    words, sentences = said(word[begins].float(), marks[begins]), said(sentence.float(), batch.labels)
    return WORD_WEIGHT * words + sentences, {"words": words.item(), "sentences": sentences.item()}


def pretrained(
    encoder: str, data: Path, sentences: Path | None, output: Path, tell: Callable[[Progress], None]
) -> Path:
    """The folder of the encoder that has learnt this."""
    folder = encoder_folder(encoder)
    texts = _texts(data, sentences)
    alike = _fitting(sorted({text for task in LIKE for text in texts[task]} | {*texts[""]}))
    pairs = _paired(encoder, data, alike)
    told = [text for task, own in texts.items() for text in _fitting(own) * (OFTEN if task == "cola" else 1)]
    rows = Rows(folder, told, pairs)
    with torch.random.fork_rng([]):
        torch.manual_seed(tasks.SEED)
        module = Pretrained(folder)
    steps = EPOCHS * (len(told) + len(pairs)) // BATCH
    settings = Settings(
        steps=steps,
        batch_size=BATCH,
        learning_rate=RATE,
        warmup=0.05,
        seed=tasks.SEED,
        checkpoint_seconds=300,
    )
    state = output.with_name(f"{output.name}.training")
    shown = hashlib.sha256(repr((told, pairs)).encode()).hexdigest()
    train(module, rows, loss, settings, identity=shown, checkpoint=state, progress=tell)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    transformers_folder.save_pretrained(module.encoder, output)
    copy_tokenizer(folder, output)
    shutil.rmtree(state)
    return output


def _texts(data: Path, sentences: Path | None) -> dict[str, list[str]]:
    """Texts by task, those of QNLI if it is there, and those of the file by ""."""
    found: dict[str, list[str]] = {}
    for task in tasks.TIMES:
        kept, _ = tasks.split(data, task)
        own = sorted({text for row in kept if task != "cola" or row.target == 1 for text in tasks.texts(row)})
        # Most that SST-2 has are parts of sentences.
        found[task] = [text for text in own if task != "sst-2" or len(text.split()) > tasks.LONG]
    if (data / "QNLI").is_dir():
        for sample in read.dev(TASKS["qnli"], data)[""]:
            found.setdefault("qnli", []).extend(map(str, sample.inputs.values()))
    found[""] = tasks.lines(sentences)
    return found


def _fitting(texts: list[str]) -> list[str]:
    return [text for text in texts if SHORTEST <= len(text.split()) <= LONGEST]


def _paired(encoder: str, data: Path, texts: list[str]) -> list[Pair]:
    """Each text with another, nearer ones more often; how alike follows from the encoder's cosine, as
    STS-B's scores do."""
    gold, _ = tasks.split(data, "sts-b")
    model = AutoModel.from_pretrained(encoder)
    sides = [_embedded(model, [tasks.texts(row)[side] for row in gold]) for side in range(2)]
    score = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    score.fit((sides[0] * sides[1]).sum(1), [row.target for row in gold])
    vectors = _embedded(model, texts)
    draws = np.random.default_rng(tasks.SEED)
    found = []
    for place, vector in enumerate(vectors):
        cosines = vectors @ vector
        cosines[place] = np.inf  # itself is the first, and never drawn
        rank = int((len(texts) - 1) ** draws.random() ** 2)
        other = int(np.argpartition(-cosines, rank)[rank])
        found.append(Pair(texts[place], texts[other], float(score.predict([cosines[other]])[0])))
    return found


def _embedded(model: Model, texts: list[str]) -> np.ndarray:
    """(texts, width), each of length 1."""
    rows = Samples(model, tasks.dataset("texts", [Sample({"text": text}) for text in texts]), labels=False)
    found = np.empty((len(texts), model.module.model.config.hidden_size), np.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for batch in rows.in_order(128):
            found[batch.indices.numpy()] = functional.normalize(model.module(**batch.inputs).float(), dim=1)
    return found
