"""What `minibench profile --explain` prints: the operators that matter and why they take so long, and what-ifs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from minimodels.sim import units
from minimodels.sim.cells import table_of
from minimodels.sim.error_bar import PYTHON, error_of
from minimodels.sim.explain import Reason, WhatIf, reasons
from minimodels.sim.profile import Profile
from minimodels.sim.views import totals

MOST = 12  # operators shown
BOUNDS = {
    "tensor": "the tensor cores compute",
    "exp": "exponentials of the softmax are computed",
    "memory": "memory is read and written",
    "l2": "tiles are loaded from the L2 cache",
    "waves": "too few tiles fill the device",
    "launch": "the kernel starts",
    "host": "the device waits for the host",
    "link": "the links between GPUs",
}
NOTE = (
    "±: the median error of such kernels on measurements kept out of the fit, larger where constants come from another "
    "GPU or a datasheet; no bound. Errors of a category add up, those of different ones as squares. The host is that "
    f"of lean code: the bar of the whole reaches up to a pipeline that spends {PYTHON:g} times as long on the host, as "
    "diffusers did in 2023."
)


def report(profile: Profile, changes: Sequence[WhatIf]) -> Group:
    """The operators that matter, then what would change the time."""
    parts = [
        Text("What takes the time, and why"),
        _operators(profile),
        Text(NOTE),
        Text("What if"),
        _changes(profile, changes),
    ]
    return Group(*(piece for part in parts for piece in (Text(), part)))


def as_json(profile: Profile, changes: Sequence[WhatIf]) -> dict[str, Any]:
    """The same for programs: seconds, shares, and the profile whole."""
    bar = error_of(profile.ops)
    return {
        "error": None if bar is None else bar._asdict(),
        "what_if": [{"change": change.change, "seconds": change.seconds, "note": change.note} for change in changes],
        "profile": profile.model_dump(mode="json", by_alias=True),
    }


def _operators(profile: Profile) -> Table:
    whole = totals(profile.ops).known_seconds
    table = table_of("Share", "Time", "±")
    table.add_column("Operator, and what it spends its time on", overflow="fold")
    for reason in reasons(profile.ops, MOST):
        error = "-" if reason.op.error is None else units.percent(reason.op.error)
        share = units.percent(reason.seconds / whole) if whole else "-"
        table.add_row(share, units.seconds(reason.seconds), error, f"{what(reason)}\n{why(reason)}")
    return table


def what(reason: Reason) -> str:
    """Where it is, its name, the shapes of its first arguments, how often it runs."""
    op = reason.op
    shapes = " ".join("x".join(map(str, shape)) or "1" for shape in op.shapes[:2])
    role = f" {op.attention.role}" if op.attention else ""
    return f"{reason.stage}: {op.name.removeprefix('aten::')}{role} {shapes}, {units.count(reason.executions)} times"


def why(reason: Reason) -> str:
    """What bounds it, how much of that it uses, its tiles, and where the numbers come from."""
    op, parts = reason.op, []
    said = BOUNDS.get(op.bound or "", "why is not recorded")
    used = (
        ""
        if op.utilisation is None or op.bound in ("host", "launch")
        else f", {units.percent(op.utilisation)} of the peak"
    )
    parts.append(said + used)
    if op.tiles is not None and op.waves is not None:
        parts.append(f"{units.count(op.tiles)} tiles in {units.count(op.waves)} waves")
    device, gap = op.device_seconds or 0.0, op.gap_seconds or 0.0
    if gap > 0.05 * (device + gap):
        parts.append(f"{units.percent(gap / (device + gap))} of it waiting")
    if op.l2 == "warm":
        parts.append("input in the L2 cache")
    if op.provenance is not None:
        parts.append(f"{op.provenance} constants")
    return "; ".join(parts)


def _changes(profile: Profile, changes: Sequence[WhatIf]) -> Table:
    """Each change alone, the most rewarding first; those that cannot be told last."""
    now = totals(profile.ops).known_seconds
    table = table_of("Change", "Time", "Times as fast")
    table.add_row("as it is", units.seconds(now), "")
    known = sorted((c for c in changes if c.seconds is not None), key=lambda c: c.seconds or 0.0)
    for change in known:
        assert change.seconds is not None
        table.add_row(change.change, units.seconds(change.seconds), units.times(now / change.seconds))
    for change in changes:
        if change.seconds is None:
            table.add_row(change.change, "-", change.note)
    return table
