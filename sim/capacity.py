"""What fits a device's memory: the peak over a range of batches and sizes, and the largest of each that fits.

Only liveness is asked for, so runs are walked and not priced. Peak memory grows with every axis, so the largest
value that fits is found by doubling and halving; values between two that the architecture allows are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from minimodels.kinds import Config
from minimodels.options import parse
from minimodels.run import Run
from minimodels.sim import device as devices
from minimodels.sim.job import of_config
from minimodels.sim.memory import RESERVE, account
from minimodels.sim.profile import Profile
from minimodels.sim.progress import Advance, silent
from minimodels.sim.simulate import run_walk
from minimodels.sim.trace import Walk

AXES = ("batch", "image_size", "frames", "gen_len")
UNITS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # by how much a size may grow at least, as the architecture allows
MOST = {"batch": 1 << 16, "image_size": 1 << 14, "frames": 1 << 12, "gen_len": 1 << 17}
Configure = Callable[[Mapping[str, int]], Config]
"""{"image_size": 1024, ...} -> the config with these lengths; ValueError where it has no such form."""


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest value of one axis that fits, all else as given; bytes needed there, and one step beyond.

    value: None where not even the smallest fits; beyond: None where the architecture or `MOST` ends first, not the
    memory.
    """

    axis: str
    value: int | None
    needs: int | None
    beyond: int | None
    beyond_needs: int | None


def needed(config: Config, run: Run) -> int:
    """Peak bytes of one inference, weights included, the runtime's reserve left out."""
    target = devices.load(run.device).arch
    job = of_config(config, run)
    prepared = job.prepare("meta")
    walk = Walk(prepared.parts)
    run_walk(walk, prepared, run, target, job.name)
    return max(account(walk, run)[0].per_call, default=0)


def limits(configure: Configure, profile: Profile, progress: Advance = silent) -> list[Largest]:
    """The largest value of every axis that the architecture of a simulated profile has, all else as it ran."""
    known = {key: value for key, value in profile.run.model_dump().items() if key in Run.model_fields}
    found = [largest(configure, parse(Run, known), axis, progress) for axis in AXES]
    return [limit for limit in found if limit is not None]


def largest(configure: Configure, run: Run, axis: str, progress: Advance = silent) -> Largest | None:
    """The largest value of `axis` that fits `run.device`; None where the architecture has no such axis."""
    room = devices.load(run.device).datasheet.memory_bytes - RESERVE
    known: dict[int, int] = {}

    def fits(value: int) -> bool:
        if value not in known:
            progress(f"{axis.replace('_', ' ')} {value:,}", len(known), 0)
            lengths, batch = ({}, value) if axis == "batch" else ({axis: value}, run.batch)
            known[value] = needed(configure(lengths), run.model_copy(update={"batch": batch}))
        return known[value] <= room

    step = 1 if axis == "batch" else _unit(configure, axis)
    if step is None:
        return None
    start = run.batch if axis == "batch" else getattr(configure({}).run, axis)
    low = start if fits(start) else _downwards(start, step, fits)
    if low is None:
        return Largest(axis, None, None, start, known[start])
    if low == start:
        _upwards(low, step, MOST[axis], fits, _allows(configure, axis))
    low = max(value for value, need in known.items() if need <= room)
    high = min((value for value, need in known.items() if need > room), default=None)
    while high is not None and high - low > step:
        middle = low + (high - low) // step // 2 * step
        low, high = (middle, high) if fits(middle) else (low, middle)
    return Largest(axis, low, known[low], high, known[high] if high is not None else None)


def _unit(configure: Configure, axis: str) -> int | None:
    """The smallest step of an axis that the architecture allows from where it stands."""
    start = getattr(configure({}).run, axis, None)
    allows = _allows(configure, axis)
    if start is None:
        return None
    return next((unit for unit in UNITS if start % unit == 0 and allows(start + unit)), None)


def _allows(configure: Configure, axis: str) -> Callable[[int], bool]:
    def allows(value: int) -> bool:
        try:
            configure({} if axis == "batch" else {axis: value})
        except ValueError:
            return False
        return True

    return allows


def _upwards(low: int, step: int, most: int, fits: Callable[[int], bool], allows: Callable[[int], bool]) -> None:
    """Try ever larger values until one does not fit, or the last that is allowed does."""
    reach = step
    while low + reach <= most and allows(low + reach):
        if not fits(low + reach):
            return
        reach *= 2
    while reach > step:  # close in on the last value that is allowed
        reach //= 2
        value = low + reach
        if value <= most and allows(value):
            if not fits(value):
                return
            low = value


def _downwards(high: int, step: int, fits: Callable[[int], bool]) -> int | None:
    """A smaller value that fits."""
    value = high
    while value > step:
        value = max(step, value // 2 // step * step)
        if fits(value):
            return value
    return None
