"""Which language models fit which device: memory, tokens a second and the first token, from a shape alone.

Reading a prompt is bound by arithmetic and writing by memory bandwidth (Pope et al., "Efficiently Scaling
Transformer Inference", 2022): each written token reads every weight once, and the whole cache.
"""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel, ConfigDict

from openglm.device.decoder import Decoder
from openglm.device.fit import DEFAULT_THREADS, UnitChoice
from openglm.device.footprint import ENGINE_BYTES
from openglm.device.latency import BANDWIDTH_SHARE, CALL_MS
from openglm.device.profile import Device, Precision, Unit
from openglm.errors import InputError

STORED_BITS: dict[int, float] = {4: 4.5, 8: 8.5, 16: 16.0}
"""Bits a weight takes with its share of a half-precision scale for each group of 32, as llama.cpp's Q4_0
and Q8_0 keep them."""

CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768)


class Question(BaseModel):
    """How a language model will be used. Raises `InputError` for a size that is not one."""

    model_config = ConfigDict(frozen=True)

    bits: int = 4
    """Of a weight."""
    cache_bits: int = 16
    """Of an element of the key-value cache."""
    context: int = 4096
    """Tokens that there has to be room for, and that are looked back at."""
    prompt: int = 128
    """Tokens of the prompt that the first answer waits for."""
    unit: str = "best"
    """Which processor reads the prompt."""

    def model_post_init(self, _: object) -> None:
        if self.unit not in get_args(UnitChoice):
            raise InputError(f"There is no unit '{self.unit}'.", "Choose from: cpu, gpu, npu, best.")
        if self.bits not in STORED_BITS:
            raise InputError(f"Weights of {self.bits} bits are not known here.", "Choose from: 4, 8, 16.")
        if self.cache_bits not in (8, 16):
            raise InputError(f"A cache of {self.cache_bits} bits is not known here.", "Choose 8 or 16.")
        if min(self.context, self.prompt) < 1:
            raise InputError("Context and prompt need at least one token.", "Give a number above zero.")
        if self.prompt > self.context:
            raise InputError(
                f"A prompt of {self.prompt} tokens has no room in a context of {self.context}.",
                "Give a shorter prompt or a longer context.",
            )


class LanguageFit(BaseModel):
    """Whether a language model fits a device, and how fast it is there. All predicted."""

    model_config = ConfigDict(frozen=True)

    model: str
    device: str
    bits: int
    context: int
    fits: bool
    """Whether the memory suffices."""
    memory_mb: float
    weights_mb: float
    cache_mb: float
    """With the context full."""
    limit_mb: float
    """What the device leaves to one app."""
    unit: str
    """Which processor reads the prompt, and computes."""
    prefill_per_s: float
    """Tokens of the prompt read a second."""
    decode_per_s: float
    """Tokens written a second with the context full."""
    first_token_ms: float


def language_fit(model: Decoder, device: Device, question: Question | None = None) -> LanguageFit:
    """Whether `model` fits `device`, used as `question` says; raises `InputError` where the device has
    no such processor."""
    asked = question or Question()
    stored = STORED_BITS[asked.bits] / 8
    weights = model.parameters * stored
    cache = model.cache_bytes(asked.context, asked.cache_bits)
    memory = (weights + cache + ENGINE_BYTES) / 1e6
    bandwidth = device.memory.bandwidth_gb_s * 1e9 * BANDWIDTH_SHARE
    units = processors(device, asked)
    if not units:
        kinds = sorted({unit.kind for unit in device.units})
        raise InputError(
            f"{device.name} has no {asked.unit} that computes with such weights.",
            f"Choose from: {', '.join([*kinds, 'best'])}.",
        )
    unit = max(units, key=lambda unit: operations_per_s(unit, asked.bits))
    speed = operations_per_s(unit, asked.bits)
    reading = model.products * stored / bandwidth
    prefill = max(model.operations(asked.prompt) / speed, reading)
    written = max(reading + cache / bandwidth, 2 * model.products / speed)
    return LanguageFit(
        model=model.name,
        device=device.name,
        bits=asked.bits,
        context=asked.context,
        fits=memory <= device.app_memory_mb,
        memory_mb=memory,
        weights_mb=weights / 1e6,
        cache_mb=cache / 1e6,
        limit_mb=device.app_memory_mb,
        unit=unit.name,
        prefill_per_s=asked.prompt / prefill,
        decode_per_s=1 / written,
        first_token_ms=1000 * prefill + CALL_MS[unit.kind],
    )


def processors(device: Device, asked: Question) -> list[Unit]:
    """The processors of the device that may compute, as far as its profile knows their speed."""
    units = [unit for unit in device.units if asked.unit in ("best", unit.kind)]
    return [unit for unit in units if operations_per_s(unit, asked.bits) > 0]


def operations_per_s(unit: Unit, bits: int) -> float:
    """What the unit reaches on products with weights of `bits`; 0 where it computes with none such.

    CPU kernels multiply quantized weights with activations in int8; graphics and neural processors
    unpack them and compute in half precision, as w4a16 engines do. A CPU uses at most 4 cores.
    """
    precision: Precision = "int8" if unit.kind == "cpu" and bits < 16 else "fp16"
    threads = min(DEFAULT_THREADS, unit.cores) if unit.kind == "cpu" else None
    return unit.peak(precision, threads) * 1e9 * unit.efficiency
