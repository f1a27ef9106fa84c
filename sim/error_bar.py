"""How far off a predicted time may be.

An error bar is made of how wrong each family of kernels has been on rows kept out of its fit (`Op.error`). Errors
within a category are taken to go the same way, so they add up; those of different categories are not, so their squares
do. Waiting for the host is a category of its own. None of it says anything of what a family never saw: it is no bound,
and where an operator has no formula there is no bar.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from minimodels.sim.profile import Op
from minimodels.sim.views import op_seconds

HOST, HOST_ERROR = "host", 0.3  # host constants are assumed but for one: GPUs of one kind sit in hosts of many


def error_of(ops: Iterable[Op]) -> float | None:
    """How far off the summed seconds may be, as a share of them; None where any operator's is unknown."""
    total, by_category = 0.0, dict[str, float]()
    for op in ops:
        seconds = op_seconds(op)
        if seconds is None or op.error is None or op.flops is None:
            return None
        waiting = op.weight * (op.gap_seconds or 0.0)
        total += seconds
        by_category[op.category] = by_category.get(op.category, 0.0) + op.error * (seconds - waiting)
        by_category[HOST] = by_category.get(HOST, 0.0) + HOST_ERROR * waiting
    return math.hypot(*by_category.values()) / total if total else None
