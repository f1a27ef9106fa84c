"""Schedulers of diffusers as ours: the noise schedule of training, and how often a loop runs its network.

A step is not always one pass of the network: Heun's second-order steps make two, and PNDM repeats its first. Ours make
one a step, so that a loop is written with as many steps as theirs makes passes.

Source: `timesteps` after `set_timesteps(n)` in diffusers 0.42, which its pipelines run through once.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from minimodels.peers import Settings, Table
from minimodels.weights import read_json

SAMPLERS = {
    "DDIMScheduler": "ddim", "DDIMParallelScheduler": "ddim", "DDPMScheduler": "ddpm", "DDPMParallelScheduler": "ddpm",
    "EulerDiscreteScheduler": "euler",
}  # fmt: skip
# Without an equal here, by the passes of n steps: n, or 2 n - 1 since the last step of second order is one of first
ONE_PASS = (
    "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler", "SASolverScheduler", "TCDScheduler",
    "UniPCMultistepScheduler",
)  # fmt: skip
TWO_PASSES = (
    "DPMSolverSDEScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler",
)  # fmt: skip
PNDM = "PNDMScheduler"
KNOWN = (*SAMPLERS, PNDM, *ONE_PASS, *TWO_PASSES)
SCHEDULES = {"scaled_linear": "scaled-linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "noise", "v_prediction": "velocity", "sample": "clean"}


class Scheduled(NamedTuple):
    """A noise schedule, the sampler nearest to theirs, the steps of ours, and why these: comments on the last two."""

    schedule: Table
    sampler: str
    steps: int
    why_sampler: str
    why_steps: str


def read_scheduler(path: Path, steps: int, why: str) -> Scheduled:
    """What a scheduler_config.json makes of so many steps; `why` says where their number is from.

    Raises:
        ValueError: the scheduler is not known here, or has a setting that ours lacks.
    """
    table = read_json(path)
    settings, name = Settings(table), table.get("_class_name")
    if name not in KNOWN:
        raise ValueError(
            f"{path}: scheduler {name!r} is not known here, nor how many passes of the network its steps make; "
            f"known are {', '.join(KNOWN)}"
        )
    try:
        schedule, passes = _schedule(settings), _passes(name, steps, settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if passes != steps:
        why = f"{why}, {steps}: {passes} passes of the network by {name}"
    nearest = f"from {path}: {name}" if name in SAMPLERS else f"chosen: {name} has no equal here"
    return Scheduled(schedule, SAMPLERS.get(name, "ddim"), passes, nearest, why)


def _schedule(settings: Settings) -> Table:
    for setting, neutral in (("trained_betas", None), ("rescale_betas_zero_snr", False)):
        settings.one_of(setting, neutral)
    kind = SCHEDULES[settings.one_of("beta_schedule", "linear", "scaled_linear", "squaredcos_cap_v2")]
    schedule: Table = {"kind": kind}
    if kind != "cosine":
        schedule["beta_start"] = settings.number("beta_start", 0.0001)
        schedule["beta_end"] = settings.number("beta_end", 0.02)
    schedule["timesteps"] = settings.integer("num_train_timesteps", 1000)
    schedule["prediction"] = PREDICTIONS[settings.one_of("prediction_type", *PREDICTIONS)]
    return schedule


def _passes(name: str, steps: int, settings: Settings) -> int:
    """Passes of the network in so many steps."""
    if name in TWO_PASSES:
        return 2 * steps - 1
    if name == PNDM and steps > 1:
        # The second step once more; or the first three by Runge-Kutta, in four passes each
        return steps + (1 if settings.one_of("skip_prk_steps", False, True) else 9)
    return steps
