"""How long a step of training takes, found out on the very module before a training is planned."""

from __future__ import annotations

import copy
import statistics
import time

import torch

from openglm.data.dataset import Dataset
from openglm.model.model import Model
from openglm.training.loop import device, resolve
from openglm.training.losses import main_output
from openglm.training.samples import Samples

ROWS = 512
STEPS = 4


def seconds_per_step(model: Model, dataset: Dataset, teacher: Model, size: int = 32) -> float:
    """Seconds that a batch takes, the teacher's answer and the model's forward and backward: the median of
    a few, on the device that trains."""
    samples = Samples(model, dataset, limit=ROWS, labels=False)
    place = device()
    module = copy.deepcopy(model.module).train().to(place)
    asked = teacher.module.to(place)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0)
    precision = torch.bfloat16 if resolve("auto") == "bf16" else None
    taken = []
    for number, batch in enumerate(samples.batches(size, 0, 0)):
        if number > STEPS:
            break
        start = time.perf_counter()
        with torch.autocast(place.type, precision, enabled=precision is not None):
            inputs = batch.to(place).inputs
            # Its own inputs may be others, of about the same size.
            with torch.no_grad():
                asked(**inputs)
            output = main_output(module(**inputs))
        optimizer.zero_grad()
        output.float().square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if place.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    teacher.module.to("cpu")
    return statistics.median(taken[1:] or taken)  # the first one warms up
