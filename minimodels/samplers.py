"""From a network's output to the next state: noise schedules and samplers, guidance, tokens drawn and masked again.

Nothing here reads a tensor's value, so that all of it walks on `meta` and runs without a device sync.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from torch import Tensor

from minimodels.diffusion_config import Denoising, Schedule
from minimodels.dit_config import Flow
from minimodels.kernels import fused


def guide(x: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of x (2b, ...), conditional half first -> (b, ...): u + scale (c - u).

    Source: Ho and Salimans 2022, arXiv 2207.12598, eq. 6.
    """
    conditional, unconditional = x.chunk(2)
    return torch.lerp(unconditional, conditional, scale)


def sample_token(logits: Tensor, temperature: float) -> Tensor:
    """Draw one token from softmax(logits / temperature): (..., vocab) -> (...).

    By exponential race: argmax of p / e, e exponential, is a draw from p.

    Raises:
        ValueError: the temperature is not positive.
    """
    _check_temperature(temperature)
    if logits.dim() == 2 and fused.takes(logits):
        return fused.draw_token(logits, temperature)
    return draw(torch.softmax(logits / temperature, dim=-1))


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature divides the logits and is positive, not {temperature}")


def draw(probability: Tensor) -> Tensor:
    """Draw one index from each row of probabilities: (..., vocab) -> (...)."""
    return (probability / torch.empty_like(probability).exponential_()).argmax(dim=-1)


def still_masked(step: int, steps: int, tokens: int) -> int:
    """How many tokens are masked after step `step` of `steps`: a quarter of a cosine.

    Every step unmasks one token at least, and leaves one to the next; where there are more steps than tokens, the
    last ones find one masked token until the very last.

    Source: Chang et al. 2022 (MaskGIT), arXiv 2202.04200, section 3.2, and the official code.
    """
    if step == steps - 1:
        return 0
    masked, least = tokens, min(1, tokens - 1)
    for done in range(1, step + 2):
        masked = max(least, min(masked - 1, math.floor(tokens * math.cos(math.pi / 2 * done / steps))))
    return masked


def unmask(tokens: Tensor, logits: Tensor, mask: int, masked: int, temperature: float, noise: float) -> Tensor:
    """Draw tokens in the place of masked ones and mask the least sure again: (b, n), (b, n, vocab) -> (b, n).

    mask: the token that stands for none; masked: how many of n are masked afterwards; noise: of the Gumbel noise
    on log-confidence. Tokens once kept stay. Shapes are those of every step: ranks take the place of a top-k, and
    make the number exact where confidences are equal, as they often are in bfloat16.

    Raises:
        ValueError: the temperature is not positive.
    Source: Chang et al. 2022 (MaskGIT), arXiv 2202.04200, section 3.2.
    """
    _check_temperature(temperature)
    if fused.takes(logits):
        return fused.unmask_step(tokens, logits, mask, masked, temperature, noise)
    probability = torch.softmax(logits / temperature, dim=-1)
    hidden = tokens == mask
    drawn = torch.where(hidden, draw(probability), tokens)
    own = torch.gather(probability, -1, drawn.clamp(max=logits.shape[-1] - 1)[..., None])[..., 0]
    gumbel = -torch.empty_like(own).exponential_().log()
    sure = torch.where(hidden, own.log() + noise * gumbel, math.inf)
    rank = sure.argsort(dim=-1).argsort(dim=-1)
    return torch.where(torch.where(hidden, rank, masked) < masked, mask, drawn)


def signals(schedule: Schedule) -> list[float]:
    """The share of signal left (alpha-bar) at every timestep of training.

    Source: Ho et al. 2020, arXiv 2006.11239 (linear); Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17 (cosine).
    """
    count = schedule.timesteps
    if schedule.kind == "cosine":

        def left(time: float) -> float:
            return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - left((t + 1) / count) / left(t / count), 0.999) for t in range(count)]
    else:
        assert schedule.beta_start is not None and schedule.beta_end is not None, "checked by the config"
        power = 2 if schedule.kind == "scaled-linear" else 1
        low, high, last = schedule.beta_start ** (1 / power), schedule.beta_end ** (1 / power), max(count - 1, 1)
        betas = [(low + (high - low) * t / last) ** power for t in range(count)]
    return list(accumulate((1 - beta for beta in betas), mul))


