"""Made-up manifests, and what reads a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest

from openglm.bundle.manifest import (
    Candidate,
    Figures,
    File,
    Host,
    Manifest,
    Program,
    Quality,
    Segment,
    Sensitivity,
    Source,
    Timing,
)
from openglm.model.tensor import TensorSpec

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'&\x00\u202e"
VOID = {"meta", "link", "wbr"}


def timing(median: float, spread: float = 0.05, rounds: int = 25) -> Timing:
    return Timing(
        median_ms=median, p10_ms=median * (1 - spread), p90_ms=median * (1 + 2 * spread), rounds=rounds
    )


def quality(value: float) -> Quality:
    return Quality(
        metric="fidelity", value=value, details={"cosine": value, "nearest_kept": 0.94}, samples=256
    )


def candidate(code: str, outcome: Any, reason: str, **given: Any) -> Candidate:
    recipe = tuple({"pass": step.split("_g")[0]} for step in code.split(" + ") if step != "as it is")
    return Candidate(code=code, recipe=recipe, outcome=outcome, reason=reason, **given)


def tried(code: str, outcome: Any, reason: str, size: float, times: float, value: float) -> Candidate:
    return candidate(
        code,
        outcome,
        reason,
        size_bytes=int(size * 1e6),
        timing=timing(14.9 / times),
        original=timing(14.9),
        speedup=times,
        quality=quality(value),
        fits=times > 1,
        seconds=5.31,
        notes=("18 parallel linear layers became fewer, larger ones.",),
    )


def verdict(latency: float, memory: float, size: float, advice: str) -> dict[str, Any]:
    limits = [
        ("latency", latency, 310.0, "ms", "arithmetic for 86% of it; MatMul takes 86%"),
        ("memory", memory, 200.0, "MB", "weights 133 MB with the engine's copies, activations 2.0 MB"),
        ("size", size, None, "MB", "22.6 M parameters"),
        ("energy", latency * 1.6, None, "mJ", f"1.6 W for {latency:.0f} ms"),
        ("load", latency * 3, None, "ms", "mostly the engine's start"),
    ]
    rows = [
        {"name": name, "predicted": value, "budget": most, "ok": most is None or value <= most, "unit": unit}
        | {"bound": bound}
        for name, value, most, unit, bound in limits
    ]
    return {
        "model": "all-minilm-l6-v2",
        "device": "cortex-a53-2gb",
        "fits": all(row["ok"] for row in rows),
        "limits": rows,
        "action": "optimize",
        "advice": advice,
        "unit": "cpu",
        "threads": 4,
        "dims": {"batch": 1, "sequence": 128},
        "rate": {"burst_per_s": 1000 / latency, "sustained_per_s": 950 / latency},
        "power_w": 1.6,
        "inferences_per_charge": 126869,
        "tokens_per_s": None,
        "units": [
            {"name": "cpu", "kind": "cpu", "latency_ms": latency},
            {"name": "npu", "kind": "npu", "latency_ms": None},
        ],
        "predicted_by": "predicted for cortex-a53-2gb (cpu) by an uncalibrated roofline; "
        "expect a factor of about two either way",
        "unknown_operators": ["com.example::Odd"],
        "unknown_shapes": [],
    }


def layer(phase: str, name: str, ms: float, precision: str, bound: str = "compute") -> dict[str, Any]:
    return {
        "phase": phase,
        "name": name,
        "op_type": "MatMul",
        "ms": ms,
        "bound": bound,
        "macs": 10**6,
        "weight_bytes": 4 * 10**6,
        "precision": precision,
    }


def sample_layers() -> tuple[dict[str, Any], ...]:
    parts = {"attention.self.query": 8.1, "attention.output.dense": 6.5, "intermediate.dense": 28.0}
    rows = [
        layer(phase, f"model.encoder.layer.{index}.{part}", ms * share, precision)
        for index in range(12)
        for part, ms in parts.items()
        for phase, share, precision in (("before", 1.0, "fp32"), ("after", 0.4, "int8"))
    ]
    rows += [layer(phase, "model.embeddings.word", 4.1, "fp32", "memory") for phase in ("before", "after")]
    return (*rows, layer("before", "node_Shape_4", 0.2, "fp32", "overhead"))


def sample(**changes: Any) -> Manifest:
    """A manifest as `openglm optimize` writes it, with candidates of every outcome."""
    candidates = (
        candidate(
            "as it is",
            "accepted",
            "The original, which every other is measured against.",
            size_bytes=90_400_000,
            timing=timing(14.9),
            original=timing(14.9),
            speedup=1.0,
            quality=quality(1.0),
            fits=False,
        ),
        tried("fuse", "accepted", "1.08x the original's speed at a loss of 0 fidelity.", 90.3, 1.08, 1.0),
        tried(
            "fuse + dynamic_wi8_ai8",
            "chosen",
            "2.50x the original's speed at a loss of 0.0063 fidelity.",
            22.9,
            2.5,
            0.9937,
        ),
        tried(
            "fuse + static_wi8_ai8_percentile_99.99",
            "accepted",
            "2.41x the original's speed at a loss of 0.0066 fidelity.",
            58.6,
            2.41,
            0.9934,
        ),
        tried("fuse + wi8_afp32", "accepted", "1.19x the original's speed.", 22.9, 1.19, 0.9994),
        tried("fuse + fp16", "refused", "Slower: 1.31x the original's time on this engine.", 45.2, 0.76, 1.0),
        tried(
            "fuse + wi4_afp32_g32_asymmetric",
            "refused",
            "Loses 0.0247 of fidelity; 0.01 is allowed.",
            19,
            1.3,
            0.9753,
        ),
        tried("fuse + wi4_afp32_g32", "refused", "Loses 0.56 of fidelity; 0.01 is allowed.", 19, 1.33, 0.44),
        candidate(
            "fuse + static_wi8_ai8_entropy",
            "failed",
            "Calibration ended before a sample was seen.",
            seconds=0.4,
        ),
        candidate("fuse + wi2_afp32", "not tried", "The time allowed was over."),
    )
    content: dict[str, Any] = {
        "openglm": "0.1.0",
        "created": "2026-11-22T09:02:38+00:00",
        "command": "openglm optimize all-minilm-l6-v2 -d cortex-a53-2gb --latency-ms 310 --memory-mb 200",
        "name": "all-minilm-l6-v2",
        "task": "embedding",
        "source": Source(
            name="all-minilm-l6-v2", source="all-minilm-l6-v2", bytes=90_400_000, parameters=22_565_376
        ),
        "inputs": (TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence")),),
        "outputs": (TensorSpec(name="sentence_embedding", dtype="float32", shape=("batch", 384)),),
        "processor": None,
        "program": Program(segments=(Segment(name="model", models={"onnxruntime": "model.onnx"}),)),
        "recipe": ({"pass": "fuse"}, {"pass": "dynamic_wi8_ai8", "per_channel": True, "weight_bits": 8}),
        "device": {"name": "cortex-a53-2gb", "title": "Low-end phone (Redmi 5A, Snapdragon 425)"},
        "budget": {"latency_ms": 310.0, "memory_mb": 200.0, "size_mb": None},
        "max_drop": 0.01,
        "verdict_before": verdict(
            517,
            224,
            90.4,
            "It has to be 1.7 times as fast: int8 would give 2.4 times. The weights have to shrink.",
        ),
        "verdict_after": verdict(211, 84, 22.9, "It fits: deploy it as it is."),
        "layers": sample_layers(),
        "before": Figures(
            size_bytes=90_400_000,
            timing=timing(14.9, rounds=40),
            load_ms=160.36,
            peak_memory_mb=146.8,
            quality=quality(1.0),
        ),
        "after": Figures(
            size_bytes=22_900_000,
            timing=timing(5.96, rounds=40),
            load_ms=71.0,
            peak_memory_mb=None,
            quality=quality(0.9937),
        ),
        "speedup": 2.5,
        "candidates": candidates,
        "calibration": "reviews.csv: even samples calibrate, odd ones judge",
        "shape": {"batch": 1, "sequence": 128},
        "host": Host(
            processor="AMD EPYC 7B13",
            cores=2,
            system="Linux x86_64",
            python="3.12.4",
            engine="onnxruntime 1.23.0",
            threads=2,
        ),
        "versions": {"openglm": "0.1.0", "onnxruntime": "1.23.0", "python": "3.12.4"},
        "files": {"model.onnx": File(sha256="ab" * 32, bytes=22_900_000)},
    }
    return Manifest(**{**content, **changes})


def unchanged(**changes: Any) -> Manifest:
    """What is written where nothing paid and the device is too small."""
    return sample(
        recipe=(),
        candidates=(
            sample().candidates[0].model_copy(update={"outcome": "chosen"}),
            *sample().candidates[5:8],
        ),
        after=sample().before,
        speedup=1.0,
        verdict_after=sample().verdict_before,
        calibration="no data was given: random noise calibrates and judges, which says little",
        layers=(),
        **changes,
    )


def sensitivities(layers: int = 6) -> tuple[Sensitivity, ...]:
    """Of an encoder: quantization of every part first, as a search finds them out; layer 4 is tender."""
    cuts = {"attention": "half its heads", "feed-forward": "half its neurons", "": "left out"}
    share = {"attention": 1.2, "feed-forward": 1.5, "": 1.0}
    base = {"int8": 0.0012, "half its heads": 0.03, "half its neurons": 0.12, "left out": 0.1}
    found = []
    for techniques in (dict.fromkeys(cuts, "int8"), cuts):
        for index in range(layers):
            for what, technique in techniques.items():
                cost = base[technique] * (4 if index == 4 else 1 + 0.1 * index) * share[what]
                part = f"model.encoder.layer.{index} {what}".strip()
                found.append(
                    Sensitivity(part=part, modules=(part,), technique=technique, cost=round(cost, 6))
                )
    return tuple(found)


def searched(**changes: Any) -> Manifest:
    """What a long search leaves: 40 candidates, trained up to three times, and sensitivities."""
    few = [
        item.model_copy(update={"outcome": "accepted"}) if item.outcome == "chosen" else item
        for item in sample().candidates
    ]
    spent = {"exporting": 4.0, "quantizing": 2.0, "judging": 5.0, "measuring": 5.0, "waiting": 1.0}
    many = []
    for index in range(30):
        keep, effort = 2 + index % 4, index % 4
        loss = 0.004 * (7 - keep) * (4 - effort) ** 2
        steps = [f"layer_pruning_{keep}", *(f"distil_{300 * 4**step + index}" for step in range(effort))]
        outcome = "refused" if loss > 0.01 else "chosen" if index == 3 else "accepted"
        many.append(
            tried(
                " + ".join([*steps, "fuse", "dynamic_wi8_ai8"]),
                outcome,
                f"Loses {loss:.4g} of fidelity; 0.01 is allowed.",
                10 + keep + 0.1 * index,
                15 / (keep + 1 + 0.01 * index),
                1 - loss,
            ).model_copy(
                update={
                    "loss": loss,
                    "effort": effort,
                    "spent": spent | ({"training": 30.0 * effort} if effort else {}),
                    "seconds": 17.0 + 30.0 * effort,
                }
            )
        )
    content: dict[str, Any] = {
        "candidates": (*few, *many),
        "recipe": many[3].recipe,
        "sensitivities": sensitivities(),
        "elapsed_s": sum(item.seconds for item in many) + 100.0,
        "training": "train.tsv",
        "files": {"recipe.toml": File(sha256="cd" * 32, bytes=300), **sample().files},
    }
    return sample(**{**content, **changes})


def hostile() -> Manifest:
    """Text of others wherever there is text."""
    content = searched().model_dump()

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            keep = ("sha256", "outcome", "phase", "unit", "created", "dtype")
            return value if key in keep else HOSTILE
        if isinstance(value, dict):
            fixed = ("limits", "latency", "before", "after")
            named = key in ("files", "details", "shape", "versions", "dims", "models", "spent")
            return {
                HOSTILE if named and name not in fixed else name: poison(item, name)
                for name, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [poison(item, key) for item in value]
        return value

    return Manifest.model_validate(poison(content))


def crowd(count: int = 30) -> Manifest:
    """Many candidates, nearly alike."""
    return sample(
        candidates=tuple(
            tried(
                f"fuse + scheme_{index}",
                "accepted",
                "It pays.",
                22.9,
                2.4 + index * 1e-3,
                0.99 + index * 1e-5,
            )
            for index in range(count)
        )
    )


class Page(HTMLParser):
    """The elements and text of a page, checked to be properly nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += f" {data}"


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Makes manifests and parts of them, and reads pages."""
    makers = (
        timing, quality, candidate, tried, layer, sample_layers, sample, unchanged, sensitivities, searched,
        hostile, crowd, Page, words,
    )  # fmt: skip
    return SimpleNamespace(**{maker.__name__: maker for maker in makers})
