"""Language models on phones: what `openglm language-models` predicts, beside what was published.

    python benchmarks/language_models.py [--write-docs]

Nothing is fitted to these measurements. They are others', each with its source; the shape of the model,
the profile of the phone and the bits of a weight are all that a prediction has.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass

import tables
from openglm.device import profile
from openglm.device.decoder import Decoder
from openglm.device.language_fit import Question, language_fit

QUALCOMM = "quic/ai-hub-models"
EXECUTORCH = "pytorch/executorch, examples/models/llama2"


@dataclass(frozen=True)
class Published:
    """A measurement of someone's: 4-bit weights, tokens written a second, milliseconds to the first."""

    device: str
    model: str
    unit: str
    context: int
    prompt: int
    decode_per_s: float
    first_ms: float | None
    source: str


PUBLISHED = (
    Published("snapdragon-8-gen-3", "7B", "npu", 1024, 1024, 12.85, 1495.83, f"{QUALCOMM}, llama_v2_7b_chat"),
    Published("snapdragon-8-gen-3", "7B", "cpu", 128, 128, 10.66, None, f"{EXECUTORCH} (Galaxy S24)"),
    Published("snapdragon-8-gen-3", "7B", "cpu", 128, 128, 11.55, None, f"{EXECUTORCH} (OnePlus 12)"),
    Published("snapdragon-8-elite", "7B", "npu", 1024, 1024, 17.94, 1440.0, f"{QUALCOMM}, llama_v2_7b_chat"),
    Published(
        "snapdragon-8-elite", "1B", "npu", 4096, 128, 53.64, 37.07, f"{QUALCOMM}, llama_v3_2_1b_instruct"
    ),
    Published(
        "snapdragon-8-elite", "3B", "npu", 4096, 128, 28.38, 84.78, f"{QUALCOMM}, llama_v3_2_3b_instruct"
    ),
    Published(
        "snapdragon-8-elite", "8B", "npu", 4096, 128, 12.93, 159.38, f"{QUALCOMM}, llama_v3_8b_instruct"
    ),
    Published(
        "snapdragon-8-elite-gen-5",
        "1B",
        "npu",
        4096,
        128,
        64.04,
        30.94,
        f"{QUALCOMM}, llama_v3_2_1b_instruct",
    ),
    Published(
        "snapdragon-8-elite-gen-5",
        "3B",
        "npu",
        4096,
        128,
        32.39,
        62.60,
        f"{QUALCOMM}, llama_v3_2_3b_instruct",
    ),
    Published(
        "snapdragon-8-elite-gen-5", "8B", "npu", 4096, 128, 15.31, 102.88, f"{QUALCOMM}, llama_v3_8b_instruct"
    ),
    Published("apple-a17-pro", "7B", "cpu", 128, 128, 6.0, None, f"{EXECUTORCH} (iPhone 15 Pro, in the app)"),
)
"""Llama 2 7B and Llama 3 in 1, 3 and 8 billion weights. The NPU's graphs look back at the whole context
whatever is in it; the first token is that of the shortest prompt they take."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    rows: list[list[str]] = []
    written: list[float] = []
    first: list[float] = []
    for item in PUBLISHED:
        asked = Question(context=item.context, prompt=item.prompt, unit=item.unit)
        found = language_fit(Decoder.load(item.model), profile.load(item.device), asked)
        written.append(found.decode_per_s / item.decode_per_s - 1)
        cells = ["", "", ""]
        if item.first_ms is not None:
            first.append(found.first_token_ms / item.first_ms - 1)
            cells = [f"{item.first_ms:,.0f}", f"{found.first_token_ms:,.0f}", f"{first[-1]:+.0%}"]
        rows.append(
            [
                item.device,
                item.model,
                item.unit,
                f"{item.decode_per_s:.1f}",
                f"{found.decode_per_s:.1f}",
                f"{written[-1]:+.0%}",
                *cells,
                item.source,
            ]
        )
    table = tables.markdown(
        [
            "device",
            "model",
            "unit",
            "tokens/s, published",
            "predicted",
            "error",
            "first token, ms",
            "predicted",
            "error",
            "published in",
        ],
        rows,
        3,
    )
    text = (
        f"{table}\n\nMedian error: {_median(written):.0%} for tokens written a second (at worst "
        f"{max(map(abs, written)):.0%}), {_median(first):.0%} for the first token (at worst "
        f"{max(map(abs, first)):.0%}). Weights of 4 bits, a cache of 16; published by others. Nothing was "
        "fitted to it here or measured on this machine.\n\n"
        "```sh\npython benchmarks/language_models.py --write-docs\n```"
    )
    print(text)
    if given.write_docs:
        tables.write("language models", text)
    return 0


def _median(errors: list[float]) -> float:
    return statistics.median(map(abs, errors))


if __name__ == "__main__":
    sys.exit(main())
