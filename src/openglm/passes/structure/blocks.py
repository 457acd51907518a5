"""The blocks of a transformer: where their attention and feed-forward layers are, and cutting these.

Blocks are found by the names that the common families give their layers (`ATTENTION`,
`FEED_FORWARD`); a family with other names is one more line there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from openglm.errors import InputError
from openglm.passes.structure.moments import in_turn, refit

ATTENTION = (
    # What holds the counts of heads; its query, key, value; the output, from the block.
    ("attention.self", ("query", "key", "value"), "attention.output.dense"),  # BERT, RoBERTa, ELECTRA
    ("attention.attention", ("query", "key", "value"), "attention.output.dense"),  # DINOv2
    ("attention", ("q_lin", "k_lin", "v_lin"), "attention.out_lin"),  # DistilBERT
    ("attention", ("q_proj", "k_proj", "v_proj"), "attention.o_proj"),  # ViT, DeiT, BEiT
    ("self_attn", ("q_proj", "k_proj", "v_proj"), "self_attn.o_proj"),  # Llama, Mistral, Qwen, Gemma
    ("self_attn", ("q_proj", "k_proj", "v_proj"), "self_attn.out_proj"),  # OPT, BART, Marian, CLIP
)
FEED_FORWARD = (
    (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),  # Llama, Mistral, Qwen, Gemma
    (("intermediate.dense",), "output.dense"),  # BERT, RoBERTa, ELECTRA, MPNet
    (("ffn.lin1",), "ffn.lin2"),  # DistilBERT
    (("mlp.fc1",), "mlp.fc2"),  # ViT, CLIP, Phi, timm
    (("fc1",), "fc2"),  # OPT, BART, Marian, Whisper
    (("linear1",), "linear2"),  # torch.nn.TransformerEncoderLayer
    (("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"),  # GPT-NeoX
)
_HEAD_SIZE = ("attention_head_size", "head_dim", "head_size")
_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
_WIDTH = ("all_head_size", "embed_dim", "dim")

Calibration = Callable[[], Iterable[Mapping[str, np.ndarray]]]
Part = Literal["attention", "feed_forward"]


@dataclass(frozen=True)
class Attention:
    """A self-attention layer, by paths from the root module."""

    holder: str
    """The module that knows how many heads there are."""
    inputs: tuple[str, ...]
    """The Linear layers of query, key and value."""
    output: str
    """The Linear layer that the heads, one beside the other, go through."""
    heads: int
    kv_heads: int
    """Heads of key and value; each serves `heads / kv_heads` heads of the query that follow one another."""
    head_size: int

    @property
    def groups(self) -> int:
        """How many parts can be pruned by themselves: heads of key and value with those they serve."""
        return self.kv_heads


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward layer, by paths from the root module."""

    holder: str | None
    """The module that holds these layers and nothing else of the block; None where there is no such."""
    inputs: tuple[str, ...]
    """The Linear layers into the hidden neurons: one, or gate and up."""
    output: str
    neurons: int

    @property
    def groups(self) -> int:
        """How many parts can be pruned by themselves: every neuron."""
        return self.neurons


@dataclass(frozen=True)
class Block:
    """A transformer block."""

    name: str
    """Path from the root module, such as "model.encoder.layer.3"."""
    index: int
    """Its place among all blocks of the module, from 0."""
    container: str
    """Path of the ModuleList or Sequential it is in."""
    position: int
    """Its place there, from 0."""
    attention: Attention | None
    feed_forward: FeedForward | None


def blocks(module: nn.Module) -> list[Block]:
    """The transformer blocks of a module: container after container as registered, each in its order.

    Empty where none has names that are known. The same module at two places of a container is two
    blocks.
    """
    found: list[Block] = []
    for path, container in module.named_modules():
        if not isinstance(container, nn.ModuleList | nn.Sequential):
            continue
        # Children by `_modules`: other ways leave out a module that is listed twice.
        children = [(i, *child) for i, child in enumerate(container._modules.items()) if child[1] is not None]
        for position, key, block in children:
            name = f"{path}.{key}" if path else key
            attention, feed_forward = _attention(block, name), _feed_forward(block, name)
            if attention is not None or feed_forward is not None:
                found.append(Block(name, len(found), path, position, attention, feed_forward))
    return found


