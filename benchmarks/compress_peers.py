"""The other tools that the compression benchmarks compare with, each with its best sensible settings.

A function here takes a model and writes a smaller one to a path. What guides a tool is the same
held-out data that guides our search; none sees what is reported on.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import peers

Batch = peers.Batch
MAX_DROP = 0.01
"""What a tool that can be told so may lose of the accuracy: one point."""
RATIOS = (0.5, 0.3)
"""Shares of the neurons, heads or channels that torch-pruning takes away."""
TAYLOR_BATCHES = 16
"""Batches whose gradients say what to prune."""


@dataclass(frozen=True)
class Guide:
    """What guides a tool: held-out samples as arrays, with their classes."""

    batches: Sequence[Batch]
    labels: Sequence[int]
    calibration: Sequence[Batch]
    """Inputs that are trained on, to find ranges with."""
    typical: Batch
    """An input of typical size, to measure with."""

    def accuracy(self, run: peers.Run) -> float:
        """The share of the held-out samples that a model answers rightly."""
        pairs = zip(self.batches, self.labels, strict=True)
        return float(np.mean([int(np.argmax(run(batch)[0])) == label for batch, label in pairs]))


def versions() -> dict[str, str]:
    """The installed version of each peer; raises `SystemExit` with what to do where one is missing."""
    found = peers.versions()
    try:
        return {**found, "torch-pruning": version("torch-pruning")}
    except PackageNotFoundError:
        raise SystemExit(
            "This benchmark compares with torch-pruning, not installed here: "
            "pip install -c constraints.txt torch-pruning"
        ) from None


def olive_search(
    source: Path, target: Path, guide: Guide, *, transformer: Mapping[str, Any] | None, seconds: int
) -> None:
    """The model that Olive's own search chooses: the fastest of those within `MAX_DROP`.

    It tries graph optimization, dynamic and static quantization and their settings together, for at
    most `seconds`; by its random sampler, for in 0.13 its TPE sampler mixes up the settings of passes
    that stand for choice. A limit on its points would count those that are no combination, most of
    them. `transformer` says what a BERT is like.
    """
    import olive

    data = _olive_data(guide)
    allowed = {"type": "max-degradation", "value": MAX_DROP}
    classes = {"task": "multiclass", "num_classes": len(set(guide.labels))}
    one_thread = {"onnx": {"session_options": {"intra_op_num_threads": 1}}}
    work = target.with_suffix(".olive")
    config = {
        "input_model": {"type": "ONNXModel", "model_path": str(work / "model.onnx")},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": list(data.values()),
        "evaluators": {
            "both": {
                "metrics": [
                    {
                        "name": "latency", "type": "latency", "data_config": "typical",
                        "sub_types": [
                            {"name": "p50", "priority": 1, "metric_config": {"repeat_test_num": 50}}
                        ],
                        "user_config": {"inference_settings": one_thread},
                    },
                    {
                        "name": "accuracy", "type": "accuracy", "data_config": "judging",
                        "sub_types": [
                            {
                                "name": "accuracy_score", "priority": 2, "goal": allowed,
                                "metric_config": classes,
                            }
                        ],
                    },
                ]
            }
        },
        "passes": _olive_passes(transformer),
        "engine": {
            "search_strategy": {
                "execution_order": "joint", "sampler": "random",
                "sampler_config": {"seed": 0, "max_samples": 0},
                "max_time": seconds,
            },
            "host": "here", "target": "here", "evaluator": "both",
            "cache_dir": str(work / "cache"), "output_dir": str(work / "output"), "log_severity_level": 3,
        },
    }  # fmt: skip
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    _untransposed(source, work / "model.onnx")
    script = work / "config.json"
    script.write_text(json.dumps(config), encoding="utf-8")
    found = olive.run(str(script))
    if not found.has_output_model():
        raise SystemExit("Olive's search found no model within its goal.")
    shutil.copyfile(found.get_best_candidate().model_path, target)
    shutil.copyfile(work / "output" / "footprint.json", target.with_suffix(".footprint.json"))
    shutil.rmtree(work)


def _untransposed(source: Path, target: Path) -> None:
    """A model without weights that a Gemm transposes.

    One of Olive's passes notes their shapes, another transposes them, and then the two disagree.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    weights = {item.name: item for item in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Gemm" and attribute.name == "transB" and attribute.i:
                attribute.i = 0
                weight = weights[node.input[1]]
                weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
    # A file may state the shapes of weights, which are others now.
    stated = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(stated)
    onnx.save(model, target)


def olive_told(target: Path, seconds: float) -> str:
    """What the tables call the model that `olive_search` made: how many others it was chosen among."""
    nodes = json.loads(target.with_suffix(".footprint.json").read_text(encoding="utf-8")).values()
    measured = sum(1 for node in nodes if node["parent_model_id"] and (node["metrics"] or {}).get("value"))
    return f"Olive's search, {seconds / 60:g} minutes, {measured} models measured"


def _olive_data(guide: Guide) -> dict[str, dict[str, Any]]:
    """What Olive calibrates with, judges on and measures with, as its own kind of data."""
    from olive.data.registry import Registry

    judged = [
        (batch, torch.tensor([label])) for batch, label in zip(guide.batches, guide.labels, strict=True)
    ]
    loaded = {
        "calibration": list(guide.calibration),
        "judging": judged,
        "typical": [(guide.typical, torch.tensor([0]))],
    }
    Registry.register_dataset("openglm_none")(lambda **_: None)
    Registry.register_post_process("openglm_class")(lambda logits, **_: logits.argmax(-1))
    found = {}
    for name, batches in loaded.items():
        Registry.register_dataloader(f"openglm_{name}")(lambda *_, _batches=batches, **__: _batches)
        found[name] = {
            "name": name,
            "load_dataset_config": {"type": "openglm_none"},
            "pre_process_data_config": {"type": "skip_pre_process"},
            "post_process_data_config": {"type": "openglm_class"},
            "dataloader_config": {"type": f"openglm_{name}"},
        }
    return found


