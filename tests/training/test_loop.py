"""The loop against torch's own steps; stopped, killed and resumed, it ends with the same weights."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from openglm.errors import InputError  # noqa: E402
from openglm.training import checkpoint as saved  # noqa: E402
from openglm.training.loop import History, Progress, Settings, resolve, train  # noqa: E402
from openglm.training.samples import Batch  # noqa: E402

PLAN = Settings(steps=12, batch_size=8, learning_rate=0.01, precision="fp32", checkpoint_seconds=0)


pytestmark = pytest.mark.usefixtures("one_thread")


class Points:
    """Points of a plane in two classes, 24 of them."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.points = torch.from_numpy(random.normal(size=(24, 2)).astype(np.float32))
        self.labels = (self.points.sum(1) > 0).long()

    def batches(self, size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(24))
        for rows in order.split(size)[start:]:
            yield Batch({"points": self.points[rows]}, self.labels[rows], rows)


def net() -> Any:
    torch.manual_seed(7)
    return torch.nn.Sequential(
        torch.nn.Linear(2, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.3), torch.nn.Linear(6, 2)
    )


def loss(module: Any, batch: Batch) -> Any:
    return torch.nn.functional.cross_entropy(module(batch.inputs["points"]), batch.labels)


def score(module: Any) -> float:
    """Rises and falls, so that the best weights are not the last ones."""
    return math.sin(1000 * float(module[0].weight.sum()))


def trained(plan: Settings = PLAN, **options: Any) -> tuple[saved.State, History]:
    module = net()
    history = train(module, Points(), loss, plan, **options)
    return saved.state_of(module), history


def same(first: saved.State, second: saved.State) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


def test_updates_are_those_of_torch() -> None:
    plan = replace(PLAN, warmup=0.25, schedule="cosine", weight_decay=0.1, clip=0.5)
    module, twin = net(), net()
    for each in (module, twin):
        # Before a batch norm a bias has gradients of rounding alone, which AdamW makes steps of.
        each[1] = torch.nn.Tanh()
        each[2] = torch.nn.Identity()
    train(module, Points(), loss, plan)
    biases = [p for p in twin.parameters() if p.dim() == 1]
    weights = [p for p in twin.parameters() if p.dim() == 2]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0}], lr=0.01
    )
    step = 0
    for epoch in range(4):
        for batch in Points().batches(8, 0, epoch):
            for group in optimizer.param_groups:
                share = (step - 3) / 9
                group["lr"] = 0.01 * ((step + 1) / 3 if step < 3 else (1 + math.cos(math.pi * share)) / 2)
            optimizer.zero_grad()
            loss(twin, batch).backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            optimizer.step()
            step += 1
    assert step == plan.steps
    for name, tensor in saved.state_of(module).items():
        torch.testing.assert_close(tensor, saved.state_of(twin)[name], rtol=1e-5, atol=1e-6)


def test_a_module_learns_at_its_own_pace() -> None:
    plan = replace(PLAN, steps=1, warmup=0, weight_decay=0, schedule="constant")
    before, fast = net(), net()
    fast[3].pace = 5.0
    train(fast, Points(), loss, plan)
    # The first update of Adam is of the learning rate's size, whatever the gradient.
    for layer, rate in ((0, 0.01), (3, 0.05)):
        step = (fast[layer].weight - before[layer].weight).abs()
        torch.testing.assert_close(step, torch.full_like(step, rate), rtol=0.01, atol=0)


def test_learning_rates() -> None:
    linear = [replace(PLAN, steps=10, warmup=0.2, schedule="linear").rate(step) for step in range(10)]
    assert linear == pytest.approx(
        [0.01 * x for x in (1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8)]
    )
    assert replace(PLAN, schedule="constant", warmup=0).rate(11) == 0.01


def test_is_deterministic_and_leaves_torchs_random_numbers_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = net()
    torch.random.set_rng_state(before)
    train(first, Points(), loss, PLAN)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second, _ = trained()
    assert same(saved.state_of(first), second)
    other, _ = trained(replace(PLAN, seed=1))
    assert not same(second, other)


class Stop(BaseException):
    pass


