"""What `minibench memory` shows: what is in memory at the peak, the peaks of the stages, and what fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from minimodels.sim import tables, units, views
from minimodels.sim.capacity import Largest
from minimodels.sim.cells import table_of
from minimodels.sim.profile import Profile


def report(profile: Profile, limits: Sequence[Largest]) -> Lines:
    """Tables for the terminal."""
    memory, device = profile.memory, profile.device
    lines = [
        f"{profile.config['name']}: memory SIMULATED on {device.title}",
        f"It {tables.fit(profile)}.",
    ]
    peak = "Bytes by liveness of the walked run, as torch's allocator rounds them."
    if memory.peak_op is not None:
        op = profile.ops[memory.peak_op]
        shapes = ", ".join("x".join(map(str, shape)) for shape in op.shapes[:3])
        peak = f"Peak during {op.name} ({shapes}) in {views.place(op)}. {peak}"
    parts = [Text("\n".join(lines)), _contents(profile), _stages(profile), Text(peak), _limits(profile, limits)]
    return Lines(*[piece for part in parts for piece in (part, Text())][:-1])


def contents(profile: Profile) -> dict[str, int]:
    """Bytes in memory at the peak, by what they are for."""
    memory = profile.memory
    rest = memory.peak - memory.weights - memory.kv_cache
    return {"weights": memory.weights, "KV cache": memory.kv_cache, "activations and workspace": max(0, rest)}


def _contents(profile: Profile) -> Table:
    table = table_of("At the peak", "Bytes", "Share")
    for name, size in contents(profile).items():
        table.add_row(
            name, units.size(size), units.percent(size / profile.memory.peak if profile.memory.peak else None)
        )
    table.add_section()
    table.add_row("all", units.size(profile.memory.peak), units.percent(1.0))
    return table


def _stages(profile: Profile) -> Table:
    table = table_of("Stage", "Peak")
    for stage, points in views.timelines(profile):
        table.add_row(stage, units.size(max(size for _, size in points)))
    return table


def _limits(profile: Profile, limits: Sequence[Largest]) -> Table:
    table = table_of("Largest that fits", "Value", "Needs", "Next", "Needs")
    for limit in limits:
        given = profile.run.batch if limit.axis == "batch" else getattr(profile.run, limit.axis, None)
        name = limit.axis.replace("_", " ") + ("" if given is None else f" (given: {given:,})")
        if limit.value is None:
            table.add_row(name, "none", "-", units.count(limit.beyond), units.size(limit.beyond_needs))
            continue
        beyond = (
            ("all it allows fit", "-")
            if limit.beyond is None
            else (units.count(limit.beyond), units.size(limit.beyond_needs))
        )
        table.add_row(name, units.count(limit.value), units.size(limit.needs), *beyond)
    return table


def as_json(profile: Profile, limits: Sequence[Largest]) -> dict[str, Any]:
    """The same as a record; bytes."""
    names = ("axis", "value", "needs", "beyond", "beyond_needs")
    return {
        "model": profile.config["name"],
        "device": profile.device.name,
        "memory": profile.memory.model_dump(mode="json", exclude={"timeline"}),
        "at_peak": contents(profile),
        "stages": {stage: max(size for _, size in points) for stage, points in views.timelines(profile)},
        "largest": [{name: getattr(limit, name) for name in names} for limit in limits],
    }
