"""Sessions of .tflite files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import openglm
from openglm.dynamic.model_file import FileSession
from openglm.errors import InputError


def test_any_number_of_rows(tensorflow_files: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 16, 16, 3)).astype(np.float32)
    with openglm.load(tensorflow_files / "vision_fp32.tflite", threads=1) as session:
        assert isinstance(session, FileSession)
        whole = session.run({"picture": x})
        parts = [session.run({"picture": x[row : row + 1]}) for row in range(5)]
    assert whole["logits"].shape == (5, 4)
    for name, array in whole.items():
        np.testing.assert_allclose(np.concatenate([part[name] for part in parts]), array, atol=1e-5)
    with pytest.raises(InputError, match="closed"):
        session.run({"picture": x})


def test_quantized_to_its_ends(tensorflow_files: Path) -> None:
    """Integers go in and come out, and stand for numbers by the scales."""
    x = np.random.default_rng(0).standard_normal((1, 16, 16, 3)).astype(np.float32)
    truth = openglm.load(tensorflow_files / "vision_fp32.tflite").run({"picture": x})["logits"]
    session = openglm.load(tensorflow_files / "vision_static.tflite")
    with pytest.raises(InputError, match="has type float32 where the model takes int8"):
        session.run({"picture": x})
    scale, zero = session.scales["picture"]
    given = np.clip(np.round(x / scale) + zero, -128, 127).astype(np.int8)
    found = session.run({"picture": given})["logits"]
    scale, zero = session.scales["logits"]
    assert found.dtype == np.int8
    assert np.abs((found.astype(float) - zero) * scale - truth).max() < 0.1 * np.abs(truth).max()


def test_wrong_inputs(tensorflow_files: Path) -> None:
    session = openglm.load(tensorflow_files / "vision_fp32.tflite")
    assert session.scales == {}
    with pytest.raises(InputError, match="Input 'picture' is missing"):
        session.run({})
    with pytest.raises(InputError, match=r"shape \[1, 8, 8, 3\]"):
        session.run({"picture": np.zeros((1, 8, 8, 3), np.float32)})
    with pytest.raises(InputError, match="0 threads"):
        openglm.load(tensorflow_files / "vision_fp32.tflite", threads=0)
