"""The training loop: deterministic, and resumed after any interruption as if there had been none."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from openglm.errors import InputError
from openglm.training import checkpoint as saved
from openglm.training.samples import Batch

Precision = Literal["auto", "fp32", "bf16"]
SMOOTHING = 0.98
"""Share of the loss shown that comes from the steps before."""
RECORDS = 100
"""About how many losses a history keeps."""

Loss = Callable[[nn.Module, Batch], "torch.Tensor | tuple[torch.Tensor, dict[str, float]]"]


class Batches(Protocol):
    """What is trained on; `Samples` are."""

    def batches(self, size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the one numbered `start` on, always the same."""
        ...


@dataclass(frozen=True)
class Settings:
    """How a module is trained."""

    steps: int
    """Batches, one update each."""
    batch_size: int = 32
    learning_rate: float = 1e-4
    """At its highest."""
    weight_decay: float = 0.01
    """Of AdamW (Loshchilov and Hutter 2019); not applied to biases and normalisations."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How it falls afterwards, to 0 at the last step."""
    clip: float = 1.0
    """The gradients' norm is cut to this."""
    precision: Precision = "auto"
    """What products are computed in; weights are float32. See `resolve`."""
    seed: int = 0
    evaluate_every: int | None = None
    """Steps between evaluations; there is one after the last step in any case."""
    patience: int | None = None
    """Stop after so many evaluations in a row without a better one."""
    checkpoint_seconds: float = 60.0
    """At most so often is a checkpoint written, besides at the end and when interrupted."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "clip", "evaluate_every", "patience"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value}.", "Give a positive number.")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup is {self.warmup}.", "Give the share of the steps, from 0 to 1.")

    def rate(self, step: int) -> float:
        """The learning rate of the step numbered `step`, from 0."""
        rising = round(self.warmup * self.steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        share = (step - rising) / max(1, self.steps - rising)
        if self.schedule == "linear":
            return self.learning_rate * (1 - share)
        return (
            self.learning_rate * (1 + math.cos(math.pi * share)) / 2
            if self.schedule == "cosine"
            else self.learning_rate
        )


@dataclass(frozen=True)
class Progress:
    """How a training goes, after one of its steps."""

    step: int
    total: int
    loss: float
    """Smoothed over the last steps."""
    samples_per_second: float
    """Since the start or the resumption."""
    parts: dict[str, float]
    """What the loss function says its last loss consists of."""
    metric: float | None = None
    """What the last evaluation found."""


@dataclass
class History:
    """How a training went."""

    step: int = 0
    """Steps done."""
    loss: float = math.nan
    """Smoothed over the last steps."""
    losses: list[tuple[int, float]] = field(default_factory=list)
    """(step, smoothed loss), about a hundred."""
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    """(step, metric)."""
    best: tuple[int, float] | None = None
    """The evaluation whose weights were kept."""
    seconds: float = 0.0
    """Wall time, that before interruptions included."""
    finished: bool = False
    notes: list[str] = field(default_factory=list)
    """Plain sentences on what went otherwise than wanted."""


def device() -> torch.device:
    """Where `train` computes: the first CUDA device, or else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve(precision: Precision) -> Literal["fp32", "bf16"]:
    """The precision that "auto" stands for on this machine: bf16 where the processor multiplies it.

    On a CPU those are the ones with AVX512-BF16 or AMX; others convert each product, and are slower
    for it.
    """
    if precision != "auto":
        return precision
    if device().type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Releases before 2.13 do not tell.
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if told.get("avx512_bf16") or told.get("amx_bf16") else "fp32"


