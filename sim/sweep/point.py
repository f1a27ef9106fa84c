"""What one point of a sweep costs: its config is built, walked and priced for every device asked for."""

from __future__ import annotations

from collections.abc import Sequence

from minimodels.run import make_run
from minimodels.sim import inventory
from minimodels.sim.simulate import Walks, simulate
from minimodels.sim.sweep.grid import Axes, Base
from minimodels.sim.sweep.ledger import Point
from minimodels.sim.sweep.metrics import of_profile

IMPOSSIBLE = (ValueError, RuntimeError, AssertionError)  # of the loader; of torch and ours, where shapes do not meet


def evaluate(base: Base, axes: Axes, devices: Sequence[str]) -> list[Point]:
    """The points of one variant on some devices; what cannot be is a failed point that says why.

    Devices of one architecture share a walk where no loop of it asks for their times.
    """
    walks: Walks = {}
    return [_on(base, axes, device, walks) for device in devices]


def _on(base: Base, axes: Axes, device: str, walks: Walks) -> Point:
    place = {"axes": axes, "device": device, "model": base.name, "base": base.digest()}
    try:
        config, options = base.at(axes)
        profile = simulate(config, make_run(**options, device=device), walks=walks)
        parameters = sum(inventory.counted(config).values())
    except IMPOSSIBLE as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        return Point(**place, status="failed", error=f"{kind}{error}")
    return Point(**place, status="ok", metrics=of_profile(profile, parameters))
