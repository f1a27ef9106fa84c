"""Samplers on networks whose prediction is known."""

from __future__ import annotations

import pytest
import torch

from minimodels.diffusion_config import Schedule
from minimodels.samplers import Ddim, guide


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_a_perfect_prediction_leads_to_the_image(prediction: str, steps: int) -> None:
    schedule = Schedule.model_validate(
        {"kind": "scaled-linear", "beta_start": 0.00085, "beta_end": 0.012, "timesteps": 1000, "prediction": prediction}
    )
    sampler = Ddim.of(schedule, steps)
    assert len(sampler.timesteps) == steps and sampler.timesteps == sorted(sampler.timesteps, reverse=True)
    generator = torch.Generator().manual_seed(1)
    image, noise = (torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    signal = sampler.signal[0]
    x = signal**0.5 * image + (1 - signal) ** 0.5 * noise
    for index in range(steps):
        keep, spread = sampler.signal[index] ** 0.5, (1 - sampler.signal[index]) ** 0.5
        x = sampler.step(index, x, noise if prediction == "noise" else keep * noise - spread * image)
    last = sampler.signal_next[-1]
    expected = last**0.5 * image + (1 - last) ** 0.5 * noise
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-9)  # rounding, divided by the least signal, 1/14
    assert last == pytest.approx(1 - schedule.beta_start)


def test_guidance_goes_from_unconditional_through_conditional() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    conditional, unconditional = x[:2], x[2:]
    torch.testing.assert_close(guide(x, 1.0), conditional)
    torch.testing.assert_close(guide(x, 0.0), unconditional)
    torch.testing.assert_close(guide(x, 7.5), unconditional + 7.5 * (conditional - unconditional))