@dataclass(frozen=True, slots=True)
class Sampler:
    """Steps from noise to an image: timesteps visited, and the share of signal at each and at the one after it.

    ddim: deterministic (Song et al. 2021, arXiv 2010.02502, eq. 12 with sigma = 0); ddpm: with new noise at every
    step (Ho et al. 2020, arXiv 2006.11239, eq. 7); euler: of the probability-flow equation (Karras et al. 2022,
    arXiv 2206.00364, algorithm 1 without churn), in which x is scaled by 1 / sqrt(signal).
    """

    kind: str
    prediction: str
    threshold: Callable[[Tensor], Tensor] | None  # of the predicted image
    timesteps: list[int]
    signal: list[float]
    signal_next: list[float]

    @classmethod
    def of(cls, schedule: Schedule, run: Denoising) -> Sampler:
        """The sampler of a schedule, its timesteps spaced evenly from 1, or all of them.

        Where steps divides the timesteps they are those of latent diffusion, as is DDIM's last state, which keeps
        the noise of timestep 0.
        """
        signal, stride = signals(schedule), schedule.visited / run.steps
        first = 1 if run.steps < schedule.visited else 0
        timesteps = [int(index * stride) + first for index in range(run.steps)]
        visited = [signal[t] for t in timesteps]
        last = signal[0] if run.sampler == "ddim" else 1.0
        after = [last, *visited[:-1]]
        return cls(run.sampler, schedule.prediction, threshold_of(run), timesteps[::-1], visited[::-1], after[::-1])

    def start(self, noise: Tensor) -> Tensor:
        """The state before the first step, from normal noise of its shape."""
        return noise / (self.signal[0] ** 0.5) if self.kind == "euler" else noise

    def given(self, index: int, x: Tensor) -> Tensor:
        """What the network is given at step `index`: x with a variance of one."""
        return x * self.signal[index] ** 0.5 if self.kind == "euler" else x

    def advance(self, index: int, x: Tensor, predicted: Tensor, scale: float | None) -> Tensor:
        """From x (b, ...) at step `index` to the next; scale: of guidance, the prediction then being (2b, ...)."""
        if self.threshold is None and fused.takes_step(x, predicted):
            return fused.guided_step(x, predicted, scale, self.affine(index))
        return self.step(index, x, predicted if scale is None else guide(predicted, scale))

    def affine(self, index: int) -> tuple[float, float, float]:
        """The factors of x, of the prediction and of new normal noise whose sum step `index` is.

        They are what the step's own formulas make of 1 in the place of each, so that there is no second set of them.
        """
        assert self.threshold is None, "a threshold is not linear"
        units = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
        of_x, of_predicted, of_noise = (self._next(index, x, p, lambda e=e: e) for x, p, e in units)
        return of_x, of_predicted, of_noise

    def step(self, index: int, x: Tensor, predicted: Tensor) -> Tensor:
        """From x (b, ...) at step `index` to the next, given what the network predicted there."""
        return self._next(index, x, predicted, lambda: torch.empty_like(x).normal_())

    def _next(self, index: int, x: Any, predicted: Any, new_noise: Callable[[], Any]) -> Any:
        """`step` of tensors, or of numbers in their place where there is no threshold."""
        signal, following = self.signal[index], self.signal_next[index]
        keep, spread = signal**0.5, (1 - signal) ** 0.5
        clean, noise = self._both(index, x, predicted, keep, spread)
        if self.kind == "euler":
            sigma, sigma_next = spread / keep, ((1 - following) / following) ** 0.5
            by = sigma_next - sigma
            return torch.add(x, noise, alpha=by) if isinstance(x, Tensor) else x + by * noise
        if self.kind == "ddim":
            return following**0.5 * clean + (1 - following) ** 0.5 * noise
        ratio = signal / following  # alpha of all the steps between
        of_clean, of_x = following**0.5 * (1 - ratio) / (1 - signal), ratio**0.5 * (1 - following) / (1 - signal)
        width = ((1 - following) / (1 - signal) * (1 - ratio)) ** 0.5
        return of_clean * clean + of_x * x + width * new_noise()

    def _both(self, index: int, x: Any, predicted: Any, keep: float, spread: float) -> tuple[Any, Any]:
        """The image and the noise that x is made of, by the prediction."""
        x = self.given(index, x)
        if self.prediction == "velocity":
            clean, noise = keep * x - spread * predicted, keep * predicted + spread * x
        elif self.prediction == "clean":
            clean, noise = predicted, (x - keep * predicted) / spread
        else:
            clean, noise = (x - spread * predicted) / keep, predicted
        if self.threshold is not None:
            clean = self.threshold(clean)
            if self.kind != "ddpm":  # which goes by the image alone
                noise = (x - keep * clean) / spread
        return clean, noise


