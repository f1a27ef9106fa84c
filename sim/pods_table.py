"""What `minibench pods` shows: the ways to do a step of all requests, and what staggering gains."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from minimodels.sim import units
from minimodels.sim.cells import table_of
from minimodels.sim.pods import BINS, Pods, over_time

LEAST = 0.01  # of the throughput, below which nothing is said to be gained
MODEL = (
    "Kernels of different requests share bandwidth and compute units in proportion to what they ask for, and lose "
    "nothing by it: caches, launches, thread blocks that keep others off and the power limit are left out, so this is "
    "what staggering gains at most."
)


def report(found: Pods) -> Group:
    """A table for the terminal, and the finding in words."""
    profile, step = found.profile, found.step
    head = [
        f"{units.named(profile)}: {found.requests} requests at once, SIMULATED on {profile.device.title}",
        f"A step of {step.stage}, one of {step.steps:,}, takes {units.seconds(step.period)} alone.",
    ]
    tail = [*verdicts(found), _memory(found), MODEL]
    return Group(Text("\n".join(head)), Text(), _ways(found), Text(), Text("\n".join(tail)))


def _ways(found: Pods) -> Table:
    table = table_of("Requests", "Step of all", "Steps/s", "Over serial", "Moved", "Bandwidth short", "Compute short")
    serial = found.ways["one after another"].seconds
    for name, way in found.ways.items():
        course = way.course
        table.add_row(
            name if name != "one batch" else f"one batch of {found.requests * found.profile.run.batch}",
            units.seconds(way.seconds), units.digits(found.requests / way.seconds),
            units.times(serial / way.seconds), units.si(course.mean_moved(), "B/s"),
            *("-" if way.offsets is None else units.percent(course.share(short))
              for short in (course.memory_short, course.compute_short)),
        )  # fmt: skip
    return table


def verdicts(found: Pods) -> list[str]:
    """Whether staggering gains anything, what is due to running at once alone, and how one batch does."""
    ways, step = found.ways, found.step
    serial, aligned, best, batch = (
        ways[name].seconds for name in ("one after another", "aligned", "best offsets", "one batch")
    )
    gain = found.gain
    said = (
        f"Staggered, the requests do {units.percent(gain)} more in the same time than aligned."
        if gain >= LEAST
        else f"Staggering gains nothing ({units.percent(gain)}): aligned requests do as much."
    )
    once = units.percent(serial / aligned - 1)
    more = batch / best - 1
    beside = (
        f"{units.percent(abs(more))} {'more' if more > 0 else 'less'} time than" if abs(more) >= LEAST else "as long as"
    )
    bound = found.requests * step.least()
    apart = ", ".join(f"{offset:.2f}" for offset in ways["best offsets"].offsets or ())
    return [
        said,
        f"Running at once alone gives {once} over one after another: gaps and idle compute units are filled.",
        f"One batch of all requests takes {beside} the best offsets.",
        f"Best offsets: {apart} of a step. None can take less than {units.seconds(bound)}: one resource is full then.",
    ]  # fmt: skip


def _memory(found: Pods) -> str:
    device = found.profile.device
    if device.memory_bytes is None:
        return f"They need {units.size(found.memory)}, weights shared."
    fits = found.memory + found.profile.memory.reserve <= device.memory_bytes
    room = units.size(device.memory_bytes)
    return f"They need {units.size(found.memory)}, weights shared, and {'' if fits else 'do not '}fit {room}."


def as_json(found: Pods) -> dict[str, Any]:
    """The same for programs: seconds, bytes per second, offsets in seconds and in shares of a step."""
    step, profile = found.step, found.profile
    ways = {}
    for name, way in found.ways.items():
        course = way.course
        ways[name] = {
            "seconds": way.seconds,
            "steps_per_second": found.requests / way.seconds,
            "bytes_per_second": course.mean_moved(),
        }
        if way.offsets is not None:
            ways[name] |= {
                "offsets": way.offsets,
                "offset_seconds": [offset * step.period for offset in way.offsets],
                "short_of_bandwidth": course.share(course.memory_short),
                "short_of_compute": course.share(course.compute_short),
                "timeline": {
                    "seconds": way.seconds / BINS,
                    **dict(
                        zip(("asked", "moved"), (part.tolist() for part in over_time(course, way.seconds)), strict=True)
                    ),
                },
            }
    return {
        "name": profile.config["name"], "device": profile.device.name, "source": "simulated",
        "requests": found.requests, "stage": step.stage, "steps": step.steps, "step_seconds": step.period,
        "least_seconds": found.requests * step.least(), "gain": found.gain, "gained": found.gain >= LEAST,
        "memory_bytes": found.memory, "ways": ways,
    }  # fmt: skip
