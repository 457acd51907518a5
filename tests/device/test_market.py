"""One model on every device, and lists of a market that are right or wrong."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from openglm.device import profile
from openglm.device.fit import Budget, Load, fit
from openglm.device.market import everything, read_market, survey
from openglm.errors import InputError
from openglm.model.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[batch, 512] x, float[512, 512] w)'
        " => (float[batch, 512] y) { y = MatMul(x, w) }"
    )
    graph = ir.from_proto(proto)
    return Model(name="one", source="test", task="generic", export=lambda: graph)


def market(folder: Path, *lines: str) -> Path:
    path = folder / "market.csv"
    path.write_text("\n".join(["device,share", *lines]), encoding="utf-8")
    return path


def test_every_profile_has_the_verdict_that_it_has_alone(model: Model) -> None:
    budget, load = Budget(latency_ms=0.2), Load(per_s=10)
    found = survey(model, budget=budget, load=load)
    assert {entry.device.name for entry in found.entries} == set(profile.names()) - {"host"}
    assert not found.weighted
    for entry in found.entries:
        assert entry.verdict == fit(model, entry.device, budget, load=load)
    assert found.share == pytest.approx(len(found.running) / len(found.entries))
    assert 0 < len(found.running) < len(found.entries)
    order = [
        (not entry.fits, entry.verdict and entry.verdict.limit("latency").predicted)
        for entry in found.entries
    ]
    assert order == sorted(order)
    assert all(entry.fits != bool(entry.reason) for entry in found.entries)


def test_devices_without_the_unit_do_not_run_it(model: Model) -> None:
    found = survey(model, unit="gpu")
    without = {entry.device.name: entry for entry in found.entries if entry.verdict is None}
    assert "cortex-a53-2gb" in without
    assert "has no gpu" in without["cortex-a53-2gb"].reason
    assert found.running
    assert found.to_json()["devices"][-1]["verdict"] is None


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": 0, "unit": "gpu"}, {"unit": "quantum"}])
def test_what_no_device_can_do(model: Model, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        survey(model, **wrong)  # type: ignore[arg-type]


def test_shares(tmp_path: Path) -> None:
    mine = profile.dumps(profile.load("mid-range-a76")).replace('"mid-range-a76"', '"mine"', 1)
    (tmp_path / "mine.toml").write_text(mine, encoding="utf-8")
    found = read_market(
        market(
            tmp_path, "snapdragon-8-gen-3, 20 %", "flagship,30", "./mine.toml,10", "other,20", ",", "low,0"
        )
    )
    shares = {device.name: share for device, share in zip(found.devices, found.shares, strict=True)}
    flagships = [device for device in everything().devices if device.tier == "flagship"]
    assert shares["snapdragon-8-gen-3"] == pytest.approx(0.25)
    assert shares["tensor-g3"] == pytest.approx(0.375 / (len(flagships) - 1))
    assert shares["mine"] == pytest.approx(0.125)
    assert shares["cortex-a53-2gb"] == 0
    assert found.unknown == pytest.approx(0.25)
    assert sum(shares.values()) + found.unknown == pytest.approx(1)


def test_a_share_counts_where_the_model_fits(model: Model, tmp_path: Path) -> None:
    listed = read_market(market(tmp_path, "snapdragon-8-elite,30", "cortex-a53-2gb,50", "other,20"))
    low = fit(model, "cortex-a53-2gb").limit("latency").predicted
    found = survey(model, listed, Budget(latency_ms=low / 2))
    assert found.weighted
    assert found.share == pytest.approx(0.3)
    assert found.unknown == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["galaxy-s99,10"], "Line 2 of .*galaxy-s99"),
        (["snapdragon-8-gen3,10"], "Did you mean snapdragon-8-gen-3"),
        (["host,10"], "host"),
        (["tensor-g3,-1"], "share '-1'"),
        (["tensor-g3,many"], "share 'many'"),
        (["tensor-g3,nan"], "share 'nan'"),
        (["tensor-g3,inf"], "share 'inf'"),
        (["tensor-g3"], "share ''"),
        (["tensor-g3,0"], "no device with a share above zero"),
        (["other,10"], "no device with a share above zero"),
        ([], "no device with a share above zero"),
        (["low,10", "cortex-a53-2gb,5"], "the tier 'low'"),
        (["none.toml,3"], "no device file"),
    ],
)
def test_bad_lists(lines: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read_market(market(tmp_path, *lines))


def test_files_that_are_no_lists(tmp_path: Path) -> None:
    path = tmp_path / "market.csv"
    with pytest.raises(InputError, match="cannot be read"):
        read_market(path)
    for text in (b"", b"phone,part\nx,1\n", b"device;share\nx;1\n"):
        path.write_bytes(text)
        with pytest.raises(InputError, match="columns"):
            read_market(path)
    path.write_bytes(b"device,share\n\xff\xfe,1\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_market(path)