def train(
    module: nn.Module,
    samples: Batches,
    loss: Loss,
    settings: Settings,
    *,
    identity: str = "",
    checkpoint: Path | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    on_step: Callable[[int, nn.Module], None] | None = None,
    prepare: Callable[[], None] | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> History:
    """Train `module` in place, and leave it on the CPU in evaluation mode.

    `loss` gives the mean loss of a batch, alone or with numbers of its parts by name; it is called
    within autocast. `on_step` is called after each update with the number of steps done.
    `evaluate` judges the module in evaluation mode, higher being better; with it the module ends
    with the best weights found, else with the last. `prepare` is called before the first step, where
    any is left to do; it and `evaluate` run within autocast and without gradients.

    With a folder `checkpoint`, its state is kept there and found again: a training of the same
    module, settings and `identity` (which says what else the result depends on: data, teacher,
    weights of losses) goes on where it was, to the same weights bit for bit on a CPU; one that is
    finished is not done again. `KeyboardInterrupt`, or what a callback raises, passes through once
    the state is written.

    Raises `InputError` where the loss is no longer finite.
    """
    settings = replace(settings, precision=resolve(settings.precision))
    run = _Run(module, settings, checkpoint, json.dumps(asdict(settings)), identity)
    try:
        with _uninterrupted():
            run.resume()
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            if prepare is not None and not run.history.finished:
                with torch.no_grad(), run.autocast():
                    prepare()
            while not run.history.finished:
                if evaluate is not None and run.judges():
                    run.judge(evaluate)
                elif run.over():
                    run.finish()
                else:
                    run.step(samples, loss, on_step)
                    progress(run.progress())
                if time.monotonic() - run.written >= settings.checkpoint_seconds:
                    run.write()
    except BaseException:  # Ctrl-C, or a caller's own way of stopping
        run.write()
        raise
    finally:
        module.to("cpu").eval()
    return run.history


class _Run:
    def __init__(
        self, module: nn.Module, settings: Settings, folder: Path | None, described: str, identity: str
    ) -> None:
        self.module, self.settings, self.folder = module, settings, folder
        self.history = History()
        self.best: saved.State = {}
        self.key = "" if folder is None else saved.fingerprint(module, described, identity)
        self.device = device()
        module.to(self.device).train()
        self.optimizer = _optimizer(module, settings)
        self.whole = True
        """Whether weights and history are those after the same step."""
        self.written = self.began = time.monotonic()
        self.seen = 0
        self.parts: dict[str, float] = {}
        self.feed: Iterator[Batch] | None = None

    def resume(self) -> None:
        found = None if self.folder is None else saved.read(self.folder, self.key)
        if found is None:
            return
        groups, record = found
        saved.restore(self.module, groups["module"])
        self.best = groups.get("best", {})
        known = record["history"]
        for name in ("losses", "evaluations"):
            known[name] = [tuple(pair) for pair in known[name]]
        known["best"] = known["best"] and tuple(known["best"])
        self.history = History(**known)
        self.epoch, self.batch = record["epoch"], record["batch"]
        state = self.optimizer.state_dict()
        for name, tensor in groups.get("optimizer", {}).items():
            index, _, kind = name.partition(".")
            state["state"].setdefault(int(index), {})[kind] = tensor
        self.optimizer.load_state_dict(state)

    epoch = batch = 0
    """Where the data are: the epoch, and how many of its batches are done."""

    def over(self) -> bool:
        return self.history.step >= self.settings.steps or self._worse() >= (
            self.settings.patience or math.inf
        )

    def judges(self) -> bool:
        step, every = self.history.step, self.settings.evaluate_every
        judged = self.history.evaluations[-1][0] if self.history.evaluations else 0
        return step > judged and (step >= self.settings.steps or bool(every and step % every == 0))

    def _worse(self) -> int:
        """How many evaluations there were since the best."""
        best = self.history.best
        return 0 if best is None else sum(step > best[0] for step, _ in self.history.evaluations)

    def judge(self, evaluate: Callable[[nn.Module], float]) -> None:
        self.module.eval()
        with torch.no_grad(), self.autocast():
            value = float(evaluate(self.module))
        self.module.train()
        with _uninterrupted():
            self.history.evaluations.append((self.history.step, value))
            if self.history.best is None or value > self.history.best[1]:
                self.history.best = self.history.step, value
                self.best = saved.state_of(self.module)

    def step(self, samples: Batches, loss: Loss, on_step: Callable[[int, nn.Module], None] | None) -> None:
        """One update, wholly or, but for an error, not at all: an interruption waits for its end."""
        settings, history = self.settings, self.history
        with _uninterrupted():
            self.whole = False
            started = time.monotonic()
            batch = self._next(samples)
            # The random numbers of a step follow from its number, so that resuming needs no others.
            state = np.random.SeedSequence((settings.seed, history.step)).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0] >> np.uint64(1)))
            with self.autocast():
                found = loss(self.module, batch.to(self.device))
            value, self.parts = found if isinstance(found, tuple) else (found, {})
            number = float(value.detach())
            if not math.isfinite(number):
                raise InputError(
                    f"The loss is {number} at step {history.step + 1}.", "Train with a lower learning rate."
                )
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.module.parameters(), settings.clip)
            for group in self.optimizer.param_groups:
                group["lr"] = group["pace"] * settings.rate(history.step)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            history.step += 1
            self.batch += 1
            if on_step is not None:
                on_step(history.step, self.module)
            kept = 0.0 if history.step == 1 else min(SMOOTHING, 1 - 1 / history.step)
            history.loss = number if not kept else kept * history.loss + (1 - kept) * number
            if history.step % max(1, settings.steps // RECORDS) == 0:
                history.losses.append((history.step, history.loss))
            history.seconds += time.monotonic() - started
            self.seen += len(batch.indices)
            self.whole = True

    def _next(self, samples: Batches) -> Batch:
        settings = self.settings
        if self.feed is None:
            self.feed = samples.batches(settings.batch_size, settings.seed, self.epoch, self.batch)
        batch = next(self.feed, None)
        if batch is None:
            self.epoch, self.batch = self.epoch + 1, 0
            self.feed = samples.batches(settings.batch_size, settings.seed, self.epoch)
            batch = next(self.feed)
        return batch

    def progress(self) -> Progress:
        history = self.history
        return Progress(
            step=history.step,
            total=self.settings.steps,
            loss=history.loss,
            samples_per_second=self.seen / max(1e-9, time.monotonic() - self.began),
            parts=self.parts,
            metric=history.evaluations[-1][1] if history.evaluations else None,
        )

    def finish(self) -> None:
        with _uninterrupted():
            if self.best:
                saved.restore(self.module, self.best)
            self.history.finished = True
            self.write()

    def write(self) -> None:
        """Keep the state on disk, where one is wanted; a disk that is full does not end the training."""
        self.written = time.monotonic()
        if self.folder is None or not self.whole:
            return
        groups = {"module": saved.state_of(self.module)}
        if not self.history.finished:
            groups["best"] = self.best
            groups["optimizer"] = {
                f"{index}.{kind}": tensor.detach().cpu().contiguous()
                for index, kinds in self.optimizer.state_dict()["state"].items()
                for kind, tensor in kinds.items()
            }
        record = {"key": self.key, "history": asdict(self.history), "epoch": self.epoch, "batch": self.batch}
        try:
            saved.write(self.folder, groups, record)
        except OSError as error:
            note = f"The state of the training could not be kept ({error.strerror or error})."
            if note not in self.history.notes:
                self.history.notes.append(note)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")


def _optimizer(module: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """A module that has a `pace` learns so many times faster."""
    paces = {
        parameter: float(member.pace)  # type: ignore[arg-type]
        for member in module.modules()
        if hasattr(member, "pace")
        for parameter in member.parameters()
    }
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            # Biases, and the weights of normalisations, do not decay.
            kind = paces.get(parameter, 1.0), parameter.dim() > 1
            groups.setdefault(kind, []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": group, "pace": pace, "weight_decay": settings.weight_decay * decays}
            for (pace, decays), group in sorted(groups.items(), key=lambda kind: kind[0], reverse=True)
        ],
        lr=settings.learning_rate,
        fused=True,
    )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C takes effect at the end: interrupted within, weights and history would be of two steps."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    caught: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        before(*caught[-1])
