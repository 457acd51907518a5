"""Networks that the benchmarks train and measure, written from their papers."""

from __future__ import annotations

import torch
from torch import nn


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1, act: bool = True
) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU6()) if act else nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """Expand, filter by channel, project; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        layers = [] if expand == 1 else [_conv(inputs, hidden, 1, 1)]
        layers += [_conv(hidden, hidden, 3, stride, groups=hidden), _conv(hidden, outputs, 1, 1, act=False)]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class BasicBlock(nn.Module):
    """Two convolutions, added to the input, which a 1 x 1 convolution brings to shape where it must."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.short = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else nn.Identity()
        )
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.second(self.first(x)) + self.short(x))


class ResNet20(nn.Module):
    """ResNet-20 for pictures of 32 x 32 (He et al. 2015, section 4.2): 41 M multiply-adds."""

    BLOCKS = 3
    """In each of the three stages."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        ]
        for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
            layers.append(BasicBlock(inputs, outputs, stride))
            layers += [BasicBlock(outputs, outputs, 1) for _ in range(self.BLOCKS - 1)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(64, classes)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(pixel_values).mean((2, 3)))


class ResNet14(ResNet20):
    """The same with fewer blocks: 27 M multiply-adds."""

    BLOCKS = 2


class MobileNetV2(nn.Module):
    """MobileNetV2 at width 1.0 (Sandler et al. 2018, table 2): 300 M multiply-adds at 224 x 224."""

    BLOCKS = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, 2)]
        width = 32
        for expand, outputs, count, stride in self.BLOCKS:
            for index in range(count):
                layers.append(InvertedResidual(width, outputs, stride if index == 0 else 1, expand))
                width = outputs
        layers.append(_conv(width, 1280, 1, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(pixel_values).mean((2, 3)))


class DepthwiseSeparable(nn.Module):
    """A 3 x 3 filter for each channel, then a 1 x 1 convolution across them (Howard et al. 2017)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class Enhancer(nn.Module):
    """A picture at twice its size: depthwise separable convolutions, then pixels out of channels (Shi et al.
    2016), added to the picture enlarged."""

    def __init__(self, width: int = 32, blocks: int = 6) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, 1, 1)
        self.body = nn.Sequential(*(DepthwiseSeparable(width, width) for _ in range(blocks)))
        self.tail = nn.Sequential(nn.Conv2d(width, 12, 3, 1, 1), nn.PixelShuffle(2))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        large = nn.functional.interpolate(
            pixel_values, scale_factor=2.0, mode="bilinear", align_corners=False
        )
        features = self.head(pixel_values)
        return large + self.tail(features + self.body(features))


class KeywordNet(nn.Module):
    """DS-CNN for keyword spotting (Zhang et al. 2017, table 9, small): 49 frames of 10 coefficients, twelve
    words."""

    def __init__(self, width: int = 64, blocks: int = 4, classes: int = 12) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            *(DepthwiseSeparable(width, width) for _ in range(blocks)),
        )  # fmt: skip
        self.classifier = nn.Linear(width, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(features).mean((2, 3)))


class DecoderBlock(nn.Module):
    """Attention to what came before, then a feed-forward layer, each behind its normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        parts = self.qkv(self.before(x)).reshape(rows, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        told = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(told.transpose(1, 2).reshape(rows, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.after(x))))


class Decoder(nn.Module):
    """A small decoder in the manner of GPT-2 (Radford et al. 2019), without a cache."""

    def __init__(self, vocabulary: int = 1000, width: int = 128, blocks: int = 4, longest: int = 64) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(longest, width)
        self.blocks = nn.ModuleList(DecoderBlock(width, 4) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
