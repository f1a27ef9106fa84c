"""The judge of the demos: a small convolutional network that reads shape, colour and direction off the pixels.

It learns from drawn samples of all pairs, those the demos never train on too, some of them noisy or soft, and is
itself judged on samples it has not seen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.demos.data import COLOURS, DIRECTIONS, SHAPES, draw, drawn_labels

FINEST = 32  # pixels a side that it looks at; larger pictures are averaged down
NOISE = 0.15  # of the pixels it learns from, so that it does not trip over a generated sample's grain
SOFT = 0.5  # share of the samples it learns from whose edges are softened: what a decoder makes seldom is as sharp


class Classifier(nn.Module):
    """Pixels (b, 3, h, w), or a video (b, 3, f, h, w) whose frames become channels -> logits of each label."""

    def __init__(self, side: int, frames: int | None, width: int = 24) -> None:
        super().__init__()
        self.side, self.frames = side, frames
        self.classes = [len(SHAPES), len(COLOURS)] + ([len(DIRECTIONS)] if frames else [])
        layers: list[nn.Module] = []
        channels, side = 3 * (frames or 1), min(side, FINEST)
        while side > 4:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            channels, width, side = width, min(2 * width, 96), side // 2
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(96), nn.ReLU())
        self.head = nn.Linear(96, sum(self.classes))
        self(torch.zeros(2, 3, *([frames] if frames else []), self.side, self.side))  # sizes the lazy layer

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = rearrange(x, "b c f h w -> b (c f) h w") if self.frames else x
        x = F.avg_pool2d(x, self.side // FINEST) if self.side > FINEST else x
        return self.head(self.features(x)).split(self.classes, dim=1)

    def loss(self, generator: torch.Generator, batch: int = 64) -> Tensor:
        """Cross-entropy of all labels of newly drawn samples."""
        labels, pixels = self.drawn(batch, generator)
        one_each = (batch, *[1] * (pixels.dim() - 1))
        pixels = torch.where(torch.rand(one_each, generator=generator) < SOFT, _softened(pixels), pixels)
        noise = NOISE * torch.rand(one_each, generator=generator)
        logits = self(pixels + noise * torch.randn(pixels.shape, generator=generator))
        return torch.stack([F.cross_entropy(one, labels[:, i]) for i, one in enumerate(logits)]).sum()

    def drawn(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Labels and pixels of `count` samples of all pairs."""
        labels = drawn_labels(count, self.frames is not None, generator, unseen=True)
        return labels, draw(labels, self.side, self.frames, generator)

    @torch.no_grad()
    def read(self, x: Tensor) -> Tensor:
        """The labels of pixels, (b, 2) or (b, 3)."""
        self.eval()
        return torch.stack([one.argmax(dim=1) for one in self(x)], dim=1)

    def accuracy(self, seed: int, count: int = 2000) -> float:
        """Share of newly drawn samples whose labels it all reads right."""
        labels, pixels = self.drawn(count, torch.Generator().manual_seed(seed))
        return (self.read(pixels) == labels).all(dim=1).float().mean().item()


def _softened(pixels: Tensor) -> Tensor:
    """Pixels (b, 3, ..., h, w), each the mean of itself and those around it."""
    planes = pixels.flatten(0, -4)
    return F.avg_pool2d(planes, 3, stride=1, padding=1, count_include_pad=False).view_as(pixels)
