"""Samplers on networks whose prediction is known, and the drawing and masking of tokens."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from minimodels.diffusion_config import Denoising, Schedule
from minimodels.samplers import Sampler, dynamic_threshold, guide, signals, still_masked, unmask

BETAS = {
    "scaled-linear": {"beta_start": 0.00085, "beta_end": 0.012},
    "linear": {"beta_start": 1e-4, "beta_end": 0.02},
    "cosine": {},
}
KINDS, PREDICTIONS = list(BETAS), ["noise", "velocity", "clean"]


def make_schedule(kind: str, prediction: str, **more: Any) -> Schedule:
    return Schedule.model_validate({"kind": kind, "timesteps": 1000, "prediction": prediction, **BETAS[kind], **more})


def make_sampler(schedule: Schedule, steps: int, sampler: str, threshold: float | None = None) -> Sampler:
    run = {"steps": steps, "guidance_scale": 1.0, "sampler": sampler, "dynamic_threshold": threshold}
    return Sampler.of(schedule, Denoising.model_validate(run))


def perfect(sampler: Sampler, index: int, x: Tensor, image: Tensor) -> Tensor:
    """What a network that knows the image predicts of the state x."""
    keep, spread = sampler.signal[index] ** 0.5, (1 - sampler.signal[index]) ** 0.5
    noise = (sampler.given(index, x) - keep * image) / spread
    return {"noise": noise, "velocity": keep * noise - spread * image, "clean": image}[sampler.prediction]


def draw_two(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image, noise = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return image, noise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["ddpm", "euler"])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_a_perfect_prediction_leads_from_noise_to_the_image(kind: str, prediction: str, name: str, steps: int) -> None:
    sampler = make_sampler(make_schedule(kind, prediction), steps, name)
    image, noise = draw_two(2, 3, 5, 7)
    x = sampler.start(noise)
    torch.manual_seed(2)
    for index in range(steps):
        x = sampler.step(index, x, perfect(sampler, index, x, image))
    assert sampler.signal_next[-1] == 1
    # Rounding, 1e-16, of states as large as 1 / sqrt(least signal): 1e3 in the cosine schedule
    torch.testing.assert_close(x, image, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_ddim_with_a_perfect_prediction_keeps_image_and_noise(kind: str, prediction: str, steps: int) -> None:
    schedule = make_schedule(kind, prediction)
    sampler = make_sampler(schedule, steps, "ddim")
    image, noise = draw_two(2, 3, 5, 7)
    x = sampler.signal[0] ** 0.5 * image + (1 - sampler.signal[0]) ** 0.5 * noise
    for index in range(steps):
        x = sampler.step(index, x, perfect(sampler, index, x, image))
        after = sampler.signal_next[index]
        torch.testing.assert_close(x, after**0.5 * image + (1 - after) ** 0.5 * noise, rtol=0, atol=1e-11)
    assert sampler.signal_next[-1] == signals(schedule)[0], "as in latent diffusion, timestep 0 is the last"


@pytest.mark.parametrize("kind", KINDS)
def test_ddpm_draws_every_state_as_noisy_as_its_timestep(kind: str) -> None:
    """x at signal s has mean sqrt(s) image and deviation sqrt(1 - s): wrong weights or too little noise break it."""
    sampler = make_sampler(make_schedule(kind, "velocity"), 5, "ddpm")
    image, noise = draw_two(40_000)
    x = sampler.signal[0] ** 0.5 * image + (1 - sampler.signal[0]) ** 0.5 * noise
    torch.manual_seed(3)
    for index in range(4):
        x = sampler.step(index, x, perfect(sampler, index, x, image))
        after = sampler.signal_next[index]
        rest = (x - after**0.5 * image) / (1 - after) ** 0.5
        error = len(x) ** -0.5
        assert rest.mean().abs() < 4 * error and (rest.std() - 1).abs() < 4 * error
        assert (rest * image).mean().abs() < 4 * error, "the noise says nothing of the image"
        assert (rest * noise).mean() < 0.99, "the noise is not that of the start"


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler"])
@pytest.mark.parametrize("steps", [1, 2, 3, 64, 600, 999, 1000])
def test_timesteps_fall_without_repeating(name: str, steps: int) -> None:
    sampler = make_sampler(make_schedule("cosine", "noise"), steps, name)
    assert len(sampler.timesteps) == steps
    assert all(a > b for a, b in pairwise(sampler.timesteps))
    assert sampler.timesteps[-1] == (1 if steps < 1000 else 0) and sampler.timesteps[0] < 1000
    assert all(a < b for a, b in pairwise(sampler.signal)) and sampler.signal[-1] <= sampler.signal_next[-1]
    assert sampler.signal[1:] == sampler.signal_next[:-1]


def test_sampling_below_a_timestep_visits_none_above() -> None:
    schedule = make_schedule("scaled-linear", "noise", below=200)
    assert make_sampler(schedule, 10, "euler").timesteps == list(range(181, 0, -20))


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_a_threshold_bounds_the_image_and_its_noise_follows(name: str) -> None:
    sampler = make_sampler(make_schedule("cosine", "clean"), 1, name, threshold=0.9)
    image, noise = draw_two(2, 3, 5, 7)
    torch.manual_seed(4)
    x = sampler.step(0, noise, 5 * image)
    clean = dynamic_threshold(5 * image, 0.9)
    keep, spread, after = sampler.signal[0] ** 0.5, (1 - sampler.signal[0]) ** 0.5, sampler.signal_next[0]
    torch.testing.assert_close(x, after**0.5 * clean + (1 - after) ** 0.5 * (noise - keep * clean) / spread)


def test_guidance_goes_from_unconditional_through_conditional() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    conditional, unconditional = x[:2], x[2:]
    torch.testing.assert_close(guide(x, 1.0), conditional)
    torch.testing.assert_close(guide(x, 0.0), unconditional)
    torch.testing.assert_close(guide(x, 7.5), unconditional + 7.5 * (conditional - unconditional))


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.997])
@pytest.mark.parametrize("size", [0.2, 3.0])
def test_dynamic_threshold_is_a_clip_at_the_quantile_of_each_sample(quantile: float, size: float) -> None:
    x = size * draw_two(3, 3, 5, 7)[0] * torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)[:, None, None, None]
    found = dynamic_threshold(x, quantile)
    assert found.shape == x.shape and found.abs().max() <= 1
    for own, given in zip(found, x, strict=True):
        bound = max(1.0, torch.quantile(given.abs(), quantile, interpolation="lower").item())
        torch.testing.assert_close(own, given.clamp(-bound, bound) / bound, rtol=1e-15, atol=0)


def masked_by_maskgit(steps: int, tokens: int) -> list[int]:
    """Masked after each step: floor of the cosine's share, below what is masked now, above none; none at last."""
    counts, unknown = [], tokens
    for step in range(steps):
        share = math.cos(math.pi * 0.5 * (step + 1) / steps)
        unknown = max(1, min(unknown - 1, math.floor(share * tokens)))
        counts.append(unknown)
    return [*counts[:-1], 0]