def _attention(block: nn.Module, name: str) -> Attention | None:
    for holder, inputs, output in ATTENTION:
        query, key, value = (_linear(block, f"{holder}.{item}") for item in inputs)
        last = _linear(block, output)
        if query is None or key is None or value is None or last is None:
            continue
        size = _head_size(block.get_submodule(holder), query.out_features)
        if not size or query.out_features % size or key.out_features % size:
            continue
        heads, kv_heads = query.out_features // size, key.out_features // size
        # Else the parts of a projection that joins several things, or values of another size.
        plain = key.out_features == value.out_features and last.in_features == query.out_features
        if plain and heads % kv_heads == 0:
            paths = tuple(f"{name}.{holder}.{item}" for item in inputs)
            return Attention(f"{name}.{holder}", paths, f"{name}.{output}", heads, kv_heads, size)
    return None


def _head_size(holder: nn.Module, width: int) -> int | None:
    """From the layer itself first: a config speaks of all layers as they were made."""
    for attribute in _HEAD_SIZE:
        if isinstance(size := getattr(holder, attribute, None), int):
            return size
    for owner in (holder, getattr(holder, "config", None)):
        for attribute in _HEADS:
            heads = getattr(owner, attribute, None)
            if isinstance(heads, int) and heads > 0 and width % heads == 0:
                return width // heads
    return None


def _feed_forward(block: nn.Module, name: str) -> FeedForward | None:
    for inputs, output in FEED_FORWARD:
        first, last = [_linear(block, item) for item in inputs], _linear(block, output)
        # A first layer that is wider than the second's input holds gate and up in one.
        if last is None or any(item is None or item.out_features != last.in_features for item in first):
            continue
        parent = output.rpartition(".")[0]
        alone = parent and all(item.startswith(f"{parent}.") for item in inputs)
        paths = tuple(f"{name}.{item}" for item in inputs)
        holder = f"{name}.{parent}" if alone else None
        return FeedForward(holder, paths, f"{name}.{output}", last.in_features)
    return None


def _linear(module: nn.Module, path: str) -> nn.Linear | None:
    try:
        layer = module.get_submodule(path)
    except AttributeError:
        return None
    # Subclasses may compute their weight from other parameters.
    return layer if type(layer) is nn.Linear else None


def prunable(
    module: nn.Module, part: Part, wanted: Collection[int] | None, name: str
) -> tuple[list[Block], list[str]]:
    """The blocks, of those `wanted` by index, whose `part` can be pruned, and why others cannot.

    Raises `InputError` where there is none, with a reason.
    """
    every = blocks(module)
    what = "attention" if part == "attention" else "feed-forward layer"
    if not every:
        raise no_blocks(name)
    if wanted is not None and (missing := sorted(set(wanted) - {block.index for block in every})):
        raise InputError(
            f"{name} has no block {missing[0]}.", f"Its blocks are 0 to {len(every) - 1}, counted from 0."
        )
    uses = _uses(module)
    usable, notes = [], []
    for block in every:
        if wanted is not None and block.index not in wanted:
            continue
        found = block.attention if part == "attention" else block.feed_forward
        if found is None:
            notes.append(f"Block {block.index} stays: it has no {what} of separate linear layers.")
        elif any(
            uses[id(parameter)] > 1
            for layer in (*found.inputs, found.output)
            for parameter in module.get_submodule(layer).parameters()
        ):
            notes.append(f"Block {block.index} stays: another layer uses the weights of its {what}.")
        elif (other := _bound(module, found)) is not None:
            notes.append(f"Block {block.index} stays: {other} is as wide as its {what}.")
        else:
            usable.append(block)
    if not usable:
        raise InputError(
            f"No block of {name} can lose parts of its {what}: {(notes or ['none was named.'])[0]}",
            "layer_pruning removes whole blocks, quantization works on every model.",
        )
    return usable, notes


def no_blocks(name: str) -> InputError:
    """The error for a module without blocks."""
    return InputError(
        f"No transformer blocks were found in {name}: none of its layers has a name that is known.",
        "Quantization works on every model, factorising on every linear layer, and channel pruning on "
        "convolutions.",
    )


