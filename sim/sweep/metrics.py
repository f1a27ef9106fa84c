"""What a sweep keeps of a point: a few totals of its profile, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from minimodels.sim import units

if TYPE_CHECKING:
    from minimodels.sim.profile import Profile

Number = int | float | None


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is called on an axis and written; `more`: more of it is better. unit: none for a plain number."""

    title: str
    unit: str
    write: Callable[[Any], str]
    more: bool = False


TOTALS = {
    "time": Metric("time", "s", units.seconds),
    "device_time": Metric("time of kernels, without gaps", "s", units.seconds),
    "flops": Metric("FLOPs", "FLOP", units.flops),
    "bytes": Metric("bytes read and written", "B", units.size),
    "peak_memory": Metric("peak memory", "B", units.size),
    "parameters": Metric("parameters", "", units.params, more=True),
}
READINGS = ("core", "module")  # of categories: time shares are called core.attention, module.attention, ...


def metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
        ValueError: there is no such metric.
    """
    if name in TOTALS:
        return TOTALS[name]
    reading, _, category = name.partition(".")
    if reading in READINGS and category.capitalize() in units.COLOURS:
        return Metric(f"share of {category.capitalize()} in the time ({reading})", "1", units.percent)
    shares = f"core.CATEGORY and module.CATEGORY with {', '.join(units.COLOURS).lower()}"
    raise ValueError(f"unknown metric {name!r}; allowed: {', '.join(TOTALS)}, {shares}")


def of_profile(profile: Profile, parameters: int) -> dict[str, Number | bool]:
    """The metrics of a profile: SI units, shares of the time as fractions; unknown is null.

    `fits` says whether the peak and the runtime's reserve fit the device's memory.
    """
    from minimodels.sim import views

    whole, kernels = views.totals(profile.ops), [op.device_seconds for op in profile.ops]
    found: dict[str, Number | bool] = {
        "time": views.elapsed(profile),
        "device_time": None if None in kernels else sum(op.weight * (op.device_seconds or 0.0) for op in profile.ops),
        "flops": _plain(whole.flops),
        "bytes": _plain(whole.bytes),
        "peak_memory": profile.memory.peak,
        "parameters": parameters,
        "fits": profile.memory.fits,
    }
    for reading in views.READINGS:
        for name, part in views.by_category(profile, reading).items():
            found[f"{reading}.{name.lower()}"] = views.share(part, whole)
    return found


def _plain(value: int | Fraction | None) -> Number:
    """An exact number as JSON can hold it."""
    return float(value) if isinstance(value, Fraction) else value
