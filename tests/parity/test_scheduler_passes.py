"""A step of a scheduler is one pass of the network, or two, or four: ours are written with as many as theirs makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minimodels.peers.scheduler import KNOWN, read_scheduler

diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # numpy's, in their code

NEED_MORE = "LMSDiscreteScheduler", "DPMSolverSDEScheduler"  # scipy, torchsde
SCHEDULERS = [name for name in KNOWN if name not in NEED_MORE]


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, {}) for name in SCHEDULERS), ("PNDMScheduler", {"skip_prk_steps": True})]
)
def test_a_loop_has_as_many_steps_as_theirs_makes_passes(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    scheduler = getattr(diffusers, name)(**settings)
    scheduler.save_pretrained(tmp_path)
    for steps in (1, 10, 50):
        if steps > 1 or "PNDM" not in name or settings:  # theirs fails at one Runge-Kutta step
            scheduler.set_timesteps(steps)
            found = read_scheduler(tmp_path / "scheduler_config.json", steps, "why")
            assert found.steps == len(scheduler.timesteps)
            assert found.why_steps == (
                "why" if found.steps == steps else f"why, {steps}: {found.steps} passes of the network by {name}"
            )