@dataclass(frozen=True, slots=True)
class FlowSampler:
    """Euler steps along a flow: the share of noise at each step and at the one after it, and what is told of it.

    Source: Liu et al. 2022 (rectified flow), arXiv 2209.03003, section 2.1; the shift of Esser et al. 2024 (SD 3),
    arXiv 2403.03206, section 5.3.2.
    """

    timesteps: list[float]
    noise: list[float]
    noise_next: list[float]

    @classmethod
    def of(cls, flow: Flow, steps: int) -> FlowSampler:
        """So many steps, evenly spaced before they are shifted."""
        even = [1 - index / steps for index in range(steps)]
        noise = [flow.shift * u / (1 + (flow.shift - 1) * u) for u in even]
        return cls([flow.timesteps * s for s in noise], noise, [*noise[1:], 0.0])

    def start(self, noise: Tensor) -> Tensor:
        """The state before the first step, from normal noise of its shape."""
        return noise

    def given(self, index: int, x: Tensor) -> Tensor:
        """What the network is given at step `index`: the state as it is."""
        return x

    def advance(self, index: int, x: Tensor, predicted: Tensor, scale: float | None) -> Tensor:
        """From x (b, ...) at step `index` to the next; scale: of guidance, the prediction then being (2b, ...)."""
        by = self.noise_next[index] - self.noise[index]
        if fused.takes_step(x, predicted):
            return fused.guided_step(x, predicted, scale, (1.0, by, 0.0))
        return torch.add(x, predicted if scale is None else guide(predicted, scale), alpha=by)


def threshold_of(run: Denoising) -> Callable[[Tensor], Tensor] | None:
    """What a loop does to the image predicted at every step, where it does anything."""
    if run.static_threshold is not None:
        return partial(static_threshold, limit=run.static_threshold)
    return None if run.dynamic_threshold is None else partial(dynamic_threshold, quantile=run.dynamic_threshold)


def static_threshold(x: Tensor, limit: float) -> Tensor:
    """x clipped to [-limit, limit]: what pixels cannot be, they are not predicted to be.

    Source: Dhariwal and Nichol 2021 (ADM), official code: `clip_denoised`.
    """
    return x.clamp(-limit, limit)


def dynamic_threshold(x: Tensor, quantile: float) -> Tensor:
    """x (b, ...) clipped to the quantile of its magnitude, per sample, and scaled back to [-1, 1].

    Source: Saharia et al. 2022 (Imagen), arXiv 2205.11487, section 2.3.
    """
    flat = x.flatten(1)
    magnitude = flat.abs().to(torch.promote_types(x.dtype, torch.float32))
    size = magnitude.sort(dim=-1).values[:, int(quantile * (flat.shape[1] - 1)), None].clamp(min=1)
    return (torch.maximum(torch.minimum(flat, size), -size) / size).to(x.dtype).view_as(x)
