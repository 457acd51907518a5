"""What each part of a model costs to quantize or to cut, found out one part at a time.

Each technique is applied to one part alone, and the outputs over a few calibration samples are
compared with the original's: the cost is the fidelity that is lost. It needs no labels, takes a second or two
a part, and is kept in the user's cache. Costs of parts add up only roughly: they say where a model
is tender, not what a whole recipe will lose.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from openglm.bundle.manifest import Sensitivity
from openglm.errors import OpenGLMError
from openglm.hashing import sha256
from openglm.metrics.fidelity import metric as fidelity
from openglm.metrics.metric import Evaluation
from openglm.model.analysis.grouping import group
from openglm.model.analysis.naming import module_of
from openglm.model.analysis.statistics import analyse
from openglm.model.sources import onnx_file
from openglm.passes.contract import Context, GraphPass, ModulePass
from openglm.passes.low_rank import LowRank
from openglm.runtimes.onnxruntime import Runner
from openglm.search.bench import Bench
from openglm.search.feed import Batch
from openglm.search.space import schemes

SAMPLES = 32
CALIBRATION = 16
MOST = 12
"""Parts at most of a model without blocks, those with the most work."""
REVISION = 1
"""Raised whenever the same model and samples would give other costs."""

Outputs = Any
"""Rows by output name: an array, or a list where their shapes differ."""


@dataclass(frozen=True)
class Part:
    """A piece of a model that techniques are tried on alone."""

    name: str
    """For people: "encoder.layer.4 feed-forward"."""
    modules: tuple[str, ...]
    """The paths of its layers."""
    cuts: tuple[tuple[str, Callable[[], ModulePass]], ...] = ()
    """What can be cut of it: in words, and the pass."""
    is_whole: bool = False
    """Whether other parts lie inside of it."""


def sensitivity(
    bench: Bench, seconds: float, tick: Callable[[str, float], None] = lambda _, __: None
) -> tuple[Sensitivity, ...]:
    """The cost of each technique on each part, quantization first; fewer where `seconds` are over.

    From the cache where all of it is known for this model and these samples.
    """
    batches = list(islice(bench.feed.calibration(), SAMPLES))
    path = _cache(bench, batches)
    if (known := _read(path)) is not None:
        return known
    deadline = time.monotonic() + seconds
    todo = list(_tasks(bench, batches))
    reference = _stacked(bench.runner.run(batch) for batch in batches)
    found: list[Sensitivity] = []
    for index, (part, technique, run) in enumerate(todo):
        if time.monotonic() > deadline:
            return tuple(found)
        tick(f"{part.name}, {technique}", index / len(todo))
        try:
            outputs = run()
        except OpenGLMError:  # a technique that does not apply to this part says nothing of it
            continue
        if outputs is not None:
            cost = _cost(bench, outputs, reference)
            found.append(
                Sensitivity(part=part.name, modules=part.modules, technique=technique, cost=round(cost, 6))
            )
    _write(path, found)
    return tuple(found)


def order(found: Sequence[Sensitivity]) -> tuple[tuple[str, ...], ...]:
    """The modules of each part, that which quantization costs most first; parts it costs nothing left out."""
    quantized = [item for item in found if item.technique == "int8" and item.cost > 0]
    return tuple(item.modules for item in sorted(quantized, key=lambda item: -item.cost))


def _tasks(bench: Bench, batches: list[Batch]) -> Iterator[tuple[Part, str, Callable[[], Outputs | None]]]:
    every = parts(bench)
    statistics = analyse(bench.model.graph, bench.dims)
    scheme = next(iter(schemes(statistics).values()))
    if "skip" in type(scheme).model_fields:
        paths = sorted({path for node in bench.model.graph.graph.all_nodes() if (path := module_of(node))})
        for part in every:
            outside = tuple(path for path in paths if not _within(path, part.modules))
            alone = scheme.model_copy(update={"skip": outside, "embeddings": False})
            if not part.is_whole:
                yield part, "int8", partial(_quantized, bench, alone, batches)
    for part in every:
        for words, make in part.cuts:
            yield part, words, partial(_cut, bench, make, batches)


def _within(path: str, modules: Sequence[str]) -> bool:
    """Whether a path is a module's, or inside it, or around it."""
    return any(path == name or path.startswith(f"{name}.") or name.startswith(f"{path}.") for name in modules)


def parts(bench: Bench) -> list[Part]:
    """The parts of a model: attention and feed-forward of each block, else modules by the work they have.

    Where nothing is to be cut, the module is not looked at, which takes torch: the graph is enough.
    """
    layers = [layer for layer in analyse(bench.model.graph, bench.dims).layers if layer.macs]
    if not bench.cuts:
        return [Part(name, (name,)) for name, members in group(layers, MOST) if name != members[0].node]
    if found := list(_blocks(bench)):
        return found
    work: dict[str, int] = {}
    for layer in layers:
        work[layer.name] = work.get(layer.name, 0) + layer.macs
    heaviest = set(sorted(work, key=lambda name: -work[name])[:MOST])
    return [Part(name, (name,), tuple(_layer_cuts(bench, name))) for name in work if name in heaviest]


