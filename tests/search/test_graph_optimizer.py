"""Named strategies: what they stand for, and what becomes of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from openglm import AutoModel, GraphOptimizer, load  # noqa: E402
from openglm.data.dataset import Dataset, Sample  # noqa: E402
from openglm.errors import InputError  # noqa: E402
from openglm.passes.contract import Context  # noqa: E402
from openglm.passes.early_exit import EarlyExit  # noqa: E402
from openglm.passes.fuse import Fuse  # noqa: E402
from openglm.passes.program import ProgramOfExits  # noqa: E402
from openglm.search.graph_optimizer import STRATEGIES  # noqa: E402

SETTINGS: dict[str, Any] = {"threads": 1, "calibration_samples": 4, "evaluation_samples": 12}
ROWS = [
    {"text": f"{a} {b} on the {c}", "label": int(a == "cat")}
    for a in ("cat", "dog", "tree") for b in ("sat", "ran", "ate") for c in ("mat", "house", "table", "rug")
]  # fmt: skip


@pytest.fixture(scope="module")
def classifier(write_classifier: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier"), layers=3, classes=2)


def codes(optimizer: GraphOptimizer, strategy: str) -> list[str]:
    return [step.scheme for step in optimizer.recipe(strategy)]


def test_what_strategies_stand_for(classifier: Path, conv_file: Path) -> None:
    text = GraphOptimizer(classifier)
    assert codes(text, "fuse") == ["fuse"]
    assert codes(text, "int8") == ["fuse", "dynamic_wi8_ai8"]
    assert codes(text, "early_exit") == ["early_exit", "distil", "fuse", "program"]
    assert codes(text, "token_pruning") == ["token_pruning", "distil", "fuse", "program"]
    whole = ["early_exit", "token_pruning", "distil", "fuse", "dynamic_wi8_ai8", "program"]
    assert codes(text, "dynamic_pruning") == whole
    assert codes(text, "auto") == []
    pictures = GraphOptimizer(conv_file)
    assert codes(pictures, "int8") == ["fuse", "static_wi8_ai8"]
    assert "token_pruning" not in codes(pictures, "dynamic_pruning")


def test_a_dynamic_model_is_made_and_runs(classifier: Path, tmp_path: Path) -> None:
    optimizer = GraphOptimizer(classifier, "cortex-a53-2gb", data=ROWS, **SETTINGS)
    passes = optimizer.recipe("dynamic_pruning", steps=3, max_drop=1.0)
    result = optimizer.optimize(passes, max_drop=1.0)
    tried = result.trials[-1].candidate
    assert tried.code.endswith("program"), tried.reason
    assert tried.outcome == "accepted" or "Slower" in tried.reason, tried.reason
    assert any("Inputs leave" in note or "No input leaves" in note for note in tried.notes)
    if tried.outcome == "accepted":
        with load(result.best.save(tmp_path / "bundle")) as session:
            outputs, trace = session.trace(text=["cat sat on the mat", "dog"])
            assert outputs["logits"].shape == (2, 2)
            assert len(trace.rows) == 2
            session.verify()


def test_passes_of_ones_own(bert_folder: Path) -> None:
    result = GraphOptimizer(bert_folder, "cortex-a53-2gb", **SETTINGS).optimize([Fuse()], max_drop=0.5)
    assert [trial.candidate.code for trial in result.trials] == ["as it is", "fuse"]


def test_without_data_what_the_model_brought_sets_the_gates(classifier: Path) -> None:
    model = AutoModel.from_pretrained(classifier)
    own = Dataset("cats", lambda: (Sample({"text": row["text"]}) for row in ROWS), labelled=False)
    given = {"calibration": lambda: iter([model.processor([ROWS[0]])])}  # type: ignore[misc]
    learnt = replace(EarlyExit().apply(model, Context(**given)).model, stand_ins=lambda: own)
    optimizer = GraphOptimizer(learnt, "cortex-a53-2gb", **SETTINGS)
    assert codes(optimizer, "early_exit") == ["fuse", "program"], "it has exits"
    assert optimizer.recipe("early_exit", max_drop=0.2)[-1] == ProgramOfExits(max_drop=0.2)
    result = optimizer.optimize("early_exit")
    assert result.bench.setup.max_drop == 0.05
    (tried,) = [trial.candidate for trial in result.trials if trial.recipe]
    assert any("of agreement with the whole model" in note for note in tried.notes), tried.reason
    assert optimizer.optimize("early_exit", max_drop=0.02).bench.setup.max_drop == 0.02


def test_errors_say_what_to_do(classifier: Path) -> None:
    optimizer = GraphOptimizer(classifier, **SETTINGS)
    with pytest.raises(InputError, match=r"no strategy 'early_exits'\. Did you mean early_exit"):
        optimizer.recipe("early_exits")
    with pytest.raises(InputError, match="needs a small model"):
        optimizer.recipe("cascade")
    with pytest.raises(InputError, match=r"learns from data.*Give GraphOptimizer data="):
        optimizer.optimize("early_exit")
    assert set(STRATEGIES) == {
        "fuse", "int8", "early_exit", "token_pruning", "cascade", "dynamic_pruning", "auto",
    }  # fmt: skip
