"""Language models on devices: the mission's two phones, and what follows from bandwidth and arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.device import profile
from openglm.device.decoder import Decoder, sizes
from openglm.device.language_fit import Question, language_fit, operations_per_s
from openglm.device.latency import BANDWIDTH_SHARE
from openglm.errors import InputError

PHONE = profile.load("snapdragon-8-gen-3")


def test_seven_billion_at_four_bits_fit_a_snapdragon_8_gen_3() -> None:
    found = language_fit(Decoder.load("7B"), PHONE)
    assert found.fits
    assert found.cache_mb == pytest.approx(2 * 32 * 32 * 128 * 4096 * 2 / 1e6)
    assert not language_fit(Decoder.load("7B"), PHONE, Question(bits=8)).fits


def test_three_billion_on_an_a17_pro_answer_within_200_ms() -> None:
    found = language_fit(Decoder.load("3B"), profile.load("apple-a17-pro"))
    assert found.fits
    assert found.first_token_ms < 200


def test_writing_reads_weights_and_cache() -> None:
    model = Decoder.load("3B")
    found = language_fit(model, PHONE, Question(context=1024))
    moved = model.products * 4.5 / 8 + model.cache_bytes(1024, 16)
    assert found.decode_per_s == pytest.approx(76.8e9 * BANDWIDTH_SHARE / moved)
    assert found.memory_mb > found.weights_mb + found.cache_mb


def test_reading_is_bound_by_arithmetic_once_a_prompt_is_long() -> None:
    model = Decoder.load("3B")
    short, long = (language_fit(model, PHONE, Question(prompt=n)) for n in (8, 2048))
    assert short.prefill_per_s < long.prefill_per_s
    assert short.first_token_ms == pytest.approx(
        1000 * model.products * 4.5 / 8 / (76.8e9 * BANDWIDTH_SHARE) + 0.5
    )
    npu = next(unit for unit in PHONE.units if unit.kind == "npu")
    assert long.first_token_ms == pytest.approx(
        1000 * model.operations(2048) / operations_per_s(npu, 4) + 0.5
    )


@given(
    st.sampled_from(sizes()),
    st.sampled_from([name for name in profile.names() if name != "host"]),
    st.integers(128, 32768),
)
def test_more_bits_and_more_context_never_help(model: Decoder, name: str, context: int) -> None:
    device = profile.load(name)
    at = {bits: language_fit(model, device, Question(bits=bits, context=context)) for bits in (4, 8, 16)}
    assert at[4].memory_mb < at[8].memory_mb < at[16].memory_mb
    assert at[4].decode_per_s >= at[8].decode_per_s >= at[16].decode_per_s > 0
    longer = language_fit(model, device, Question(context=2 * context))
    assert longer.memory_mb > at[4].memory_mb
    assert longer.decode_per_s <= at[4].decode_per_s
    smaller = language_fit(model, device, Question(context=context, cache_bits=8))
    assert 2 * smaller.cache_mb == pytest.approx(at[4].cache_mb)


def test_a_device_without_the_unit() -> None:
    with pytest.raises(InputError, match="has no npu"):
        language_fit(Decoder.load("1B"), profile.load("cortex-a53-2gb"), Question(unit="npu"))


@pytest.mark.parametrize(
    "wrong",
    [{"bits": 5}, {"cache_bits": 4}, {"context": 0}, {"prompt": 0}, {"context": 64, "prompt": 128}],
)
def test_bad_questions(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError):
        Question(**wrong)