@pytest.mark.parametrize("evaluated", [False, True])
def test_interrupted_after_every_step(tmp_path: Path, evaluated: bool) -> None:
    options: dict[str, Any] = {"evaluate": score} if evaluated else {}
    plan = replace(PLAN, evaluate_every=5 if evaluated else None)
    whole, history = trained(plan, **options)
    if evaluated:
        assert history.best is not None
        assert history.best[0] < plan.steps
        assert [step for step, _ in history.evaluations] == [5, 10, 12]

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    for _ in range(plan.steps):
        with pytest.raises(KeyboardInterrupt):
            trained(plan, checkpoint=tmp_path, progress=stop, **options)
    parts, again = trained(plan, checkpoint=tmp_path, **options)
    assert same(whole, parts)
    assert replace(again, seconds=0) == replace(history, seconds=0)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=6), st.sampled_from([0.0, 1e9]), st.booleans())
def test_interrupted_anywhere(tmp_path_factory: Any, calls: list[int], every: float, evaluated: bool) -> None:
    """Whatever the loss, the hook, the judge or the progress raises at some call of theirs."""
    plan = replace(PLAN, checkpoint_seconds=every, evaluate_every=2 if evaluated else None)
    folder = tmp_path_factory.mktemp("run")
    left = math.inf

    def tick() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Stop

    def noisy(module: Any, batch: Batch) -> Any:
        found = loss(module, batch)
        tick()
        return found

    def judge(module: Any) -> float:
        tick()
        return score(module)

    def run() -> saved.State:
        module = net()
        train(
            module, Points(), noisy, plan, checkpoint=folder, evaluate=judge if evaluated else None,
            on_step=lambda *_: tick(), progress=lambda _: tick(),
        )  # fmt: skip
        return saved.state_of(module)

    for call in calls:
        left = call
        try:
            run()
        except Stop:
            assert not list(folder.glob("*.part"))
    left = math.inf
    assert same(run(), trained(plan, **({"evaluate": score} if evaluated else {}))[0])


