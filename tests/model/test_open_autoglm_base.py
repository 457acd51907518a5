"""open-autoglm-base: what its package holds, what it answers, and the four lines that README shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import openglm  # noqa: E402
from openglm import AutoModel, GraphOptimizer  # noqa: E402
from openglm.glue import models  # noqa: E402
from openglm.glue.tasks import TASKS  # noqa: E402
from openglm.model.model import Model  # noqa: E402
from openglm.model.sources.zoo import ZOO  # noqa: E402
from openglm.runtimes import measure  # noqa: E402
from openglm.search.result import Result  # noqa: E402

NAME = "open-autoglm-base"
MOST_BYTES = 30e6
SAID = {
    "sentiment: a moving, funny and quietly brilliant film": 1,
    "sentiment: a tedious mess without a single good scene": 0,
    "grammar: The cat that I saw was sleeping.": 1,
    "grammar: Cat the saw I that sleeping was.": 0,
}
SIMILAR = [
    ("similarity: A man is playing a guitar.", "A man plays the guitar.", 4.0, 5.0),
    ("similarity: A man is playing a guitar.", "The stock market fell on Friday.", 0.0, 1.0),
]


@pytest.fixture(scope="module")
def model() -> Model:
    if not ZOO[NAME].available():
        pytest.skip(f"{NAME} is not installed: {ZOO[NAME].install}")
    return AutoModel.from_pretrained(NAME)


@pytest.fixture(scope="module")
def optimized(model: Model) -> Result:
    optimizer = GraphOptimizer(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "speedup", lambda *_: 1.5)  # how fast it is, is for benchmarks
        return optimizer.optimize(strategy="dynamic_pruning")


def test_it_is_small_and_whole(model: Model) -> None:
    folder = ZOO[NAME].folder()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= MOST_BYTES
    assert model.name == model.source == NAME
    assert model.class_names == ("no", "yes")
    assert sum(p.numel() for n, p in model.module.named_parameters() if not n.startswith("exits")) == (
        ZOO[NAME].parameters
    )


def test_its_matrices_are_on_a_grid_of_8_bits(model: Model) -> None:
    for name, tensor in model.module.state_dict().items():
        if tensor.dim() == 2:
            row = tensor[tensor.abs().amax(1).argmax()]
            steps = row / (row.abs().max() / 127)
            assert torch.allclose(steps, steps.round(), atol=1e-2), name


def answers(run: openglm.dynamic.session.Session, texts: list[str]) -> np.ndarray:
    return run.run(text=texts)["logits"]


def test_dynamic_pruning_needs_no_data(optimized: Result, tmp_path: Path) -> None:
    (trial,) = [trial for trial in optimized.trials if trial.recipe]
    assert trial.candidate.outcome in ("accepted", "chosen"), trial.candidate.reason
    assert [step.scheme for step in trial.recipe] == ["fuse", "dynamic_wi8_ai8", "program"]
    optimized.best.save(tmp_path / "bundle")
    with openglm.load(tmp_path / "bundle", threads=1) as session:
        assert session.manifest.program.gates
        assert [spec.name for spec in session.manifest.outputs] == ["logits"]
        for text, answer in SAID.items():
            outputs, trace = session.trace(text=text)
            assert outputs["logits"].argmax() == answer, text
        assert trace.rows[0].nodes[0] == "segment_0"


def test_what_stands_in_for_data_asks_as_the_tasks_do(model: Model) -> None:
    assert model.stand_ins is not None
    words = model.config["openglm_tasks"]
    halves = [[sample.inputs for sample in half] for half in model.stand_ins().halves()]
    for half in halves:
        assert {given["text"].partition(" ")[0] for given in half} == set(words.values())
        pairs = {given["text"].partition(" ")[0] for given in half if "text_pair" in given}
        assert pairs == {words["mrpc"], words["sts-b"]}
    asked = [{given["text"].partition(" ")[2] for given in half} for half in halves]
    assert asked[0]
    assert not asked[0] & asked[1], "what sets gates does not judge them"


def test_a_batch_of_several_tasks_and_lengths_is_what_its_rows_are_alone(model: Model) -> None:
    """In float; with dynamic int8, ranges depend on what shares a batch."""
    processor = model.processor
    assert processor is not None
    with torch.no_grad():
        together = model.module(**tensors(processor([{"text": text} for text in SAID])))[0]
        alone = [model.module(**tensors(processor([{"text": text}])))[0][0] for text in SAID]
    np.testing.assert_allclose(together.numpy(), torch.stack(alone).numpy(), atol=1e-4)
    assert together.argmax(1).tolist() == list(SAID.values())


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_glue_asks_it_by_its_words(model: Model, tmp_path: Path) -> None:
    from contextlib import ExitStack

    assert [task.slug for task in models.tasks_of(NAME)] == ["cola", "sst-2", "mrpc", "sts-b"]
    with ExitStack() as stack:
        provide = models.stored(NAME, 1, tmp_path, stack)
        task = provide(TASKS["sts-b"])
        for first, second, least, most in SIMILAR:
            row = {"text": first.partition(" ")[2], "text_pair": second}
            (value,) = task.run(task.encode(row))[0]
            assert least <= value <= most
        sentiment = provide(TASKS["sst-2"])
        for text, answer in SAID.items():
            if text.startswith("sentiment:"):
                found = sentiment.run(sentiment.encode({"text": text.partition(" ")[2]}))
                assert found.argmax() == answer
        with pytest.raises(openglm.OpenGLMError, match="has not learnt RTE"):
            provide(TASKS["rte"])
