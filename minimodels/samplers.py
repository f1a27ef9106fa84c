"""From a network's output to the next state: guidance and token sampling.

Nothing here reads a tensor's value, so that all of it walks on `meta` and runs without a device sync.
"""

from __future__ import annotations

from itertools import accumulate
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor

from minimodels.diffusion_config import Schedule


def guide(x: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of x (2b, ...), conditional half first -> (b, ...): u + scale (c - u).

    Source: Ho and Salimans 2022, arXiv 2207.12598, eq. 6.
    """
    conditional, unconditional = x.chunk(2)
    return torch.lerp(unconditional, conditional, scale)


def sample_token(logits: Tensor, temperature: float) -> Tensor:
    """Draw one token from softmax(logits / temperature): (b, vocab) -> (b,).

    By exponential race: argmax of p / e, e exponential, is a draw from p.
    """
    probability = torch.softmax(logits / temperature, dim=-1)
    return (probability / torch.empty_like(probability).exponential_()).argmax(dim=-1)


class Ddim(NamedTuple):
    """Deterministic sampling: the timesteps visited, and the share of signal before and after each.

    Source: Song et al. 2021, arXiv 2010.02502, eq. 12 with sigma = 0; timesteps spaced as in latent diffusion.
    """

    timesteps: list[int]
    signal: list[float]  # alpha-bar at every timestep visited
    signal_next: list[float]  # and at the one after it
    prediction: str

    @classmethod
    def of(cls, schedule: Schedule, steps: int) -> Ddim:
        """The sampler of a schedule in `steps` steps."""
        low, high, last = schedule.beta_start**0.5, schedule.beta_end**0.5, max(schedule.timesteps - 1, 1)
        roots = (low + (high - low) * index / last for index in range(schedule.timesteps))
        signal = list(accumulate((1 - root**2 for root in roots), mul))
        stride = schedule.timesteps // steps
        timesteps = [min(index * stride + 1, schedule.timesteps - 1) for index in reversed(range(steps))]
        after = [signal[t - stride] if t >= stride else signal[0] for t in timesteps]
        return cls(timesteps, [signal[t] for t in timesteps], after, schedule.prediction)

    def step(self, index: int, x: Tensor, predicted: Tensor) -> Tensor:
        """From x (b, c, h, w) at step `index` to the next, given what the network predicted there."""
        signal, following = self.signal[index], self.signal_next[index]
        keep, noise = signal**0.5, (1 - signal) ** 0.5
        if self.prediction == "velocity":
            clean = keep * x - noise * predicted
            predicted = keep * predicted + noise * x
        else:
            clean = (x - noise * predicted) / keep
        return following**0.5 * clean + (1 - following) ** 0.5 * predicted
