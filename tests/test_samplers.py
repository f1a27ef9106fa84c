"""Samplers on networks whose prediction is known, and the drawing and masking of tokens."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minimodels.diffusion_config import Denoising, Schedule
from minimodels.loader import load, names
from minimodels.samplers import Sampler, dynamic_threshold, guide, signals, still_masked, unmask
from tests.config_files import error_of

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


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_static_threshold_bounds_the_image_and_its_noise_follows(name: str, prediction: str) -> None:
    """A network sure of an image outside the limits leads to that image clipped."""
    run = {"steps": 3, "guidance_scale": 1.0, "sampler": name, "static_threshold": 0.75}
    sampler = Sampler.of(make_schedule("linear", prediction), Denoising.model_validate(run))
    image, noise = draw_two(2, 3, 5, 7)
    x, keep, spread = sampler.start(noise), sampler.signal[0] ** 0.5, (1 - sampler.signal[0]) ** 0.5
    clean, after = image.clamp(-0.75, 0.75), sampler.signal_next[0]
    given = sampler.given(0, x)
    expected = after**0.5 * clean + (1 - after) ** 0.5 * (given - keep * clean) / spread
    expected = expected / after**0.5 if name == "euler" else expected
    torch.manual_seed(4)
    found = sampler.step(0, x, perfect(sampler, 0, x, image))
    if name != "ddpm":
        torch.testing.assert_close(found, expected)
    for index in range(1, 3):
        found = sampler.step(index, found, perfect(sampler, index, found, image))
    assert name == "ddim" or torch.allclose(found, clean)  # ddim keeps the noise of timestep 0


def test_a_static_threshold_is_one_operator_a_step() -> None:
    image, noise = draw_two(2, 3)
    ran = []
    for more in ({}, {"static_threshold": 1.0}):
        run = {"steps": 3, "guidance_scale": 1.0, "sampler": "ddpm", **more}
        sampler = Sampler.of(make_schedule("cosine", "noise"), Denoising.model_validate(run))
        with Dispatched() as seen:
            sampler.step(0, noise, image)
        ran.append(seen.counts)
    assert ran[1] - ran[0] == {torch.ops.aten.clamp.default: 1} and not ran[0] - ran[1]


@pytest.mark.parametrize("name", [name for name in names() if load(name).kind.startswith("cascaded")])
def test_every_loop_of_a_cascade_clips_what_it_predicts(name: str) -> None:
    """Pixels and CLIP embeddings; latents have no range to be clipped to."""
    loops = [loop for _, loop in load(name).run if isinstance(loop, Denoising)]
    assert len(loops) >= 3
    for loop in loops:
        assert loop.static_threshold is not None or loop.dynamic_threshold is not None


class Dispatched(TorchDispatchMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func] += 1
        return func(*args, **(kwargs or {}))


def test_two_thresholds_are_refused() -> None:
    message = error_of("imagen", "run.unet.static_threshold=1.0")
    assert message == "imagen: run.unet: dynamic_threshold and static_threshold both clip the image: give one of them"


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
