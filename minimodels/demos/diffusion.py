"""What diffusion networks learn in the demos: noise of a random timestep taken off, by the schedule that sampling uses.

Shapes: clean x (b, c, *pixels); text (b, n) of token numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimodels.diffusion_config import Schedule
from minimodels.efficient_unet import EfficientUNet
from minimodels.samplers import signals
from minimodels.unet import UNet
from minimodels.unet_attention import SpatialTransformer, TextAppendedAttention
from minimodels.unet_blocks import ResBlock

DROPPED = 0.1  # share of captions that are left out in training, for guidance


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise of the shape of a tensor."""
    return torch.randn(like.shape, generator=generator)


def some_dropped(text: Tensor, generator: torch.Generator) -> Tensor:
    """Token numbers (b, n), a share of the rows without content, as guidance compares with (Ho and Salimans 2022)."""
    return torch.where(torch.rand(len(text), 1, generator=generator) < DROPPED, 0, text)


@torch.no_grad()
def start_quiet(network: nn.Module) -> None:
    """Zero the last layer of a denoiser and of each of its residual branches, so that it starts as all shortcuts.

    Source: the official code of Ho et al. 2020 and of ADM (`zero_module`).
    """
    for module in network.modules():
        match module:
            case UNet() | EfficientUNet() | SpatialTransformer():
                last = module.leave
            case ResBlock():
                last = module.conv_out
            case TextAppendedAttention():
                last = module.attention.to_out
            case _:
                continue
        last.weight.zero_()  # type: ignore[operator,union-attr]


def denoising_loss(
    predict: Callable[[Tensor, Tensor], Tensor], schedule: Schedule, clean: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean squared error of predict(noisy x, timesteps (b,)) at random timesteps.

    Source: Ho et al. 2020, arXiv 2006.11239, eq. 14; Salimans and Ho 2022, arXiv 2202.00512, appendix D (velocity).
    """
    timestep = torch.randint(schedule.visited, (len(clean),), generator=generator)
    signal = torch.tensor(signals(schedule))[timestep].view(-1, *[1] * (clean.dim() - 1))
    noise = normal(clean, generator)
    keep, spread = signal.sqrt(), (1 - signal).sqrt()
    target = {"noise": noise, "clean": clean, "velocity": keep * noise - spread * clean}[schedule.prediction]
    return F.mse_loss(predict(keep * clean + spread * noise, timestep)[:, : clean.shape[1]], target)