def _uses(module: nn.Module) -> Counter[int]:
    """How often each parameter is used, by id: by how many layers, at how many places of a container."""
    uses: Counter[int] = Counter()
    for member in module.modules():
        uses.update(id(parameter) for parameter in member.parameters(recurse=False))
        if isinstance(member, nn.ModuleList | nn.Sequential):
            for child, places in Counter(child for child in member if child is not None).items():
                for parameter in child.parameters():
                    uses[id(parameter)] += places - 1
    return uses


def _bound(module: nn.Module, part: Attention | FeedForward) -> str | None:
    """A tensor beside the part's own layers with a size that pruning would change; usually none.

    Such are a norm over the hidden neurons or over all heads, and a bias for each head.
    """
    if part.holder is None:
        return None
    sizes = {part.groups}
    if isinstance(part, Attention):
        sizes |= {part.heads, part.heads * part.head_size, part.kv_heads * part.head_size}
        sizes -= {part.head_size, 1}
    for path, member in module.get_submodule(part.holder).named_modules(prefix=part.holder):
        if path in (*part.inputs, part.output):
            continue
        for key, tensor in (*member.named_parameters(recurse=False), *member.named_buffers(recurse=False)):
            if sizes & set(tensor.shape):
                return f"{path}.{key}"
    return None


def prune(
    module: nn.Module,
    part: Attention | FeedForward,
    kept: torch.Tensor,
    moment: torch.Tensor | None = None,
) -> None:
    """Leave of a part, in place, only the groups with the indices `kept`, in that order.

    With the `moment` of the output layer's inputs (see `moments.gather`) that layer is refitted to
    give from what is left what it gave from all.
    """
    for name in part.inputs:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        rows = _members(kept, part.groups, layer.out_features)
        _set(layer, layer.weight[rows], None if layer.bias is None else layer.bias[rows])
    layer = module.get_submodule(part.output)
    assert isinstance(layer, nn.Linear)
    columns = _members(kept, part.groups, layer.in_features)
    if moment is None:
        _set(layer, layer.weight[:, columns], layer.bias)
    else:
        _set(layer, *refit(layer.weight.detach(), layer.bias, moment, columns))
    if isinstance(part, Attention):
        _count(module.get_submodule(part.holder), part, len(kept))


def prune_all(
    module: nn.Module,
    chosen: Mapping[str, tuple[Attention | FeedForward, torch.Tensor]],
    original: nn.Module,
    calibration: Calibration | None,
) -> None:
    """As `prune`, in place, each part to the groups chosen, by the name of its output layer.

    With `calibration` every output layer is refitted to the inputs that it has in `original`, the
    module before anything was pruned. Inputs as they are once the blocks before are pruned made no
    difference worth a run over the data for each block. Raises `InputError` for a layer that no
    batch goes through.
    """
    if calibration is None:
        for part, kept in chosen.values():
            prune(module, part, kept)
        return
    pending = dict(chosen)
    for name, moment in in_turn(original, list(chosen), calibration):
        prune(module, *pending.pop(name), moment)
    for name in pending:
        raise not_run(name)


def not_run(name: str) -> InputError:
    """The error for a layer that no calibration batch goes through."""
    return InputError(
        f"No calibration batch goes through {name}.",
        "Give data that the model can be run on, or leave this block out with `blocks`.",
    )


def _members(kept: torch.Tensor, groups: int, features: int) -> torch.Tensor:
    """The indices of the features of the groups kept, where each group's follow one another."""
    return torch.arange(features).reshape(groups, -1)[kept].flatten()


def _set(layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    trained = layer.weight.requires_grad
    layer.weight = nn.Parameter(weight.detach().clone(), trained)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), trained)
    layer.out_features, layer.in_features = weight.shape


def _count(holder: nn.Module, part: Attention, kv_heads: int) -> None:
    """Tell an attention layer how many heads are left; its config, which all blocks share, stays."""
    heads = part.heads // part.kv_heads * kv_heads
    old = part.heads * part.head_size
    for names, before, after in (
        (_HEADS, part.heads, heads),
        (_KV_HEADS, part.kv_heads, kv_heads),
        (_WIDTH, old, heads * part.head_size),
    ):
        for name in names:
            if getattr(holder, name, None) == before:
                setattr(holder, name, after)
