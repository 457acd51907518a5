"""Exits answer as heads by hand do, stay with their own module, and learn as the objective says."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from openglm import AutoModel, distil  # noqa: E402
from openglm.model.model import Model  # noqa: E402
from openglm.training import exits, losses  # noqa: E402
from openglm.training.exits import ExitHead  # noqa: E402
from openglm.training.objective import Distillation, Objective  # noqa: E402
from openglm.training.samples import Batch  # noqa: E402

nn = torch.nn


pytestmark = pytest.mark.usefixtures("one_thread")


class Block(nn.Module):
    """Gives a tuple, as the layers of transformers do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        return (x + torch.tanh(self.dense(x)),)


class Reader(nn.Module):
    """Vectors for tokens (rows, tokens, 6) into classes, or a number."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(6) for _ in range(3))
        self.head = nn.Linear(6, outputs)

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            (x,) = block(x)
        return {"logits": self.head(x[:, 0])}


class Looker(nn.Sequential):
    """Pictures (rows, 2, 8, 8) into classes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, 3)
        )


def reader(outputs: int = 3) -> Any:
    """With exits after the first and the second block."""
    module = Reader(outputs).eval()
    heads = {f"blocks.{place}": ExitHead(6, outputs, tokens=True) for place in range(2)}
    exits.attach(module, heads)
    return module


def by_hand(module: Any, x: Any) -> list[Any]:
    """The end's answer, then those of the exits, by weights alone."""
    found = []
    for block, head in zip(module.blocks, [*module.exits.heads, None], strict=True):
        x = x + torch.tanh(x @ block.dense.weight.T + block.dense.bias)
        if head is not None:
            read = torch.cat([x[:, 0], x.mean(1)], 1)
            vector = torch.tanh(read @ head.hidden.weight.T + head.hidden.bias)
            found.append(vector @ head.answer.weight.T + head.answer.bias)
    return [x[:, 0] @ module.head.weight.T + module.head.bias, *found]


def close(first: Any, second: Any) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


X = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(1))


def test_answers_from_tokens() -> None:
    module = reader()
    assert exits.count(module) == 2
    assert exits.count(module.head) == 0
    assert module.extra_outputs == ("exit_1", "exit_2")
    for _ in range(2):  # nothing is left over for the next call
        close(module(X), by_hand(module, X))


def test_answers_from_pictures() -> None:
    module = Looker().eval()
    head = ExitHead(4, 3, tokens=False)
    x = torch.randn(5, 2, 8, 8)
    end, seen = module(x), module[0](x)
    exits.attach(module, {"0": head})
    for depthwise, pointwise, norm, _ in zip(*[iter(head.hidden)] * 4, strict=True):
        seen = nn.functional.conv2d(seen, depthwise.weight, stride=2, padding=1, groups=seen.shape[1])
        seen = torch.relu(norm(nn.functional.conv2d(seen, pointwise.weight)))
    assert seen.shape == (5, 64, 1, 1)
    close(module(x), [end, seen[:, :, 0, 0] @ head.answer.weight.T + head.answer.bias])


class Masked(Reader):
    """A reader whose blocks are given a mask, by name, as those of transformers are."""

    class Block(Block):
        def forward(self, x: Any, attention_mask: Any = None) -> Any:
            return super().forward(x)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Block(6) for _ in range(3))

    def forward(self, x: Any, mask: Any) -> Any:
        for block in self.blocks:
            (x,) = block(x, attention_mask=mask)
        return {"logits": self.head(x[:, 0])}


def test_a_token_counts_in_the_mean_as_much_as_the_mask_leaves_of_it() -> None:
    module = Masked().eval()
    exits.attach(module, {"blocks.1": ExitHead(6, 3, tokens=True)})
    there = torch.tensor([[1.0, 1.0, 0.25, 0.0]]).expand(5, 4)
    mask = there.log().clamp(min=torch.finfo(torch.float32).min)
    x = module.blocks[1](*module.blocks[0](X))[0]
    mean = (x * there[:, :, None]).sum(1) / 2.25
    (head,) = module.exits.heads
    vector = torch.tanh(head.hidden(torch.cat([x[:, 0], mean], 1)))
    torch.testing.assert_close(module(X, mask[:, None, None])[1], head.answer(vector))
    shorter = module(X[:, :2], torch.zeros(5, 1, 1, 2))
    close(shorter, module(X, there.gt(0.5).float().log().clamp(min=-1e30)[:, None, None]))


