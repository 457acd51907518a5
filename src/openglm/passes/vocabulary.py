"""Vocabulary pruning: an embedding keeps the rows of tokens that the data uses, and the tokenizer too.

In a small encoder the token embedding is half of all weights, most of them for words of other
subjects and languages. Abdaoui et al., 2020 (arXiv:2010.05609) prune multilingual BERT so, to the
languages that are needed, without any loss on them.
"""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from openglm.errors import InputError
from openglm.model.model import Model
from openglm.model.processors.text_processor import FILE, TextProcessor
from openglm.model.processors.vocabulary import rewrite
from openglm.passes.contract import Adapted, Context, ModulePass

if TYPE_CHECKING:
    import torch
    from torch import nn

MULTIPLE = 8
"""What the number of rows is a multiple of."""
_TOLERANCE = 1e-4
"""Difference of outputs, relative to the largest, that another order of sums may make."""


class VocabularyPruning(ModulePass):
    """Token embeddings without the rows of tokens that the data does not use.

    The data are those to train on, or else to calibrate on; they should be all that is at hand.
    Special and added tokens, single characters and bytes stay, so that every text is still cut
    into tokens, words that the data lacks into shorter ones. Texts of kept tokens give the same
    outputs as before.
    """

    scheme: ClassVar[str] = "vocabulary_pruning"
    needs_calibration: ClassVar[bool] = True

    minimum: int = Field(default=1, ge=1)
    """How often a token has to occur in the data to stay."""

    @property
    def code(self) -> str:
        return self.scheme if self.minimum == 1 else f"{self.scheme}_{self.minimum}"

    def apply(self, model: Model, context: Context) -> Adapted:
        processor = model.processor
        if not isinstance(processor, TextProcessor):
            raise InputError(
                f"{model.name} has no tokenizer whose vocabulary could be pruned.",
                "Put the model's tokenizer.json beside it, or leave this pass out.",
            )
        module = copy.deepcopy(model.module)
        counts, batch = _counts(processor, context)
        tables = _tables(module, batch)
        rows = tables[0].num_embeddings
        _refuse_heads(module, tables, batch)
        kept = [token for token, count in counts.items() if count >= self.minimum]
        others = sorted(set(range(rows)) - set(kept), key=lambda token: (-counts[token], token))
        content, old = rewrite(
            _content(processor), [*kept, processor.pad_id], multiple=MULTIPLE, further=others
        )
        if len(old) >= rows:
            return Adapted(model, False, ("The data use every token of the vocabulary.",))
        if max(old) >= rows:
            raise InputError(
                f"The tokenizer has the id {max(old)}, and the embedding {rows} rows.",
                "Save the tokenizer that belongs to the model beside it.",
            )
        new = {token: index for index, token in enumerate(old)}
        for table in tables:
            _select(table, old, new)
        _renumber(module, rows, new)
        pruned = TextProcessor(
            content,
            processor.inputs,
            processor.max_length,
            new.get(processor.pad_id, 0),
            processor.pad_to,
        )
        _check(model.module, module, batch, old)
        saved = sum((rows - len(old)) * table.embedding_dim * table.weight.element_size() for table in tables)
        note = (
            f"{len(old)} of {rows} tokens stay, of which the data have {len(kept)}; the embedding loses "
            f"{saved / 1e6:.3g} MB. Words that the data lack are cut into shorter pieces than before."
        )
        config = model.config | ({"vocab_size": len(old)} if "vocab_size" in model.config else {})
        return Adapted(replace(model.with_module(module, pruned), config=config), True, (note,))


def _counts(processor: TextProcessor, context: Context) -> tuple[Counter[int], dict[str, torch.Tensor]]:
    """How often each id occurs in what the model is fed with, and the first batch of it."""
    from openglm.passes.structure.moments import tensors

    counts: Counter[int] = Counter()
    first: Mapping[str, np.ndarray] | None = None
    for number, arrays in enumerate(_batches(processor, context), 1):
        first = first or arrays
        found, times = np.unique(arrays["input_ids"], return_counts=True)
        counts.update(dict(zip(found.tolist(), times.tolist(), strict=True)))
        if context.training is None:
            context.progress(number)
    if first is None:
        raise InputError(
            "Vocabulary pruning needs texts to find the tokens in use.", "Give --data with all you have."
        )
    return counts, tensors(first)


