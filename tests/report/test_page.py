"""The report: right sentences, nothing unescaped, nothing fetched, and whatever a manifest may hold."""

from __future__ import annotations

import math
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.bundle.manifest import (
    Candidate,
    Figures,
    File,
    Host,
    Manifest,
    Program,
    Quality,
    Segment,
    Source,
    Timing,
)
from openglm.model.tensor import TensorSpec
from openglm.report import layers, scale, scatter, story, units
from openglm.report.markup import Markup, join, tag
from openglm.report.page import render
from openglm.report.record import toml
from openglm.report.tried import short_codes

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


def hostile() -> Manifest:
    """Text of others wherever there is text."""
    content = sample().model_dump()

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            keep = ("sha256", "outcome", "phase", "unit", "created", "dtype")
            return value if key in keep else HOSTILE
        if isinstance(value, dict):
            fixed = ("limits", "latency", "before", "after")
            named = key in ("files", "details", "shape", "versions", "dims", "models")
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


def test_a_page_says_what_was_done() -> None:
    text = words(Page(render(sample())).text).replace("\u202f", " ")
    assert story.headline(sample()).replace("\u202f", " ") == (
        "all-minilm-l6-v2 for cortex-a53-2gb: 75 % smaller, 2.5× faster where it was measured, "
        "at a loss of 0.0063 fidelity."
    )
    assert story.standing(sample()) == (
        "It is predicted to fit cortex-a53-2gb within every limit, 2.5× faster there than the original."
    )
    for said in (
        "90.4 MB",
        "22.9",
        "Calibration ended before a sample was seen.",
        "67 % over",
        "not tried",
    ):
        assert said in text, said
    assert "Not judged on your data" not in text


def test_a_page_says_where_every_figure_is_from() -> None:
    page = render(sample())
    sections = re.findall(r'<section id="(\w+)".*?</section>', page, re.S)
    assert sections == ["verdict", "measured", "tried", "layers", "record"]
    for name, origin in (
        ("verdict", "predicted"),
        ("measured", "measured"),
        ("tried", "measured"),
        ("layers", "predicted"),
    ):
        body = re.search(rf'<section id="{name}".*?</section>', page, re.S)
        assert body is not None
        assert f'class="badge {origin}"' in body[0]
    assert "AMD EPYC 7B13" in page
    assert "onnxruntime 1.23.0" in page


def test_where_nothing_paid_and_nothing_fits_the_page_says_so() -> None:
    text = words(Page(render(unchanged())).text)
    assert "all-minilm-l6-v2 was left as it is for cortex-a53-2gb: none of 3 recipes paid." in text
    assert "predicted not to fit cortex-a53-2gb: latency is 517 ms where 310 ms is allowed," in text
    assert "Not judged on your data." in text
    assert "The cost of layers was not recorded." in text


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((10.0, 100), (10.0, 50), ": 50 % smaller,"),
        ((10.0, 100), (20.0, 100), ": 2.0× slower where it was measured,"),
        ((10.0, 100), (10.1, 100), ": rebuilt, no faster and no smaller,"),
        ((10.0, 100), (5.0, 150), ": 50 % larger, 2.0× faster where it was measured,"),
        ((0.0, 0), (0.0, 0), ": rebuilt, no faster and no smaller,"),
    ],
)
def test_the_headline_follows_the_figures(
    before: tuple[float, int], after: tuple[float, int], said: str
) -> None:
    def figures(ms: float, size: int) -> Figures:
        return Figures(
            size_bytes=size, timing=timing(ms), load_ms=None, peak_memory_mb=None, quality=quality(1)
        )

    speedup = before[0] / after[0] if after[0] else 1.0
    manifest = sample(before=figures(*before), after=figures(*after), speedup=speedup)
    assert said in story.headline(manifest).replace("\u202f", " ")
    assert "with no loss of fidelity" in story.headline(manifest)
    render(manifest)


def test_a_loss_goes_the_way_that_the_metric_does() -> None:
    def by(metric: str, value: float, higher: bool) -> Quality:
        return Quality(metric=metric, value=value, samples=10, higher_is_better=higher)

    better = story.loss(by("accuracy", 0.8, True), by("accuracy", 0.81, True))
    assert better == "with 0.01 better accuracy"
    worse = story.loss(by("my:perplexity", 12.0, False), by("my:perplexity", 12.5, False))
    assert worse == "at a loss of 0.5 my:perplexity"


