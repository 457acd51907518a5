"""Networks trained on CIFAR-10: those with convolutions that the benchmarks compress.

Training takes about a quarter of an hour each on two cores and is done once: the weights are kept.
MobileNetV2 goes from small pictures to large, because an epoch at 224 costs twelve at 64 and the
features carry over; the last, short stages get it used to the size it is measured at.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from nets import MobileNetV2, ResNet20
from openglm.training.loop import resolve

SIZE = 224
SEED = 20
Stage = tuple[int, int, int, float]
"""Side of the pictures, how many are shown, batch, highest learning rate."""
STAGES: tuple[Stage, ...] = ((64, 90_000, 64, 3e-3), (128, 12_000, 64, 6e-4), (SIZE, 10_000, 32, 8e-4))
SMALL: tuple[Stage, ...] = ((64, 120_000, 64, 3e-3),)
"""For a size at which a search can train."""
RESNET: tuple[Stage, ...] = ((32, 300_000, 128, 4e-3),)


def images(data: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The "train" or "test" pictures, (count, 3, 32, 32) in [-2, 2], and their classes.

    Their order is mixed, and always the same.
    """
    found, labels, names = [], [], []
    with tarfile.open(data / "cifar10-jpeg" / f"{part}.tar") as archive:
        for member in sorted((item for item in archive if item.isfile()), key=lambda item: item.name):
            name = Path(member.name).parent.name
            if name not in names:
                names.append(name)
            file = archive.extractfile(member)
            assert file is not None
            found.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
            labels.append(names.index(name))
    order = torch.from_numpy(np.random.default_rng(SEED).permutation(len(found)))
    pixels = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float()
    return ((pixels / 255 - 0.5) / 0.25)[order], torch.tensor(labels)[order]


def enlarge(pictures: torch.Tensor, size: int = SIZE) -> torch.Tensor:
    """Pictures (count, 3, 32, 32) at another size, bilinear."""
    return functional.interpolate(pictures, size=(size, size), mode="bilinear", align_corners=False)


def trained(
    data: Path,
    weights: Path,
    kind: type[MobileNetV2 | ResNet20] = MobileNetV2,
    stages: tuple[Stage, ...] = STAGES,
) -> MobileNetV2 | ResNet20:
    """A network with the weights in a file, which is made by training where it is not there."""
    net = kind(classes=10)
    if not weights.is_file():
        torch.manual_seed(SEED)
        net = kind(classes=10)
        train(net, *images(data, "train"), stages)
        torch.save(net.state_dict(), weights)
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


def train(
    net: MobileNetV2 | ResNet20, pictures: torch.Tensor, labels: torch.Tensor, stages: tuple[Stage, ...]
) -> None:
    """Train a network in place, by cross entropy."""
    net.train().to(memory_format=torch.channels_last)
    for size, shown, batch, rate in stages:
        steps = shown // batch
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
        order = torch.cat([torch.randperm(len(labels)) for _ in range(-(-shown // len(labels)))])
        average = None
        for step in range(steps):
            picked = order[step * batch : (step + 1) * batch]
            x = enlarge(_varied(pictures[picked]), size).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=resolve("auto") == "bf16"):
                logits = net(x)
            loss = functional.cross_entropy(logits.float(), labels[picked], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
            if (step + 1) % 50 == 0 or step + 1 == steps:
                done = f"step {step + 1} of {steps}, loss {average:.3f}"
                print(f"training {type(net).__name__} at {size}: {done}", flush=True)


def _varied(pictures: torch.Tensor) -> torch.Tensor:
    """A batch shifted by up to four pixels, half of it mirrored."""
    padded = functional.pad(pictures, (4, 4, 4, 4), mode="reflect")
    top, left = torch.randint(0, 9, (2,)).tolist()
    shifted = padded[:, :, top : top + 32, left : left + 32]
    mirrored = torch.rand(len(pictures)) < 0.5
    return torch.where(mirrored[:, None, None, None], shifted.flip(3), shifted)