def _batches(processor: TextProcessor, context: Context) -> Iterator[Mapping[str, np.ndarray]]:
    if context.training is not None:
        for sample in context.training:
            if "text" in sample.inputs:
                yield processor([sample.inputs])
            else:
                yield {name: np.asarray(array)[None] for name, array in sample.inputs.items()}
    elif context.calibration is not None:
        yield from context.calibration()


def _tables(module: nn.Module, batch: Mapping[str, torch.Tensor]) -> list[nn.Embedding]:
    """The embeddings that are looked up with the input ids."""
    import torch
    from torch import nn

    ids = batch["input_ids"]
    found: list[nn.Embedding] = []

    def watch(table: nn.Embedding, inputs: tuple[Any, ...]) -> None:
        if inputs and torch.equal(inputs[0], ids) and table not in found:
            found.append(table)

    tables = [item for item in module.modules() if isinstance(item, nn.Embedding)]
    hooks = [table.register_forward_pre_hook(watch) for table in tables]
    try:
        with torch.no_grad():
            module(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise InputError(
            "No embedding of the module is looked up with its input_ids.",
            "Leave vocabulary pruning out of the recipe.",
        )
    most = max(table.num_embeddings for table in found)
    return [table for table in found if table.num_embeddings == most]


def _refuse_heads(module: nn.Module, tables: list[nn.Embedding], batch: Mapping[str, torch.Tensor]) -> None:
    """Raise `InputError` for a model whose outputs are about its tokens: they would change their meaning."""
    import torch

    from openglm.training.losses import main_output

    weights = {id(table.weight) for table in tables}
    tied = any(
        id(parameter) in weights and item not in tables
        for item in module.modules()
        for parameter in item.parameters(recurse=False)
    )
    with torch.no_grad():
        width = main_output(module(**batch)).shape[-1]
    if tied or width == tables[0].num_embeddings:
        raise InputError(
            "The model's outputs are about the tokens of its vocabulary, which they would no longer match.",
            "Leave vocabulary pruning out of the recipe: it is for encoders and classifiers.",
        )


def _content(processor: TextProcessor) -> bytes:
    """The processor's tokenizer.json."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save(Path(folder))
        return (Path(folder) / FILE).read_bytes()


def _select(table: nn.Embedding, old: list[int], new: Mapping[int, int]) -> None:
    """Leave in a table the rows of these old ids, in this order."""
    from torch import nn

    table.weight = nn.Parameter(table.weight.detach()[old].clone(), table.weight.requires_grad)
    table.num_embeddings = len(old)
    if table.padding_idx is not None:
        table.padding_idx = new.get(table.padding_idx)


def _renumber(module: nn.Module, rows: int, new: Mapping[int, int]) -> None:
    """Let the configurations within a module state the new ids and their number."""
    found: list[Any] = [getattr(item, "config", None) for item in module.modules()]
    for config in {id(config): config for config in found}.values():
        if getattr(config, "vocab_size", None) != rows:
            continue
        config.vocab_size = len(new)
        for name in ("pad", "bos", "eos", "sep", "cls"):
            token = getattr(config, f"{name}_token_id", None)
            if isinstance(token, int):
                setattr(config, f"{name}_token_id", new.get(token))


def _check(before: nn.Module, after: nn.Module, batch: Mapping[str, torch.Tensor], old: list[int]) -> None:
    """Raise `InputError` where outputs differ: such a module does more with ids than look up rows."""
    import torch

    from openglm.training.losses import main_output

    kept, ids = torch.tensor(old), batch["input_ids"]
    ids = torch.where(torch.isin(ids, kept), ids, kept[0])
    new = torch.zeros(int(kept.max()) + 1, dtype=ids.dtype)
    new[kept] = torch.arange(len(old), dtype=ids.dtype)
    with torch.no_grad():
        expected = main_output(before(**{**batch, "input_ids": ids}))
        found = main_output(after(**{**batch, "input_ids": new[ids]}))
    if not torch.allclose(found, expected, rtol=0, atol=_TOLERANCE * float(expected.abs().max())):
        raise InputError(
            "The module's outputs hang on the numbers of its tokens, and not only on their embeddings.",
            "Leave vocabulary pruning out of the recipe.",
        )
