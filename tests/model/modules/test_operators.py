"""Every operator computes in PyTorch what ONNX Runtime computes, and still does once it is exported again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from operator_cases import CASES, MATRIX, graph_of, run

torch = pytest.importorskip("torch")

from openglm.errors import InputError  # noqa: E402
from openglm.model.modules.graph_module import of_graph  # noqa: E402
from openglm.model.modules.operators import OPERATORS  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def tensors(value: Any) -> list[Any]:
    """What a module gives, as arrays."""
    found = value if isinstance(value, tuple) else (value,)
    return [item.detach().numpy() if isinstance(item, torch.Tensor) else np.array(item) for item in found]


@pytest.mark.parametrize(
    ("name", "given", "settings"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_as_onnx_runtime_has_it(name: str, given: list[Any], settings: dict[str, Any]) -> None:
    model = graph_of(name, given, settings, constant=True)
    inputs = {"v0": np.asarray(given[0])}
    module = of_graph(model)
    with torch.no_grad():
        found = tensors(module(torch.from_numpy(inputs["v0"])))
    for ours, truth in zip(found, run(model, inputs), strict=True):
        assert ours.dtype == truth.dtype
        np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-5)


def test_every_operator_is_tested() -> None:
    assert set(OPERATORS) <= {name for name, _, _ in CASES}


@pytest.mark.parametrize("name", ["NonZero", "Loop"])
def test_what_is_not_known_is_named(name: str) -> None:
    model = graph_of("NonZero", [MATRIX], {}, constant=True)
    next(iter(model.graph)).op_type = name
    with pytest.raises(InputError, match=f"no counterpart here of {name}"):
        of_graph(model)