def test_text_of_others_stays_text() -> None:
    page = render(hostile())
    parsed = Page(page)
    assert not [name for name, _ in parsed.elements if name == "img"]
    assert [name for name, _ in parsed.elements].count("script") == 1
    assert not [key for _, attributes in parsed.elements for key in attributes if key.startswith("on")]
    assert "alert(1)" in parsed.text
    assert not set("\x00\u202e") & set(page)
    for plot in re.findall(r"<svg.*?</svg>", page, re.S):
        ElementTree.fromstring(plot)


def test_a_page_needs_nothing_from_elsewhere_and_runs_nothing_but_its_own() -> None:
    page = render(sample())
    assert not re.findall(r"https?:|@import|url\(", page)
    assert {attributes["href"] for name, attributes in Page(page).elements if name == "link"} == {"data:,"}
    assert "style=" not in page, "the policy forbids styles of elements"
    assert "default-src 'none'" in page
    assert "unsafe" not in page


@pytest.mark.parametrize("manifest", [sample(), unchanged(), crowd()], ids=["sample", "unchanged", "crowd"])
def test_a_page_can_be_read_by_ear_and_is_small(manifest: Manifest) -> None:
    page = render(manifest)
    assert len(page.encode()) < 150_000
    for plot in re.findall(r"<svg.*?</svg>", page, re.S):
        ElementTree.fromstring(plot)
        assert "<title>" in plot or 'aria-hidden="true"' in plot
    assert page.count("<table") == page.count("<caption>") > 0
    anchors = {attributes.get("id") for _, attributes in Page(page).elements}
    assert {link[1:] for link in re.findall(r'href="(#\w+)"', page)} <= anchors


def test_text_has_the_contrast_of_wcag_aa_in_both_schemes() -> None:
    style = (resources.files("openglm.report") / "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{[^}]*\}", style)
    schemes = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in blocks]
    assert len(schemes) == 2
    for colours in schemes:
        for text, ground, least in (
            ("ink", "paper", 7.0),
            ("quiet", "paper", 4.5),
            ("accent", "paper", 4.5),
            ("warn", "paper", 4.5),
            ("warn", "warn-soft", 4.5),
            ("ink", "rest", 7.0),
            ("before", "paper", 3.0),
        ):
            assert contrast(colours[text], colours[ground]) >= least, (text, ground, colours)


