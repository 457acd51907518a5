"""all-MiniLM-L6-v2 fine-tuned on SST-2: the text classifier that the benchmarks compress.

SST-2 is split so that what is chosen is never chosen on what it is reported on: `heldout.tsv`,
whole sentences of which no phrase is trained on, guides a search; the dev set is only reported.
Fine-tuning takes about half an hour on two cores and is done once: the folder is kept.
"""

from __future__ import annotations

import csv
import random
import shutil
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoTokenizer, BertForSequenceClassification

from openglm.model.sources.zoo import ZOO
from openglm.training.loop import resolve

SEED = 20
HELD_OUT = 1000
WORDS = 12
"""Words that a held-out sentence has at least: dev has 19 on average, train 9."""
EPOCHS, BATCH, RATE = 1, 64, 8e-5
LONGEST = 66
EVERY = 200

Row = tuple[str, int]


def rows(path: Path) -> list[Row]:
    """Sentences and labels of a GLUE file."""
    with path.open(encoding="utf-8") as file:
        read = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["sentence"].strip(), int(row["label"])) for row in read]


def split(data: Path, folder: Path) -> tuple[Path, Path]:
    """Files train.tsv and heldout.tsv, made of SST-2's train.tsv: neither holds a phrase of the other's."""
    train, held = folder / "train.tsv", folder / "heldout.tsv"
    if train.is_file() and held.is_file():
        return train, held
    folder.mkdir(parents=True, exist_ok=True)
    every = rows(data / "glue" / "SST-2" / "train.tsv")
    long = [row for row in every if len(row[0].split()) >= WORDS]
    picked = sorted(set(random.Random(SEED).sample(long, HELD_OUT)))
    texts = [text for text, _ in picked]
    joined = "\n".join(texts)
    kept = [
        row for row in every
        if row[0] not in joined and not any(len(row[0]) >= len(text) and text in row[0] for text in texts)
    ]  # fmt: skip
    for path, part in ((held, picked), (train, kept)):
        lines = [f"{text}\t{label}" for text, label in part]
        path.write_text("\n".join(["sentence\tlabel", *lines]) + "\n", encoding="utf-8")
    return train, held


def finetuned(data: Path, folder: Path) -> Path:
    """The folder of the fine-tuned classifier, made where it is not there."""
    if (folder / "model" / "model.safetensors").is_file():
        return folder / "model"
    train_file, _ = split(data, folder)
    source = ZOO["all-minilm-l6-v2"].folder()
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = BertForSequenceClassification.from_pretrained(source, num_labels=2, attn_implementation="eager")
    train(model, tokenizer, rows(train_file))
    part = folder / "model.part"
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder / "model")
    return folder / "model"


def train(
    model: BertForSequenceClassification, tokenizer: AutoTokenizer, data: list[Row], epochs: int = EPOCHS
) -> None:
    """Train a classifier in place, by cross entropy."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    draws = random.Random(SEED)
    batches = [batch for _ in range(epochs) for batch in _epoch(data, draws)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=len(batches), pct_start=0.06, anneal_strategy="linear"
    )
    average = 0.7
    for step, batch in enumerate(batches, 1):
        texts, labels = zip(*batch, strict=True)
        inputs = tokenizer(
            list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        ).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=resolve("auto") == "bf16"):
            logits = model(**inputs).logits
        loss = functional.cross_entropy(logits.float(), torch.tensor(labels, device=device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average = 0.99 * average + 0.01 * loss.item()
        if step % EVERY == 0 or step == len(batches):
            print(f"fine-tuning on SST-2: step {step} of {len(batches)}, loss {average:.3f}", flush=True)
    model.to("cpu").eval()


def _epoch(data: list[Row], draws: random.Random) -> list[list[Row]]:
    """Batches of sentences of about one length, in a mixed order."""
    order = sorted(draws.sample(data, len(data)), key=lambda row: len(row[0].split()) + draws.random())
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return draws.sample(batches, len(batches))