def test_a_copy_answers_by_itself() -> None:
    module = reader()
    before = module(X)
    twin = copy.deepcopy(module)
    close(twin(X), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    close(module(X), before)
    close(twin(X), by_hand(twin, X))
    assert all((one - other).abs().max() > 1e-3 for one, other in zip(twin(X), before, strict=True))


def test_gradients_reach_the_layers_before_an_exit_alone() -> None:
    module = reader()
    module(X)[1].sum().backward()
    assert module.exits.heads[0].answer.weight.grad.abs().sum() > 0
    assert module.blocks[0].dense.weight.grad.abs().sum() > 0
    assert module.blocks[1].dense.weight.grad is None
    assert module.exits.heads[1].answer.weight.grad is None


def test_layers_learn_little_from_exits() -> None:
    def learnt(module: Any) -> Any:
        module.zero_grad()
        module(X)[1].sum().backward()
        return [module.blocks[0].dense.weight.grad, module.exits.heads[0].answer.weight.grad]

    whole, (layer, head) = learnt(reader()), learnt(reader().train())
    close([layer, head], [exits.SHARE * whole[0], whole[1]])


def objective(teacher: Any, task: str, **wanted: Any) -> Objective:
    return Objective(SimpleNamespace(module=teacher), task, Distillation(**wanted))  # type: ignore[arg-type]


def rows(answers: Any) -> Any:
    return SimpleNamespace(answers={}, answered=lambda objective, batch: answers[batch.indices])


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_loss_of_classes(alpha: float) -> None:
    module, teacher = reader(), Reader().eval()
    labels = torch.tensor([0, 1, 2, 1, 0]) if alpha < 1 else None
    answers = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    wanted = objective(teacher, "classification", temperature=2.0, alpha=alpha)
    batch = Batch({"x": X}, labels, torch.arange(5))
    total, parts = wanted(nn.ModuleDict({"student": module}), batch, rows(answers))

    def loss(output: Any, learnt: Any) -> Any:
        found = losses.soft(output, learnt, 2.0)
        return found if labels is None else alpha * found + (1 - alpha) * losses.hard(output, labels)

    end, first, second = module(X)
    expected = (3 * loss(end, answers) + loss(first, end.detach()) + 2 * loss(second, end.detach())) / 6
    torch.testing.assert_close(total, expected)
    early = (loss(first, end) + 2 * loss(second, end)) / 6
    assert parts["exits"] == pytest.approx(early.item(), rel=1e-5)
    assert parts["teacher"] == pytest.approx(losses.soft(end, answers, 2.0).item(), rel=1e-5)
    assert set(parts) == {"teacher", "exits"} | ({"labels"} if alpha < 1 else set())
    # Exits learn from the end, and the end nothing from them.
    assert torch.equal(
        *(
            torch.autograd.grad(loss_, module.head.weight, retain_graph=True)[0]
            for loss_ in (total, 3 * loss(end, answers) / 6)
        )
    )


def test_loss_of_a_number() -> None:
    module = reader(1)
    answers = torch.randn(5, 1, generator=torch.Generator().manual_seed(2))
    wanted = objective(Reader(1).eval(), "classification", alpha=1.0)
    total, _ = wanted(
        nn.ModuleDict({"student": module}), Batch({"x": X}, None, torch.arange(5)), rows(answers)
    )
    end, first, second = module(X)
    loss = losses.response
    torch.testing.assert_close(
        total, (3 * loss(end, answers) + loss(first, end.detach()) + 2 * loss(second, end.detach())) / 6
    )


def test_without_exits_nothing_is_added() -> None:
    module = Reader().eval()
    answers = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    wanted = objective(module, "classification", alpha=1.0, temperature=1.0)
    total, parts = wanted(
        nn.ModuleDict({"student": module}), Batch({"x": X}, None, torch.arange(5)), rows(answers)
    )
    torch.testing.assert_close(total, losses.soft(module(X)["logits"], answers, 1.0))
    assert set(parts) == {"teacher"}


def disagreement(model: Model, data: list[dict[str, Any]]) -> list[float]:
    """How far each exit is from the end."""
    with torch.no_grad():
        end, *early = model.module(torch.from_numpy(np.stack([row["x"] for row in data])))
    return [float(losses.soft(found, end, 3.0)) for found in early]


def test_exits_learn_together_with_the_network() -> None:
    teacher = AutoModel.wrap(Reader().eval(), {"x": X}, task="classification")
    student = teacher.with_module(reader())
    rng = np.random.default_rng(0)
    data = [{"x": rng.normal(size=(4, 6)).astype(np.float32)} for _ in range(64)]
    before = {name: tensor.clone() for name, tensor in student.module.state_dict().items()}
    taught = distil(teacher, student, data, steps=60, batch_size=16, learning_rate=1e-2, precision="fp32")
    assert exits.count(taught.module) == 2
    after = taught.module.state_dict()
    assert after.keys() == before.keys()
    assert all(not torch.equal(after[name], before[name]) for name in before)
    own = student.module.state_dict()
    assert all(torch.equal(own[name], before[name]) for name in before)
    for late, early in zip(disagreement(taught, data), disagreement(student, data), strict=True):
        assert late < 0.3 * early
    close(taught.module(X), by_hand(taught.module, X))