def contrast(first: str, second: str) -> float:
    """Ratio of two colours' luminances, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("count", [1, 2, 8, 30])
def test_labels_of_the_plot_do_not_overlap(count: int) -> None:
    page = render(crowd(count))
    for name, width in (("wide", 760), ("narrow", 360)):
        found = re.search(rf'<svg[^>]*class="plot {name}".*?</svg>', page, re.S)
        assert found is not None
        boxes = []
        for x, y, end, text in re.findall(
            r'<text x="([\d.]+)" y="([\d.]+)"( text-anchor="end")? class="label[^"]*">([^<]*)<', found[0]
        ):
            wide = len(text) * scatter.WIDTH_OF_LETTER + 2
            left, bottom = float(x) - (wide - 2 if end else 0), float(y) + 4
            boxes.append(scatter.Box(left, bottom - 16, left + wide, bottom))
        assert len(boxes) == count
        assert all(box.left >= 0 and box.right <= width for box in boxes)
        clashes = sum(a.overlap(b) for index, a in enumerate(boxes) for b in boxes[:index])
        assert clashes == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"candidates": ()},
        {"candidates": (candidate("fuse", "failed", "It broke."),)},
        {"verdict_before": {}, "verdict_after": {}, "device": {}, "budget": {}},
        {"files": {}, "versions": {}, "shape": {}, "inputs": (), "outputs": ()},
        {"created": "yesterday"},
        {"layers": (layer("after", "", 0.0, ""), {"phase": "before"}, {"phase": "later", "name": "x"})},
        {"max_drop": 0.0},
    ],
)
def test_a_page_is_made_of_whatever_is_there(changes: dict[str, Any]) -> None:
    Page(render(sample(**changes)))


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.tuples(*[st.one_of(st.none(), st.floats(), st.sampled_from([0.0, 1.0, 1e-300, 1e300]))] * 3),
        max_size=8,
    )
)
def test_no_figures_break_a_page(values: list[tuple[float | None, float | None, float | None]]) -> None:
    made = []
    for speed, value, ms in values:
        item = tried("fuse", "accepted", "", 1, 1, 1)
        changes = {
            "speedup": speed,
            "quality": None if value is None else quality(value),
            "timing": None if ms is None else timing(ms),
        }
        made.append(item.model_copy(update=changes))
    first = made[0] if made else None
    figures = sample().after
    if first is not None and first.quality is not None and first.timing is not None:
        figures = figures.model_copy(update={"quality": first.quality, "timing": first.timing})
    page = render(sample(candidates=tuple(made), before=figures))
    page += render(sample(candidates=tuple(made), after=figures))
    for plot in re.findall(r"<svg.*?</svg>", page, re.S):
        assert not re.search(r'="-?(nan|inf)', plot)


def test_codes_lose_only_what_all_begin_with() -> None:
    assert short_codes(["as it is", "fuse", "fuse + a", "fuse + b + c"]) == ["as it is", "fuse", "a", "b + c"]
    assert short_codes(["a + b", "c + b"]) == ["a + b", "c + b"]
    assert short_codes([]) == []


def test_a_recipe_is_valid_toml() -> None:
    recipe = (
        {"pass": "fuse"},
        {
            "pass": 'odd "name"\x7f',
            "share": 0.5,
            "on": True,
            "none": None,
            "list": [1, 2],
            "map": {"a b": "c"},
        },
    )
    steps = tomllib.loads(toml(recipe))["steps"]
    assert steps == [{key: value for key, value in step.items() if value is not None} for step in recipe]


def test_layers_are_grouped_as_finely_as_the_page_can_show_and_nothing_is_lost() -> None:
    rows = sample_layers()
    found, rest = layers.groups(rows)
    blocks = [f"model.encoder.layer.{index}" for index in range(12)]
    assert [group.name for group in found] == ["model.embeddings.word", *blocks]
    for phase in ("before", "after"):
        total = sum(row["ms"] for row in rows if row["phase"] == phase)
        assert rest is not None
        assert math.isclose(sum(group.ms[phase] for group in [*found, rest]), total)
    assert found[1].mostly("before", "precision") == "fp32"
    assert found[1].mostly("after", "precision") == "int8"
    kinds, _ = layers.groups(layers.kinds(rows))
    assert "model.encoder.layer.*.intermediate.dense" in [group.name for group in kinds]


def test_layers_without_modules_are_their_own() -> None:
    found, rest = layers.groups([layer("before", f"node{index}", index, "fp32") for index in range(1, 41)])
    assert len(found) == layers.MOST
    assert found[-1].name == "node9" or found[-1].name.startswith("node")
    assert rest is not None
    assert rest.name == "25 others"
    assert layers.groups([]) == ([], None)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (units.size(999), "999 B"),
        (units.size(90_356_776), "90.4 MB"),
        (units.size(2.5e9), "2.50 GB"),
        (units.ms(0.004), "4.00 µs"),
        (units.ms(27.12), "27.1 ms"),
        (units.ms(1234.5), "1,234 ms"),
        (units.ms(12_345), "12.3 s"),
        (units.ms(float("nan")), "not a number ms"),
        (units.percent(0.746), "75 %"),
        (units.percent(0.004), "0.4 %"),
        (units.signed(-0.746), "−75 %"),
        (units.score(0.993744), "0.9937"),
        (units.score(1234.5), "1,234.5"),
        (units.spread(1.0, 2.0), "1.00 to 2.00 ms"),
        (units.spread(0.001, 2.0), "1.00 µs to 2.00 ms"),
        (units.duration(59.9), "59.9 s"),
        (units.duration(3700), "1 h 1 min"),
        (units.times(None), "–"),
    ],
)
def test_figures_are_in_human_units(written: str, wanted: str) -> None:
    assert words(written.replace("\u202f", " ")) == wanted


def test_only_markup_is_not_escaped() -> None:
    assert tag("p", "<b>", Markup("<i></i>"), 2, None, ["&"], class_='"', data_x=True, y=None) == (
        '<p class="&quot;" data-x>&lt;b&gt;<i></i>2&amp;</p>'
    )
    assert join("\udc80 a\u202eb\x00") == "? a\ufffdb\ufffd"


@given(
    low=st.floats(-1e6, 1e6),
    span=st.floats(1e-3, 1e6),
    most=st.integers(1, 9),
)
def test_ticks_are_few_and_within(low: float, span: float, most: int) -> None:
    found = scale.ticks(low, low + span, most)
    assert 1 <= len(found) <= max(most, 1)
    assert len(set(scale.labels(found))) == len(found)
