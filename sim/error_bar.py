"""How far off a predicted time may be.

An error bar is made of how wrong each family of kernels has been on rows kept out of its fit (`Op.error`). Errors
within a category are taken to go the same way, so they add up; those of different categories are not, so their squares
do. Waiting for the host is a category of its own. None of it says anything of what a family never saw: it is no bound,
and where an operator has no formula there is no bar.

The host's seconds are those of lean code. A pipeline that spends `PYTHON` times as many may wait where lean code does
not, so the bar reaches further up than down wherever such a host would decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from minimodels.sim import units
from minimodels.sim.profile import Op
from minimodels.sim.views import op_seconds

# diffusers 0.17 over gpt-fast's eager loop, per operator and launch; see `truth_models`
PYTHON = 2.7
HOST, HOST_ERROR = "host", 0.3  # host constants are assumed but for one: GPUs of one kind sit in hosts of many


class Bar(NamedTuple):
    """By what share of it a time may be shorter and longer."""

    less: float
    more: float

    def __str__(self) -> str:
        less, more = map(units.percent, self)
        return f"± {less}" if less == more else f"-{less} to +{more}"


def error_of(ops: Iterable[Op]) -> Bar | None:
    """How far off the summed seconds may be; None where any operator's is unknown."""
    total, by_category = 0.0, dict[str, float]()
    stages: dict[str, tuple[float, float]] = {}
    for op in ops:
        seconds = op_seconds(op)
        if seconds is None or op.error is None or op.flops is None:
            return None
        waiting = op.weight * (op.gap_seconds or 0.0)
        total += seconds
        by_category[op.category] = by_category.get(op.category, 0.0) + op.error * (seconds - waiting)
        by_category[HOST] = by_category.get(HOST, 0.0) + HOST_ERROR * waiting
        taken, host = stages.get(op.stage, (0.0, 0.0))
        stages[op.stage] = taken + seconds, host + op.weight * (op.host_seconds or 0.0)
    if not total:
        return None
    less = math.hypot(*by_category.values())
    slower = sum(max(0.0, PYTHON * host - taken) for taken, host in stages.values())
    more = math.hypot(*(by_category | {HOST: max(by_category[HOST], slower)}).values())
    return Bar(less / total, more / total)
