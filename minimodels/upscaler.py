"""Convolutional super-resolution after WDSR: wide activations before each ReLU, pixel shuffle at the end.

Source: Yu et al. 2018, Wide Activation for Efficient and Accurate Image Super-Resolution, arXiv 1808.08718.
Parti, section 2.1, puts such networks (12 residual blocks, 128 channels) behind its image tokenizer.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from minimodels.checks import check_picture
from minimodels.config import ConvUpscaler as ConvUpscalerConfig
from minimodels.kernels.scope import scope


class WideBlock(nn.Module):
    """x + conv(relu(conv(x))), with `expansion` times as many channels in between."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(channels, channels * expansion, 3, padding=1)
        self.narrow = nn.Conv2d(channels * expansion, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (b, c, h, w) -> (b, c, h, w)."""
        with scope("res_block"):
            return x + self.narrow(F.relu(self.widen(x)))


class Doubling(nn.Module):
    """Pixels (b, 3, h, w) -> (b, 3, 2h, 2w)."""

    def __init__(self, config: ConvUpscalerConfig) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, config.channels, 3, padding=1)
        self.blocks = nn.Sequential(*(WideBlock(config.channels, config.expansion) for _ in range(config.res_blocks)))
        self.leave = nn.Conv2d(config.channels, 12, 3, padding=1)
        self.skip = nn.Conv2d(3, 12, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.leave(self.blocks(self.enter(x))) + self.skip(x), 2)


class ConvUpscaler(nn.Module):
    """Pixels (b, 3, h, w) -> (b, 3, h * 2**doublings, w * 2**doublings)."""

    def __init__(self, config: ConvUpscalerConfig) -> None:
        super().__init__()
        self.doublings = nn.Sequential(*(Doubling(config) for _ in range(config.doublings)))

    def forward(self, x: Tensor) -> Tensor:
        check_picture("x", x, 3)
        return self.doublings(x)
