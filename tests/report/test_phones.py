"""The page on many phones: whole HTML, escaped, with the figures of its survey."""

from __future__ import annotations

from dataclasses import replace

import onnx.parser
import onnx_ir as ir
import pytest

from openglm.device.fit import Budget, Load
from openglm.device.market import Market, Survey, everything, survey
from openglm.model.model import Model
from openglm.report.phones import render

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'&\x00"


@pytest.fixture(scope="module")
def found() -> Survey:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[batch, 512] x, float[512, 512] w)'
        " => (float[batch, 512] y) { y = MatMul(x, w) }"
    )
    graph = ir.from_proto(proto)
    model = Model(name="one", source="test", task="generic", export=lambda: graph)
    devices = everything().devices
    market = Market(devices, (0.9 / len(devices),) * len(devices), 0.1)
    return survey(model, market, Budget(latency_ms=0.2), load=Load(per_s=10))


def test_every_device_is_there(found: Survey) -> None:
    page = render(found, "openglm fit one -d all")
    for entry in found.entries:
        assert entry.device.title in page
    assert "of these devices" in page
    assert page.count("✓") == len(found.running)
    for section in ("market", "devices", "heat", "record"):
        assert f'id="{section}"' in page


def test_without_a_load_or_a_market(found: Survey) -> None:
    entries = tuple(
        replace(entry, verdict=entry.verdict and entry.verdict.model_copy(update={"sustained": None}))
        for entry in found.entries
    )
    page = render(replace(found, entries=entries, weighted=False, unknown=0.0), "openglm fit")
    assert 'id="heat"' not in page
    assert f"fits {len(found.running)} of {len(found.entries)} devices" in page


def test_nothing_fits_and_nothing_is_known(found: Survey) -> None:
    entries = tuple(replace(entry, verdict=None, reason="it has no npu") for entry in found.entries)
    assert "it has no npu" in render(replace(found, entries=entries), "openglm fit")


def test_hostile_names_stay_text(found: Survey) -> None:
    page = render(replace(found, model=HOSTILE), HOSTILE)
    assert "<script>alert" not in page
    assert "<img" not in page
