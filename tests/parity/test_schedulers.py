"""Whole denoising loops equal those of diffusers' schedulers around the same network."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from minimodels.diffusion_config import Denoising, Schedule
from minimodels.dit_config import Flow
from minimodels.samplers import FlowSampler, Sampler, signals
from tests.parity.peers import assert_close

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

THEIR_KIND = {"scaled-linear": "scaled_linear", "linear": "linear", "cosine": "squaredcos_cap_v2"}
THEIR_PREDICTION = {"noise": "epsilon", "velocity": "v_prediction", "clean": "sample"}
# Betas in reach of those of Stable Diffusion and of Imagen, but of neither
BETAS = {"scaled-linear": (0.0009, 0.013), "linear": (2e-4, 0.018), "cosine": (None, None)}


def make_schedule(kind: str, prediction: str) -> Schedule:
    start, end = BETAS[kind]
    return Schedule.model_validate(
        {"kind": kind, "beta_start": start, "beta_end": end, "timesteps": 1000, "prediction": prediction}
    )


def exact_signal(schedule: Schedule) -> Tensor:
    """Their alphas_cumprod, (timesteps,), from betas in float64; they compute both in float32."""
    t = torch.arange(1001, dtype=torch.float64) / 1000
    if schedule.kind == "cosine":
        left = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
        betas = (1 - left[1:] / left[:-1]).clamp(max=0.999)
    else:
        assert schedule.beta_start is not None and schedule.beta_end is not None
        power = 0.5 if schedule.kind == "scaled-linear" else 1.0
        betas = torch.linspace(schedule.beta_start**power, schedule.beta_end**power, 1000, dtype=torch.float64) ** (
            1 / power
        )
    return torch.cumprod(1 - betas, dim=0)


def theirs(name: str, schedule: Schedule, **options: Any) -> Any:
    scheduler = {"ddim": "DDIMScheduler", "ddpm": "DDPMScheduler", "euler": "EulerDiscreteScheduler"}[name]
    betas = {} if schedule.kind == "cosine" else {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end}
    made = getattr(diffusers, scheduler)(
        beta_schedule=THEIR_KIND[schedule.kind],
        prediction_type=THEIR_PREDICTION[schedule.prediction],
        timestep_spacing="leading",
        steps_offset=1,
        **betas,
        **options,
    )
    exact = exact_signal(schedule)
    # Theirs is a product of up to 1000 numbers in float32, each rounded by 6e-8
    torch.testing.assert_close(made.alphas_cumprod, exact.float(), rtol=1000 * 6e-8, atol=1e-9)
    made.alphas_cumprod = exact
    if name == "ddim":
        made.final_alpha_cumprod = exact[0]
    return made


def network(x: Tensor, timestep: int | Tensor, prediction: str) -> Tensor:
    """A fixed function of state and time, that mixes channels and pixels and keeps the loop's values of order one."""
    turned = x.roll((1, 2), dims=(1, 3))
    bent = torch.tanh(0.8 * turned - 0.3 * x + timestep / 1500) + 0.2 * torch.cos(3 * turned)
    return {"noise": x + 0.5 * bent, "velocity": 2 * bent, "clean": 4 * bent}[prediction]


def our_loop(sampler: Sampler, noise: Tensor) -> Tensor:
    x = sampler.start(noise)
    for index, timestep in enumerate(sampler.timesteps):
        x = sampler.step(index, x, network(sampler.given(index, x), timestep, sampler.prediction))
    return x


def their_loop(scheduler: Any, noise: Tensor, prediction: str) -> Tensor:
    x = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        predicted = network(scheduler.scale_model_input(x, timestep), int(timestep), prediction)
        x = scheduler.step(predicted, timestep, x).prev_sample
    return x


def assert_equal_loops(sampler: Sampler, scheduler: Any) -> None:
    """Equal timesteps and equal results; DDPM of diffusers ends with noise of 1e-10 where the formula says none."""
    assert [int(timestep) for timestep in scheduler.timesteps] == sampler.timesteps
    dtype = torch.float32 if sampler.kind == "euler" else torch.float64  # Euler of diffusers knows float32 alone
    noise = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(8)).to(dtype)
    torch.manual_seed(9)  # where noise is added at every step, both draw the same
    expected = their_loop(scheduler, noise, sampler.prediction)
    torch.manual_seed(9)
    assert_close(our_loop(sampler, noise), expected)


