"""Peak memory of fine-tuning, measured in a process of its own.

Run as `python -m openglm.glue.memory CONFIG.json`, it prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BATCH, TOKENS = 32, 128


def measure(config: Mapping[str, Any]) -> float | None:
    """Megabytes (10^6 bytes) that fine-tuning a network of this shape (a transformers config) adds.

    To a process with torch and transformers imported, by batches of 32 rows of 128 tokens, with AdamW,
    in the precision that training takes on this machine. None where that process fails, as it does
    where memory does not suffice, or where the system does not tell.
    """
    with tempfile.TemporaryDirectory(prefix="openglm-") as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(dict(config)), encoding="utf-8")
        command = [sys.executable, "-m", "openglm.glue.memory", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    found: float | None = json.loads(done.stdout)["peak_mb"]
    return found


def main(config: str) -> None:
    """Measure in this process and print the result."""
    import torch
    import transformers  # noqa: F401  # so that its code is in the baseline

    from openglm.dynamic.footprint import resident_mb
    from openglm.glue.finetuning import loss
    from openglm.glue.references import module_of
    from openglm.training.loop import Settings, train
    from openglm.training.samples import Batch

    class Rows:
        def batches(self, size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
            # One row first: its update makes the optimizer's state, so that one whole batch suffices to
            # see all there is at once.
            for rows in (1, size):
                ids = torch.arange(rows * TOKENS).reshape(rows, TOKENS) % 50 + 5
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                yield Batch(inputs, torch.zeros(rows, dtype=torch.int64), torch.arange(rows))

    before = resident_mb(peak=False)
    module = module_of(json.loads(Path(config).read_text(encoding="utf-8")))
    train(module, Rows(), loss, Settings(steps=2, batch_size=BATCH))
    after = resident_mb(peak=True)
    peak = None if before is None or after is None else round(after - before, 1)
    print(json.dumps({"peak_mb": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
