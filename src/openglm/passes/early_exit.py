"""Early exit: heads after the layers of a network, so that easy inputs need not go through all of it.

For encoders as DeeBERT has them (Xin et al. 2020), for networks of convolutions as BranchyNet
(Teerapittayanon et al. 2016). The heads learn in the `distil` that follows, together with the network:
each from the last exit's answers (Phuong and Lampert 2019), the later ones counting more (PABEE: Zhou
et al. 2020). Where an input leaves is settled afterwards, by the pass `program`.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from openglm.errors import InputError
from openglm.model.model import Model
from openglm.passes.contract import Adapted, Context, ModulePass

if TYPE_CHECKING:
    import torch
    from torch import nn

    from openglm.training.exits import ExitHead


class EarlyExit(ModulePass):
    """Put exits after blocks of an encoder, or after stages of a network of convolutions.

    Raises `InputError` for a model that gives no answer of a few numbers, and where its layers do not
    follow one another.
    """

    scheme: ClassVar[str] = "early_exit"
    needs_calibration: ClassVar[bool] = True

    exits: Annotated[int, Field(ge=1)] | None = None
    """How many, at equal distances by work; after every block, or three in a network of
    convolutions, if not given."""
    after: tuple[str, ...] | None = Field(default=None, min_length=1)
    """In place of `exits`: the layers, as named_modules() has them."""
    seed: int = Field(default=0, ge=0)
    """Of the heads' weights."""

    @property
    def code(self) -> str:
        count = len(self.after) if self.after is not None else self.exits
        return f"{self.scheme}_{count}" if count is not None else self.scheme

    def apply(self, model: Model, context: Context) -> Adapted:
        import torch

        from openglm.passes.structure.moments import tensors
        from openglm.training import exits, shortening
        from openglm.training.distillation import default_rate
        from openglm.training.losses import main_output

        module = deepcopy(model.module).eval()
        if shortening.of(module) is not None:
            raise InputError("Exits were to be put on after token pruning.", "Put early_exit before it.")
        if exits.count(module):
            raise InputError(f"{model.name} has exits already.", "Put early_exit into a recipe once.")
        batch = next(iter(context.calibration()), None) if context.calibration is not None else None
        if batch is None:
            raise InputError("Early exit needs one input to look at.", "Give data.")
        inputs = tensors(batch)
        with torch.no_grad():
            answer = main_output(module(**inputs))
        if answer.dim() != 2 or model.task == "embedding":
            raise InputError(
                f"{model.name} does not answer with classes or a number.", "Leave early_exit out for it."
            )
        chain = _named(module, self.after) if self.after is not None else _chain(module, inputs)
        seen, total = _traced(module, chain, inputs)
        if self.after is None:
            chain = _picked(seen, total, self.exits)
        elif unfit := next((path for path in chain if path not in seen), None):
            raise InputError(
                f"The layer '{unfit}' does not run once and give vectors for tokens, or pictures.",
                "Name blocks or stages.",
            )
        else:
            chain = list(seen)
        if not chain:
            raise InputError(
                f"{model.name} has no place for exits.",
                "They suit networks whose blocks or stages follow one another; name layers with `after`.",
            )
        heads: dict[str, ExitHead] = {}
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            for path in chain:
                shape, _ = seen[path]
                heads[path] = exits.ExitHead(
                    shape[1] if len(shape) == 4 else shape[-1], answer.shape[-1], tokens=len(shape) == 3
                )
                heads[path].pace = exits.RATE / default_rate(module)
        exits.attach(module, heads)
        return Adapted(model.with_module(module), True, (f"Exits after {', '.join(chain)}.",))


def _named(module: nn.Module, paths: tuple[str, ...]) -> list[str]:
    known = dict(module.named_modules())
    if missing := next((path for path in paths if path not in known), None):
        raise InputError(f"The model has no layer '{missing}'.", "Name layers as named_modules() does.")
    return list(dict.fromkeys(paths))


def _chain(module: nn.Module, inputs: dict[str, torch.Tensor]) -> list[str]:
    """The layers that an exit may follow: the blocks of a transformer, or the longest run of layers that
    give pictures, but for the last."""
    from torch import nn

    from openglm.passes.structure.blocks import blocks

    found = [block.name for block in blocks(module)]
    if not found:
        containers = [
            [f"{path}.{key}" if path else key for key, _ in member.named_children()]
            for path, member in module.named_modules()
            if isinstance(member, nn.ModuleList | nn.Sequential)
        ]
        given, _ = _traced(module, [name for names in containers for name in names], inputs)
        pictures = [[name for name in names if len(given.get(name, ((), 0))[0]) == 4] for names in containers]
        found = max(pictures, key=len, default=[])
    return found[:-1]


def _traced(
    module: nn.Module, paths: list[str], inputs: dict[str, torch.Tensor]
) -> tuple[dict[str, tuple[tuple[int, ...], int]], int]:
    """For each layer that ran once, in the order they ran: the shape of what it gave, and the
    multiply-accumulates until then; and those of all."""
    import torch
    from torch import nn

    from openglm.training.losses import main_output

    work, found, runs = 0, {}, dict.fromkeys(paths, 0)
    handles = []

    def count(layer: nn.Module, given: Any, output: torch.Tensor) -> None:
        nonlocal work
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        work += output.numel() // output.shape[1 if output.dim() == 4 else -1] * weight.numel()

    def keep(path: str) -> Any:
        def note(layer: nn.Module, given: Any, output: Any) -> None:
            runs[path] += 1
            found[path] = tuple(main_output(output).shape), work

        return note

    for member in module.modules():
        if isinstance(member, nn.Linear | nn.Conv2d):
            handles.append(member.register_forward_hook(count))
    for path in paths:
        handles.append(module.get_submodule(path).register_forward_hook(keep(path)))
    try:
        with torch.no_grad():
            module(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {path: seen for path, seen in found.items() if runs[path] == 1 and len(seen[0]) in (3, 4)}, work


def _picked(seen: dict[str, tuple[tuple[int, ...], int]], total: int, wanted: int | None) -> list[str]:
    """Of these layers those nearest to equal distances by work, of which the whole network does `total`."""
    if not seen:
        return []
    if wanted is None and all(len(shape) == 3 for shape, _ in seen.values()):
        return list(seen)
    count = wanted or 3
    places = [
        min(seen, key=lambda path: abs(seen[path][1] - total * (place + 1) / (count + 1)))
        for place in range(count)
    ]
    return list(dict.fromkeys(places))