@pytest.mark.parametrize("kind", list(BETAS))
def test_signal_of_every_timestep_equals_that_of_diffusers(kind: str) -> None:
    schedule = make_schedule(kind, "noise")
    expected = theirs("ddpm", schedule).alphas_cumprod
    torch.testing.assert_close(torch.tensor(signals(schedule), dtype=torch.float64), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", list(BETAS))
@pytest.mark.parametrize("prediction", list(THEIR_PREDICTION))
@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler"])
@pytest.mark.parametrize("steps", [5, 50])
def test_a_loop_equals_that_of_diffusers(kind: str, prediction: str, name: str, steps: int) -> None:
    schedule = make_schedule(kind, prediction)
    options: dict[str, Any] = {
        "ddim": {"clip_sample": False, "set_alpha_to_one": False},
        "ddpm": {"clip_sample": False},
    }
    scheduler = theirs(name, schedule, **options.get(name, {}))
    scheduler.set_timesteps(steps)
    run = Denoising.model_validate({"steps": steps, "guidance_scale": 1.0, "sampler": name})
    assert_equal_loops(Sampler.of(schedule, run), scheduler)


@pytest.mark.parametrize("name", ["ddpm", "euler"])
@pytest.mark.parametrize("steps", [7, 64, 1000])
def test_a_loop_of_any_number_of_steps_equals_that_of_diffusers_on_its_timesteps(name: str, steps: int) -> None:
    """Their own spacing wastes the highest timesteps where steps does not divide 1000."""
    schedule = make_schedule("cosine" if name == "ddpm" else "linear", "velocity")
    run = Denoising.model_validate({"steps": steps, "guidance_scale": 1.0, "sampler": name})
    sampler = Sampler.of(schedule, run)
    scheduler = theirs(name, schedule, **({"clip_sample": False} if name == "ddpm" else {}))
    scheduler.set_timesteps(timesteps=sampler.timesteps)
    assert_equal_loops(sampler, scheduler)


def test_the_euler_loop_of_sdxl_equals_that_of_its_released_scheduler() -> None:
    """Betas, leading spacing and offset of stable-diffusion-xl-base-1.0's scheduler_config.json."""
    schedule = Schedule(kind="scaled-linear", beta_start=0.00085, beta_end=0.012, timesteps=1000, prediction="noise")
    scheduler = theirs("euler", schedule, interpolation_type="linear", use_karras_sigmas=False)
    scheduler.set_timesteps(50)
    run = Denoising(steps=50, guidance_scale=1.0, sampler="euler")
    assert Sampler.of(schedule, run).timesteps[:2] == [981, 961]
    assert_equal_loops(Sampler.of(schedule, run), scheduler)


@pytest.mark.parametrize("shift", [1.0, 3.158, 5.0])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_a_flow_equals_that_of_diffusers(steps: int, shift: float) -> None:
    """Steps spaced as the pipeline of FLUX does, whose shift is exp(1.15) at 4,096 tokens."""
    sampler = FlowSampler.of(Flow(kind="flow", shift=shift, timesteps=1000), steps)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - index / steps for index in range(steps)])
    noise = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(8))
    ours, theirs = sampler.start(noise), noise
    for index, timestep in enumerate(scheduler.timesteps):
        assert abs(sampler.timesteps[index] - float(timestep)) < 1e-3  # float32 of up to 1000
        ours = sampler.advance(index, ours, network(ours, timestep, "velocity"), None)
        theirs = scheduler.step(network(theirs, timestep, "velocity"), timestep, theirs).prev_sample
    assert_close(ours, theirs)


def test_ddpm_with_a_threshold_equals_that_of_diffusers() -> None:
    schedule = make_schedule("cosine", "noise")
    run = Denoising(steps=10, guidance_scale=1.0, sampler="ddpm", dynamic_threshold=0.5)
    scheduler = theirs(
        "ddpm", schedule, clip_sample=False, thresholding=True, dynamic_thresholding_ratio=0.5, sample_max_value=1e6
    )
    scheduler.set_timesteps(10)
    assert_equal_loops(Sampler.of(schedule, run), scheduler)


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_a_loop_that_clips_equals_that_of_diffusers(name: str) -> None:
    """Their DDIM goes by the noise of the clipped image where it is asked to; ADM's always does."""
    schedule = make_schedule("cosine", "noise")
    run = Denoising.model_validate({"steps": 10, "guidance_scale": 1.0, "sampler": name, "static_threshold": 0.5})
    end = {"set_alpha_to_one": False} if name == "ddim" else {}
    scheduler = theirs(name, schedule, clip_sample=True, clip_sample_range=0.5, **end)
    if name == "ddim":
        scheduler.step = partial(scheduler.step, use_clipped_model_output=True)
    scheduler.set_timesteps(10)
    assert_equal_loops(Sampler.of(schedule, run), scheduler)
