"""Image processor: pixels as transformers prepares them, and what is refused."""

from __future__ import annotations

import builtins
import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openglm.errors import InputError, MissingExtraError
from openglm.model.processors.image_processor import ImageProcessor
from openglm.model.processors.processor import from_settings

PIL = pytest.importorskip("PIL", reason="Pillow is what image files are read with")
from PIL import Image  # noqa: E402

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (50, 70, 3), dtype=np.uint8)

# Configurations as they stand in published models' folders.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", {"size": {"height": 32, "width": 24}, "resample": 2}),
    "mobilenet-v2": (
        "MobileNetV2",
        {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
    ),
    "resnet": (
        "ConvNext",
        {"size": {"shortest_edge": 32}, "crop_pct": 0.875, "resample": 3, "image_mean": [0.4, 0.5, 0.6]},
    ),
    "convnext-384": ("ConvNext", {"size": {"shortest_edge": 384}, "crop_pct": 1.0, "resample": 3}),
    "mobilevit": (
        "MobileViT",
        {
            "size": {"shortest_edge": 40},
            "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32},
            "do_flip_channel_order": True,
            "resample": 2,
            "do_normalize": False,
        },
    ),
    "efficientnet": (
        "EfficientNet",
        {
            "size": {"height": 32, "width": 32},
            "resample": 0,
            "include_top": True,
            "image_std": [0.47, 0.5, 0.4],
        },
    ),
}


def file(**options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("turned", [False, True])
def test_as_transformers_prepares_it(name: str, turned: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is what pixels are compared with")
    kind, config = CONFIGS[name]
    family = kind.lower() if kind != "MobileNetV2" else "mobilenet_v2"
    try:
        module = importlib.import_module(f"transformers.models.{family}.image_processing_pil_{family}")
    except ImportError:
        pytest.skip("this transformers has no Pillow image processors")
    reference = getattr(module, f"{kind}ImageProcessorPil")(**config)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    image = np.ascontiguousarray(PICTURE.transpose(1, 0, 2)) if turned else PICTURE
    ours = ImageProcessor.from_folder(tmp_path)([{"image": image}])["pixel_values"]
    expected = reference(image, return_tensors="np")["pixel_values"]
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_a_path_bytes_and_an_array_are_the_same_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(file())
    processor = ImageProcessor(size=(20, 30))
    rows = processor([{"image": tmp_path / "a.png"}, {"image": str(tmp_path / "a.png")}, {"image": file()}])
    one = processor([{"image": PICTURE}])["pixel_values"]
    assert rows["pixel_values"].shape == (3, 3, 20, 30)
    np.testing.assert_array_equal(rows["pixel_values"], np.repeat(one, 3, 0))


def test_the_definition() -> None:
    processor = ImageProcessor(
        size=(50, 70), mean=(0.1, 0.2, 0.3), std=(1, 2, 4), layout="NHWC", channels="BGR", input="x"
    )
    array = processor([{"image": PICTURE}])["x"]
    expected = (PICTURE[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4]
    np.testing.assert_allclose(array[0], expected, atol=1e-6)


def test_a_small_picture_is_left_small() -> None:
    processor = ImageProcessor(size=(12, 10), shortest_edge=14, small=8)
    rng = np.random.default_rng(0)
    for sides, made in (((8, 8), (8, 8)), ((5, 8), (8, 8)), ((9, 4), (12, 10)), ((40, 30), (12, 10))):
        picture = rng.integers(0, 256, (*sides, 3), np.uint8)
        found = processor([{"image": picture}])["pixel_values"]
        assert found.shape[2:] == made
        if sides == (8, 8):
            np.testing.assert_allclose(found[0].transpose(1, 2, 0), picture / 255 * 2 - 1, atol=1e-6)
    mixed = [{"image": np.zeros((side, side, 3), np.uint8)} for side in (8, 9)]
    with pytest.raises(InputError, match="more than 8 pixels at a side, and some do not"):
        processor(mixed)


def test_the_camera_was_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise to view
    turned = ImageProcessor(size=(70, 50))([{"image": file(exif=exif)}])["pixel_values"]
    expected = ImageProcessor(size=(70, 50))([{"image": np.rot90(PICTURE, -1)}])["pixel_values"]
    np.testing.assert_array_equal(turned, expected)


def test_settings_make_it_again(tmp_path: Path) -> None:
    made = ImageProcessor(size=(8, 9), shortest_edge=12, resample="bicubic", layout="NHWC")
    assert made.save(tmp_path) == []
    assert from_settings(json.loads(json.dumps(made.settings())), tmp_path) == made
    with pytest.raises(InputError, match="'size'"):
        from_settings({"kind": "image"}, tmp_path)


def test_without_pillow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert ImageProcessor(size=(50, 70))([{"image": PICTURE}])["pixel_values"].shape == (1, 3, 50, 70)
    cropped = ImageProcessor(size=(50, 50), shortest_edge=50)([{"image": PICTURE}])["pixel_values"]
    assert cropped.shape == (1, 3, 50, 50)
    for image in (PICTURE[:40], "a.png"):
        with pytest.raises(MissingExtraError, match=r"openglm\[image\]"):
            ImageProcessor(size=(50, 70))([{"image": image}])


@pytest.mark.parametrize("image", [None, 3, PICTURE.astype(float), PICTURE[..., 0], PICTURE[:0]])
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(InputError):
        ImageProcessor(size=(8, 8))([{"image": image}])


@pytest.mark.parametrize("size", [0, 5, 40, 2000])
def test_a_truncated_file_is_refused(size: int, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(file()[:size])
    with pytest.raises(InputError, match=r"broken\.png cannot be read"):
        ImageProcessor(size=(8, 8))([{"image": tmp_path / "broken.png"}])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no image"):
        ImageProcessor(size=(8, 8))([{"image": tmp_path / "none.png"}])


def test_an_image_too_small_to_crop_is_refused() -> None:
    with pytest.raises(InputError, match="smaller than"):
        ImageProcessor(size=(60, 60), resize=False)([{"image": PICTURE}])


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"size": {"longest_edge": 8}}', '{"rescale_offset": true}']
)
def test_a_config_that_cannot_be_used(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(InputError, match="preprocessor_config"):
        ImageProcessor.from_folder(tmp_path)


def test_old_configs_give_sizes_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text('{"size": 224, "do_normalize": true}')
    assert ImageProcessor.from_folder(tmp_path).size == (224, 224)
    path.write_text('{"size": 256, "do_center_crop": true, "crop_size": 224}')
    processor = ImageProcessor.from_folder(tmp_path)
    assert (processor.size, processor.shortest_edge) == ((224, 224), 256)
