"""How far off a predicted time may be.

An error bar is made of how wrong each family of kernels has been on rows kept out of its fit (`Op.error`). Errors
within a category are taken to go the same way, so they add up; those of different categories are not, so their squares
do. It says nothing of what a family never saw: it is no bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from minimodels.sim.profile import Op
from minimodels.sim.views import op_seconds


def error_of(ops: Iterable[Op]) -> float | None:
    """How far off the summed seconds may be, as a share of them; None where any operator's error is unknown."""
    total, by_category = 0.0, dict[str, float]()
    for op in ops:
        seconds = op_seconds(op)
        if seconds is None or op.error is None:
            return None
        total += seconds
        by_category[op.category] = by_category.get(op.category, 0.0) + op.error * seconds
    return math.hypot(*by_category.values()) / total if total else None