@pytest.mark.parametrize(("steps", "tokens"), [(1, 7), (3, 9), (8, 256), (12, 1024), (24, 256), (9, 5), (48, 11)])
def test_counts_of_masked_tokens_are_those_of_maskgit(steps: int, tokens: int) -> None:
    assert [still_masked(step, steps, tokens) for step in range(steps)] == masked_by_maskgit(steps, tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("equal", [False, True])
def test_unmask_keeps_kept_tokens_and_masks_exactly_as_many_as_asked(dtype: torch.dtype, equal: bool) -> None:
    """equal: every token is as sure as the others, so that confidence alone decides nothing."""
    mask, steps, n = 7, 5, 41
    torch.manual_seed(5)
    tokens = torch.full((3, n), mask)
    for step in range(steps):
        before, masked = tokens, still_masked(step, steps, n)
        logits = torch.zeros(3, n, 7) if equal else torch.randn(3, n, 7)
        tokens = unmask(before, logits.to(dtype), mask, masked, 1.0, noise=0.0 if equal else 2.0)
        assert (tokens == mask).sum(dim=1).tolist() == [masked] * 3
        assert torch.equal(tokens[before != mask], before[before != mask])
    assert tokens.max() < mask and tokens.unique().numel() > 1


def test_unmask_without_noise_masks_the_least_sure() -> None:
    sure = torch.tensor([[3.0, 9.0, 1.0, 7.0, 5.0]])
    logits = torch.stack([10 * sure, torch.zeros_like(sure)], dim=-1)
    logits[..., 0] = sure  # token 0 is drawn with sigmoid(sure)
    torch.manual_seed(6)
    drawn = unmask(torch.full((1, 5), 2), 40 * logits, 2, 0, 1.0, noise=0.0)
    assert drawn.tolist() == [[0] * 5], "so sure that chance has no say"
    kept = unmask(torch.full((1, 5), 2), logits.double(), 2, 3, 0.25, noise=0.0)
    assert kept.tolist() == [[2, 0, 2, 0, 2]]


def test_unmask_draws_by_the_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0]).expand(2, 20_000, 3)
    torch.manual_seed(7)
    drawn = unmask(torch.full((2, 20_000), 3), logits, 3, 0, temperature=0.5, noise=0.0)
    shares = torch.bincount(drawn.flatten(), minlength=3) / 40_000
    expected = torch.softmax(torch.tensor([0.0, 2.0, -2.0]), dim=0)
    assert (shares - expected).abs().max() < 4 * 0.5 * 40_000**-0.5, "4 deviations of a share"


def test_clipped_pixels_stay_in_range_and_the_noise_follows() -> None:
    schedule = Schedule(kind="cosine", timesteps=1000, prediction="noise")
    run = Denoising(steps=4, guidance_scale=1.0, sampler="ddim", clip=True)
    sampler = Sampler.of(schedule, run)
    x, predicted = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    signal, following = sampler.signal[0], sampler.signal_next[0]
    clean = ((x - (1 - signal) ** 0.5 * predicted) / signal**0.5).clamp(-1, 1)
    noise = (x - signal**0.5 * clean) / (1 - signal) ** 0.5
    torch.testing.assert_close(sampler.step(0, x, predicted), following**0.5 * clean + (1 - following) ** 0.5 * noise)