def _blocks(bench: Bench) -> Iterator[Part]:
    from openglm.passes.heads import HeadPruning
    from openglm.passes.layers import LayerPruning
    from openglm.passes.neurons import NeuronPruning
    from openglm.passes.structure.blocks import blocks

    found = blocks(bench.model.module)
    for block in found:
        others = tuple(other.index for other in found if other is not block)
        whole = (("left out", partial(LayerPruning, keep=None, layers=others)),) if others else ()
        if block.attention is not None:
            modules = (*block.attention.inputs, block.attention.output)
            yield Part(
                f"{block.name} attention",
                modules,
                (
                    ("half its heads", partial(HeadPruning, keep=0.5, blocks=(block.index,))),
                    ("half its rank", partial(LowRank, keep=0.5, layers=modules)),
                ),
            )
        if block.feed_forward is not None:
            modules = (*block.feed_forward.inputs, block.feed_forward.output)
            yield Part(
                f"{block.name} feed-forward",
                modules,
                (
                    ("half its neurons", partial(NeuronPruning, keep=0.5, blocks=(block.index,))),
                    ("half its rank", partial(LowRank, keep=0.5, layers=modules)),
                ),
            )
        if whole:
            yield Part(block.name, (block.name,), whole, is_whole=True)


def _layer_cuts(bench: Bench, name: str) -> Iterator[tuple[str, Callable[[], ModulePass]]]:
    from torch import nn

    from openglm.passes.channels import ChannelPruning

    modules = dict(bench.model.module.named_modules())
    if isinstance(modules.get(name), nn.Conv2d):
        yield "half its channels", partial(ChannelPruning, keep=0.5, layers=(name,))
    if name in modules:
        yield "half its rank", partial(LowRank, keep=0.5, layers=(name,))


def _quantized(bench: Bench, scheme: GraphPass, batches: list[Batch]) -> Outputs | None:
    graph = scheme.apply(bench.model.graph, _context(batches))
    return _run(bench, graph.graph, batches) if graph.changed else None


def _run(bench: Bench, graph: ir.Model, batches: list[Batch]) -> Outputs:
    with tempfile.TemporaryDirectory(prefix="openglm-") as folder:
        path = Path(folder) / "part.onnx"
        onnx_file.write(graph, path)
        runner = Runner(path, threads=bench.setup.threads)
        return _stacked(runner.run(batch) for batch in batches)


def _cut(bench: Bench, make: Callable[[], ModulePass], batches: list[Batch]) -> Outputs | None:
    import torch

    from openglm.passes.structure.moments import tensors

    adapted = make().apply(bench.model, _context(batches))
    if not adapted.changed:
        return None
    names = [spec.name for spec in bench.outputs]

    def run(batch: Batch) -> dict[str, np.ndarray]:
        given = adapted.model.module(**tensors(batch))
        leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(given) if isinstance(leaf, torch.Tensor)]
        return {name: leaf.numpy() for name, leaf in zip(names, leaves, strict=False)}

    with torch.no_grad():
        return _stacked(run(batch) for batch in batches)


def _context(batches: list[Batch]) -> Context:
    return Context(calibration=lambda: iter(batches[:CALIBRATION]))


def _stacked(outputs: Iterable[dict[str, np.ndarray]]) -> Outputs:
    """Rows of all outputs by name."""
    found: dict[str, list[np.ndarray]] = {}
    for output in outputs:
        for name, array in output.items():
            found.setdefault(name, []).extend(array if array.ndim else [array])
    return {
        name: np.stack(rows) if len({row.shape for row in rows}) == 1 else rows
        for name, rows in found.items()
    }


def _cost(bench: Bench, outputs: Outputs, reference: Outputs) -> float:
    known = {name: rows for name, rows in reference.items() if name in outputs}
    return max(0.0, 1 - fidelity.score(Evaluation(outputs, known, task=bench.model.task)).value)


def _cache(bench: Bench, batches: list[Batch]) -> Path:
    from platformdirs import user_cache_path

    digest = hashlib.sha256(f"{REVISION} {version('openglm')} {sha256(bench.original)}".encode())
    digest.update(str(bench.cuts).encode())
    for batch in batches:
        for name, array in sorted(batch.items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    home = os.environ.get("OPENGLM_CACHE")
    root = Path(home) if home else user_cache_path("openglm")
    return root / "sensitivity" / f"{digest.hexdigest()[:32]}.json"


def _read(path: Path) -> tuple[Sensitivity, ...] | None:
    try:
        return tuple(
            Sensitivity.model_validate(item) for item in json.loads(path.read_text(encoding="utf-8"))
        )
    except (OSError, ValueError):  # not there, or broken: it is found out anew
        return None


def _write(path: Path, found: Sequence[Sensitivity]) -> None:
    with suppress(OSError):  # a cache that cannot be written is no reason to stop
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps([item.model_dump(mode="json") for item in found]), encoding="utf-8")
        part.replace(path)