def _olive_passes(transformer: Mapping[str, Any] | None) -> dict[str, Any]:
    """Olive's passes, each with the settings that it offers a search by itself."""
    # Signed weights and unsigned activations are what ONNX Runtime is fast with; Olive's own choices
    # for static quantization pair like with like only.
    static = {
        "type": "OnnxStaticQuantization", "data_config": "calibration", "quant_format": "QDQ",
        "precision": "int8", "activation_type": "uint8",
    }  # fmt: skip
    plain = {"type": "OnnxPeepholeOptimizer"}
    if transformer is None:
        return {"optimize": [plain], "quantize": [static]}
    fused = {"type": "OrtTransformersOptimization", "model_type": "bert", "opt_level": 0, **transformer}
    # Shapes are not inferred through the operators that the optimizer puts in.
    untyped = {"extra_options": {"DefaultTensorType": 1}}
    dynamic = {"type": "OnnxDynamicQuantization"}
    return {"optimize": [fused, plain], "quantize": [{**dynamic, **untyped}, {**static, **untyped}]}


def nncf_controlled(source: Path, target: Path, guide: Guide, *, transformer: bool) -> None:
    """NNCF's quantization with accuracy control, an .xml file with a .bin beside it for OpenVINO.

    Layers are put back to floating point until no more than `MAX_DROP` is lost.
    """
    import nncf
    import openvino

    def validate(model: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        request = model.create_infer_request()
        right = [
            float(int(np.argmax(next(iter(request.infer(dict(batch)).values()))[0])) == label)
            for batch, label in items
        ]
        return float(np.mean(right)), right

    judged = list(zip(guide.batches, guide.labels, strict=True))
    quantized = nncf.quantize_with_accuracy_control(
        openvino.Core().read_model(source),
        nncf.Dataset(list(guide.calibration)),
        nncf.Dataset(judged, lambda item: item[0]),
        validate,
        max_drop=MAX_DROP,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=len(guide.calibration),
        **peers.nncf_settings(transformer),
    )
    openvino.save_model(quantized, target, compress_to_fp16=False)


def ort_fused_int8(source: Path, target: Path, *, num_heads: int, hidden_size: int) -> None:
    """onnxruntime.transformers.optimizer on a BERT, then onnxruntime.quantization, dynamic, per channel."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(
        str(source), model_type="bert", num_heads=num_heads, hidden_size=hidden_size, opt_level=0
    )
    whole = target.with_suffix(".fused.onnx")
    fused.save_model_to_file(str(whole))
    quantize_dynamic(
        whole,
        target,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Shapes are not inferred through the operators that the optimizer puts in.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    whole.unlink()


def export_bert(model: nn.Module, target: Path) -> None:
    """A BERT classifier as PyTorch's older exporter writes it: ONNX Runtime's optimizer fuses more of it."""
    names = ("input_ids", "attention_mask", "token_type_ids")

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=kinds).logits

    torch.onnx.export(
        Logits().eval(),
        (torch.ones(1, 9, dtype=torch.int64),) * 3,
        target,
        input_names=list(names),
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names},
        opset_version=17,
        dynamo=False,
    )


def pruned_bert(
    model: nn.Module, batches: Sequence[tuple[Mapping[str, torch.Tensor], torch.Tensor]], ratio: float
) -> nn.Module:
    """torch-pruning on a BERT classifier, in place: a share of each layer's neurons and heads goes.

    What goes is what matters least by Taylor's expansion over `batches`; the hidden width stays, as
    the residual stream carries it. Not trained afterwards.
    """
    import torch_pruning as tp

    layers = list(model.bert.encoder.layer)
    kept = [model.classifier, model.bert.pooler, model.bert.embeddings]
    kept += [part.dense for layer in layers for part in (layer.output, layer.attention.output)]
    heads = {
        linear: layer.attention.self.num_attention_heads
        for layer in layers
        for linear in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value)
    }
    _gradients(model, batches, lambda inputs: model(**inputs).logits)
    tp.pruner.BasePruner(
        model, dict(batches[0][0]), importance=tp.importance.GroupTaylorImportance(),
        pruning_ratio=ratio, ignored_layers=kept, round_to=8, num_heads=heads, prune_num_heads=True,
        prune_head_dims=False, head_pruning_ratio=ratio,
        output_transform=lambda output: output.logits.sum(),
    ).step()  # fmt: skip
    model.zero_grad()
    return model


def pruned_net(
    net: nn.Module, batches: Sequence[tuple[torch.Tensor, torch.Tensor]], ratio: float
) -> nn.Module:
    """torch-pruning on a network of convolutions, in place: a share of each layer's channels goes."""
    import torch_pruning as tp

    _gradients(net, batches, net)
    tp.pruner.BasePruner(
        net, batches[0][0][:1], importance=tp.importance.GroupTaylorImportance(), pruning_ratio=ratio,
        ignored_layers=[net.classifier], round_to=8,
    ).step()  # fmt: skip
    net.zero_grad()
    return net


def _gradients(
    model: nn.Module, batches: Sequence[tuple[Any, torch.Tensor]], logits: Callable[[Any], torch.Tensor]
) -> None:
    model.zero_grad()
    for inputs, labels in batches:
        functional.cross_entropy(logits(inputs), labels).backward()


def spread(count: int, total: int, seed: int = 20) -> list[int]:
    """`count` indices drawn from `total`, always the same, in ascending order."""
    return sorted(random.Random(seed).sample(range(total), min(count, total)))