@pytest.fixture
def handler() -> Iterator[Any]:
    """Python's own answer to Ctrl-C, whatever a library that other tests ran has put in its place."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_for_the_end_of_a_step(handler: Any, tmp_path: Path) -> None:
    assert threading.current_thread() is threading.main_thread()
    reached = []

    def pressed(module: Any, batch: Batch) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(True)
        return loss(module, batch)

    module = net()
    with pytest.raises(KeyboardInterrupt):
        train(module, Points(), pressed, replace(PLAN, checkpoint_seconds=1e9), checkpoint=tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert reached == [True]
    steps: list[int] = []
    found, _ = trained(
        replace(PLAN, checkpoint_seconds=1e9), checkpoint=tmp_path, progress=lambda p: steps.append(p.step)
    )
    assert steps == list(range(2, 13))
    assert same(found, trained()[0])


KILLED = """
import sys
sys.path.insert(0, {folder!r})
from pathlib import Path
import torch
from test_loop import PLAN, Points, loss, net
torch.set_num_threads(1)
from openglm.training.loop import train
train(net(), Points(), loss, PLAN, checkpoint=Path({run!r}), progress=lambda p: print(p.step, flush=True))
"""


def test_killed(tmp_path: Path) -> None:
    """A process that is killed outright, once after five steps and then wherever it is."""
    code = KILLED.format(folder=str(Path(__file__).parent), run=str(tmp_path / "run"))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 5:
                child.kill()
                break
    assert child.returncode == -signal.SIGKILL
    steps: list[int] = []
    found, _ = trained(checkpoint=tmp_path / "run", progress=lambda p: steps.append(p.step))
    assert 5 <= steps[0] <= PLAN.steps
    assert same(found, trained()[0])


def test_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first, history = trained(checkpoint=tmp_path)

    def never(*_: Any) -> Any:
        raise AssertionError("it was trained again")

    module = net()
    assert train(module, Points(), never, PLAN, checkpoint=tmp_path) == history
    assert same(saved.state_of(module), first)
    assert not module.training


def _broken(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "change",
    [
        _broken,
        lambda _: b"",
        lambda content: b"\xff" * 8 + content[8:],
        lambda c: c.replace(b'"key', b'"kex'),
    ],
)
def test_broken_checkpoint_is_as_good_as_none(tmp_path: Path, change: Any) -> None:
    first, _ = trained(checkpoint=tmp_path)
    file = tmp_path / saved.FILE
    file.write_bytes(change(file.read_bytes()))
    steps: list[int] = []
    found, _ = trained(checkpoint=tmp_path, progress=lambda p: steps.append(p.step))
    assert steps[0] == 1
    assert same(found, first)


def test_checkpoint_of_another_training_is_not_used(tmp_path: Path) -> None:
    trained(checkpoint=tmp_path)
    for change in ({"plan": replace(PLAN, learning_rate=0.02)}, {"identity": "another teacher"}):
        steps: list[int] = []
        trained(**{"checkpoint": tmp_path, "progress": lambda p, s=steps: s.append(p.step)} | change)
        assert steps[0] == 1
    module = net()
    with torch.no_grad():
        module[0].weight[0, 0] += 1e-6
    steps = []
    train(module, Points(), loss, PLAN, checkpoint=tmp_path, progress=lambda p: steps.append(p.step))
    assert steps[0] == 1


def test_full_disk_does_not_end_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise saved.SafetensorError('IoError(Os { code: 28, kind: StorageFull, message: "No space left" })')

    monkeypatch.setattr(saved, "save_file", full)
    found, history = trained(checkpoint=tmp_path)
    assert same(found, trained()[0])
    assert len(history.notes) == 1
    assert "No space left" in history.notes[0]
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found, history = trained(checkpoint=tmp_path / "file" / "run")
    assert same(found, trained()[0])
    assert len(history.notes) == 1


def test_stops_early_with_the_best_weights() -> None:
    values = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    seen: list[saved.State] = []

    def judge(module: Any) -> float:
        assert not module.training
        assert not torch.is_grad_enabled()
        seen.append(saved.state_of(module))
        return next(values)

    found, history = trained(replace(PLAN, evaluate_every=2, patience=2), evaluate=judge)
    assert history.evaluations == [(2, 1.0), (4, 3.0), (6, 2.0), (8, 2.5)]
    assert history.best == (4, 3.0)
    assert history.step == 8
    assert same(found, seen[1])


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    def tied() -> Any:
        module = net()
        module[3] = torch.nn.Linear(6, 6)
        module.append(torch.nn.Linear(6, 6))
        module[4].weight = module[3].weight
        return module

    def stop(progress: Progress) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    whole, parts = tied(), tied()
    train(whole, Points(), loss, PLAN)
    with pytest.raises(KeyboardInterrupt):
        train(tied(), Points(), loss, PLAN, checkpoint=tmp_path, progress=stop)
    train(parts, Points(), loss, PLAN, checkpoint=tmp_path)
    assert parts[4].weight is parts[3].weight
    assert same(saved.state_of(whole), saved.state_of(parts))


def test_hook_and_progress() -> None:
    hooked: list[int] = []
    told: list[Progress] = []

    def parts(module: Any, batch: Batch) -> Any:
        value = loss(module, batch)
        return value, {"hard": float(value.detach())}

    module = net()
    history = train(
        module, Points(), parts, PLAN, on_step=lambda step, m: hooked.append(step), progress=told.append
    )
    assert hooked == [p.step for p in told] == list(range(1, 13))
    assert {p.total for p in told} == {12}
    assert told[0].loss == pytest.approx(told[0].parts["hard"])
    mean = np.mean([p.parts["hard"] for p in told])
    assert told[-1].loss == pytest.approx(mean)
    assert history.losses == [(p.step, p.loss) for p in told]
    assert all(p.samples_per_second > 0 for p in told)


def test_hook_may_change_weights() -> None:
    def zero(_: int, module: Any) -> None:
        with torch.no_grad():
            module[0].bias.zero_()

    found, _ = trained(on_step=zero)
    assert not found["0.bias"].any()


def test_loss_that_is_not_finite() -> None:
    with pytest.raises(InputError, match="nan at step 1"):
        train(net(), Points(), lambda m, b: loss(m, b) * math.nan, PLAN)


def test_bf16_computes_in_bf16() -> None:
    kinds = set()

    def watched(module: Any, batch: Batch) -> Any:
        output = module(batch.inputs["points"])
        kinds.add(output.dtype)
        return torch.nn.functional.cross_entropy(output.float(), batch.labels)

    module = net()
    train(module, Points(), watched, replace(PLAN, precision="bf16"))
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert resolve("auto") in ("fp32", "bf16")


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"learning_rate": math.nan}, {"warmup": 1.5}, {"batch_size": -1}]
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        replace(PLAN, **wrong)
