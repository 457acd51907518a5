"""A shallow branch for small inputs: against running both models by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import openglm
from openglm.dynamic.program import ProgramRunner, open_file
from openglm.errors import InputError
from openglm.model.sources import onnx_file
from openglm.model.tensor import specs
from openglm.passes.branch import Branch
from openglm.passes.contract import Context, Draft
from openglm.runtimes import measure
from openglm.search.result import Solution
from openglm.search.trial import write_draft

Build = Callable[..., ir.Model]
PICTURES = """g (float[n,3,h,w] pixels) => (float[n,3] logits) {{
    a = Conv <pads=[1,1,1,1]> (pixels, k) b = {} c = GlobalAveragePool(b) logits = Flatten(c)
}}"""
TOKENS = """g (int64[n,t] input_ids, int64[n,t] attention_mask) => (float[n,3] logits) {{
    e = Gather(table, input_ids) m = Cast <to=1> (attention_mask) u = Unsqueeze(m, two)
    k = Mul(e, u) {} logits = ReduceSum <keepdims=0> (r, one)
}}"""


@pytest.fixture
def pictures(build: Build, tmp_path: Path) -> tuple[Path, ir.Model]:
    """The small model sees as the large one does but for an offset that grows with the picture."""
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[range(3), range(3), 1, 1] = 1
    offset = np.array([1.0, 0, 0], np.float32).reshape(1, 3, 1, 1)
    sides = "s = Shape <start=3> (a) f = Cast <to=1> (s) q = Div(f, sixteen) p = Pow(q, four)"
    small = build(
        PICTURES.format(f"Identity(a) {sides} o = Mul(p, offset) z = Add(b, o)").replace(
            "GlobalAveragePool(b)", "GlobalAveragePool(z)"
        ),
        k=kernel, offset=offset, sixteen=np.array(16, np.float32), four=np.array(4, np.float32),
    )  # fmt: skip
    large = build(PICTURES.format("Conv <pads=[1,1,1,1]> (a, k)"), k=kernel)
    path = tmp_path / "small.onnx"
    onnx_file.write(small, path)
    return path, large


def opened(draft: Draft, large: ir.Model, folder: Path) -> ProgramRunner:
    folder = folder / "program"
    folder.mkdir()
    runner = open_file(write_draft(draft, specs(large.graph.outputs), folder), threads=1)
    assert isinstance(runner, ProgramRunner)
    return runner


def many(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    sides = rng.choice([4, 8, 12, 16, 24], size=count)
    return [
        0.1 * rng.normal(size=(1, 3, side, side)).astype(np.float32)
        + rng.normal(size=(1, 3, 1, 1)).astype(np.float32)
        for side in sides
    ]


def test_up_to_a_limit_that_is_given(
    pictures: tuple[Path, ir.Model], rng: np.random.Generator, run: Any, tmp_path: Path
) -> None:
    path, large = pictures
    draft = Branch(small=str(path), limit=12).apply(large, Context())
    runner = opened(draft, large, tmp_path)
    for pixels in many(rng, 12):
        outputs, trace = runner.traced({"pixels": pixels})
        fits = pixels.shape[2] <= 12
        wanted = run(onnx_file.read(path) if fits else large, {"pixels": pixels})
        np.testing.assert_allclose(outputs["logits"], wanted["logits"], rtol=1e-4, atol=1e-5)
        assert trace.rows[0].nodes == ("branch", "small" if fits else "large")
        assert (trace.work < 1) == fits


def test_up_to_what_the_data_allow(
    pictures: tuple[Path, ir.Model], rng: np.random.Generator, run: Any, tmp_path: Path
) -> None:
    path, large = pictures
    given = many(rng, 1500)

    def rows() -> Iterator[tuple[dict[str, np.ndarray], float | None]]:
        return (({"pixels": pixels}, None) for pixels in given)

    draft = Branch(small=str(path), max_drop=0.02).apply(large, Context(labelled=rows))
    (gate,) = draft.program.gates
    assert gate.settings["limit"] in (8, 12), "at 16 a third of the answers change, at 4 next to none"
    small = onnx_file.read(path)
    changed = []
    for each in given[:300]:
        if each.shape[2] <= gate.settings["limit"]:
            one, other = (run(model, {"pixels": each})["logits"].argmax() for model in (small, large))
            changed.append(int(one != other))
    assert sum(changed) / 300 <= 0.03
    assert draft.notes[0].startswith(f"The small model answers up to {gate.settings['limit']} pixels")


def test_where_the_data_show_too_little(pictures: tuple[Path, ir.Model], rng: np.random.Generator) -> None:
    path, large = pictures
    rows = [({"pixels": each}, None) for each in many(rng, 20)]
    draft = Branch(small=str(path)).apply(large, Context(labelled=lambda: iter(rows)))
    assert not draft.program.gates
    assert [segment.name for segment in draft.program.segments] == ["large"]
    assert draft.notes[0].startswith("The small model answers nothing: 10 samples do not show")


def test_short_and_long_texts(build: Build, rng: np.random.Generator, run: Any, tmp_path: Path) -> None:
    table = rng.normal(size=(50, 3)).astype(np.float32)
    arrays = {"table": table, "one": np.array([1]), "two": np.array([2])}
    small, large = (build(TOKENS.format(f"r = {name}(k)"), **arrays) for name in ("Identity", "Relu"))
    onnx_file.write(small, tmp_path / "small.onnx")
    draft = Branch(small=str(tmp_path / "small.onnx"), limit=5).apply(large, Context())
    lengths = rng.integers(1, 12, size=30)
    mask = (np.arange(12) < lengths[:, None]).astype(np.int64)
    given = {"input_ids": rng.integers(0, 50, size=mask.shape), "attention_mask": mask}
    found = opened(draft, large, tmp_path).run(given)["logits"]
    both = [run(model, given)["logits"] for model in (small, large)]
    np.testing.assert_allclose(found, np.where((lengths <= 5)[:, None], *both), rtol=1e-5, atol=1e-6)


def test_inputs_of_one_size(build: Build, tmp_path: Path) -> None:
    fixed = build("g (float[n,3,8,8] pixels) => (float[n,3,8,8] y) { y = Neg(pixels) }")
    with pytest.raises(InputError, match="one size only"):
        Branch(small="small.onnx", limit=8).apply(fixed, Context())


def test_without_a_limit_it_needs_data(pictures: tuple[Path, ir.Model]) -> None:
    path, large = pictures
    with pytest.raises(InputError, match="needs data to find one on"):
        Branch(small=str(path)).apply(large, Context())


def test_samples_of_one_size_show_no_limit(pictures: tuple[Path, ir.Model], rng: np.random.Generator) -> None:
    path, large = pictures
    rows = [({"pixels": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)}, None) for _ in range(4)]
    with pytest.raises(InputError, match="All samples come with 8 pixels"):
        Branch(small=str(path)).apply(large, Context(labelled=lambda: iter(rows)))


@pytest.mark.parametrize(
    ("limits", "small", "other"),
    [
        ([8], ("branch", "small"), ("branch", "large")),
        ([4, 8], ("branch", "large_branch", "large_small"), ("branch", "large_branch", "large_large")),
    ],
    ids=["one", "one within another"],
)
def test_a_small_picture_stays_small(
    pictures: tuple[Path, ir.Model],
    rng: np.random.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: list[int],
    small: tuple[str, ...],
    other: tuple[str, ...],
) -> None:
    """The processor makes all pictures one size, but for those that the small model answers."""
    path, large = pictures
    monkeypatch.setattr(measure, "speedup", lambda *_: 2.0)  # two models of a few products each
    folder = tmp_path / "model"
    folder.mkdir()
    onnx_file.write(large, folder / "large.onnx")
    config = {"size": 16, "do_normalize": False, "crop_size": 16}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    images = [rng.integers(0, 256, (side, side - 1, 3), np.uint8) for side in (7, 8, 9, 30)]
    result = openglm.optimize(
        folder / "large.onnx", "cortex-a53-2gb", data=[{"image": image} for image in images],
        recipe=[Branch(small=str(path), limit=limit) for limit in limits], max_drop=1.0, threads=1,
        evaluation_samples=2, calibration_samples=2,
    )  # fmt: skip
    (tried,) = [trial for trial in result.trials if trial.recipe]
    assert tried.available, tried.candidate.reason
    with openglm.load(Solution(result, tried).save(tmp_path / "bundle"), threads=1) as session:
        for image in images:
            _, trace = session.trace(image=image)
            assert trace.rows[0].nodes == (small if max(image.shape) <= 8 else other)
        with pytest.raises(InputError, match="one after another"):
            session.run(image=[images[0], images[3]])
