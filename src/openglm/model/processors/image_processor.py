"""From pictures to the input array of an image classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openglm.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from PIL import Image

_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters, in the order of the numbers that preprocessor_config.json gives."""

# ConvNeXT's rule, also ResNet's: below this edge an image is resized larger and cropped.
_CONVNEXT_WARPS_FROM = 384

Channels = tuple[float, float, float]


class ImageProcessor(BaseModel):
    """Makes a float32 array (batch, 3, height, width), or channels last, from samples {"image": ...}.

    An image is a path, the bytes of an image file, or a uint8 array (height, width, 3) in RGB. It is
    resized, cropped at its centre to `size`, then `(pixel * scale - mean) / std` by channel.
    A path or bytes need Pillow, and so does an array that must be resized.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image"] = "image"
    input: str = "pixel_values"
    """The model's input name."""
    size: tuple[int, int]
    """Height and width in pixels of what the model takes."""
    shortest_edge: int | None = None
    """Resize the shorter edge to this, keeping proportions; None resizes to `size` itself."""
    resize: bool = True
    """False only crops."""
    small: int | None = Field(default=None, ge=1)
    """Pixels: a picture whose longer side has no more is brought to a square of so many, in place of `size`,
    because a small model answers it."""
    resample: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] = "bilinear"
    mean: Channels = (0.5, 0.5, 0.5)
    std: Channels = (0.5, 0.5, 0.5)
    scale: float = 1 / 255
    channels: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    @classmethod
    def from_folder(
        cls, folder: Path, input: str = "pixel_values", layout: Literal["NCHW", "NHWC"] = "NCHW"
    ) -> ImageProcessor:
        """From the preprocessor_config.json of a transformers model, for its usual classifiers.

        Raises `InputError` where the file is missing, broken, or asks for steps not known here.
        """
        path = folder / "preprocessor_config.json"
        try:
            config = json.loads(path.read_bytes())
        except OSError as error:
            raise InputError(
                f"{folder} holds no readable preprocessor_config.json.",
                "Save the model's image processor there, or feed the model arrays.",
            ) from error
        except ValueError as error:
            raise InputError(
                f"{path} is broken: {error}.", "Download or copy the model's folder again."
            ) from error
        try:
            return cls(input=input, layout=layout, **_fields(config))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(
                f"{path} describes no image classifier's input ({type(error).__name__}: {error}).",
                "Prepare the images yourself and feed the model arrays.",
            ) from error

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> ImageProcessor:
        """From what `settings` gave."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(
                f"The image processor's settings are wrong at "
                f"'{'.'.join(map(str, first['loc']))}': {first['msg']}.",
                "Save the bundle again.",
            ) from error

    def settings(self) -> dict[str, Any]:
        """Plain settings for the manifest."""
        return self.model_dump(mode="json")

    def save(self, folder: Path) -> list[str]:
        """Nothing: the settings say it all."""
        return []

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """The array by input name for a batch of samples; raises `InputError` on what is no image."""
        if not batch:
            raise InputError("There is no image.", 'Give at least one sample such as {"image": "photo.jpg"}.')
        pictures = [self._pixels(sample.get("image")) for sample in batch]
        if len({picture.shape for picture in pictures}) > 1:
            raise InputError(
                f"Some of these images have more than {self.small} pixels at a side, and some do not: "
                "they go different ways.",
                "Give them one after another.",
            )
        pixels = np.stack(pictures)
        if self.channels == "BGR":
            pixels = pixels[..., ::-1]
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        values = (pixels.astype(np.float32) * np.float32(self.scale) - mean) / std
        if self.layout == "NCHW":
            values = values.transpose(0, 3, 1, 2)
        return {self.input: np.ascontiguousarray(values, np.float32)}

    def _pixels(self, image: Any) -> np.ndarray:
        """The image resized and cropped, uint8 (height, width, 3)."""
        pixels = image if isinstance(image, np.ndarray) else _decode(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise InputError(
                f"An image array is {pixels.dtype}{list(pixels.shape)}.",
                "Give uint8 of shape [height, width, 3], in RGB.",
            )
        wanted, (height, width) = self.size, self._resized(*pixels.shape[:2])
        if self.small is not None and self.resize and max(pixels.shape[:2]) <= self.small:
            height, width = wanted = self.small, self.small
        if (height, width) != pixels.shape[:2]:
            image_module = _pillow(f"resizes an image to {height}x{width} pixels")
            picture = image_module.fromarray(np.ascontiguousarray(pixels))
            filter_number = _RESAMPLE.index(self.resample)
            pixels = np.asarray(picture.resize((width, height), image_module.Resampling(filter_number)))
        top, left = (height - wanted[0]) // 2, (width - wanted[1]) // 2
        if top < 0 or left < 0:
            raise InputError(
                f"An image of {height}x{width} pixels is smaller than the {wanted[0]}x{wanted[1]} "
                "that the model takes.",
                "Give a larger image.",
            )
        return pixels[top : top + wanted[0], left : left + wanted[1]]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if not self.resize:
            return height, width
        if self.shortest_edge is None:
            return self.size
        short, long = min(height, width), max(height, width)
        longer = int(self.shortest_edge * long / short)
        return (longer, self.shortest_edge) if width <= height else (self.shortest_edge, longer)


def _fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a transformers preprocessor_config.json stands for."""
    if config.get("rescale_offset"):
        raise ValueError("rescale_offset is not supported")
    fields: dict[str, Any] = {"resize": config.get("do_resize", True)}
    fields["resample"] = _RESAMPLE[config.get("resample", 2)]
    size, crop = config.get("size", 224), config.get("crop_size", 224)
    crops = config.get("do_center_crop", False)
    # A size given as one number is the shortest edge where a crop follows, else height and width.
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if "crop_pct" in config and edge is not None:
        warps = edge >= _CONVNEXT_WARPS_FROM
        fields["size"] = (edge, edge)
        fields["shortest_edge"] = None if warps else int(edge / (config["crop_pct"] or 224 / 256))
    elif crops:
        fields["size"] = _pair(crop)
        fields["shortest_edge"] = edge
        if edge is None and _pair(size) != _pair(crop):
            raise ValueError("resizing to one fixed size and cropping to another is not supported")
    else:
        fields["size"] = _pair(size)
    fields["scale"] = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    if config.get("do_normalize", True):
        fields["mean"] = config.get("image_mean", (0.5, 0.5, 0.5))
        # EfficientNet with its classifier divides by the deviation a second time.
        power = 2 if config.get("include_top") else 1
        fields["std"] = [value**power for value in config.get("image_std", (0.5, 0.5, 0.5))]
    else:
        fields["mean"], fields["std"] = (0, 0, 0), (1, 1, 1)
    if config.get("do_flip_channel_order"):
        fields["channels"] = "BGR"
    return fields


def _pair(size: Any) -> tuple[int, int]:
    return (size["height"], size["width"]) if isinstance(size, Mapping) else (size, size)


def _pillow(purpose: str) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(f"Pillow, which {purpose},", "image") from error
    return Image


def _decode(image: Any) -> np.ndarray:
    """The pixels of an image file, given as a path or as bytes, turned as its EXIF says, in RGB."""
    if not isinstance(image, str | Path | bytes):
        found = "is missing" if image is None else f"is of type {type(image).__name__}"
        raise InputError(
            f"A sample's 'image' {found}.", "Give a path, the bytes of a file, or a uint8 array."
        )
    name = "The image" if isinstance(image, bytes) else str(image)
    pillow = _pillow("reads image files")
    from PIL import ImageOps

    try:
        picture: Image.Image
        with pillow.open(BytesIO(image) if isinstance(image, bytes) else image) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except FileNotFoundError as error:
        raise InputError(f"There is no image {image!s}.", "Check the path.") from error
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        # Pillow raises SyntaxError for a broken PNG.
        raise InputError(
            f"{name} cannot be read as an image: {error}.", "Check that the file is whole."
        ) from error
