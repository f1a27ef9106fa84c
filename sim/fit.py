"""The smallest value of a function of a few numbers, without derivatives: Nelder and Mead's simplex, in numpy.

Source: Nelder and Mead, The Computer Journal 7 (1965), with the usual coefficients 1, 2, 1/2 and 1/2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def minimise(function: Callable[[Vector], float], start: Vector, size: float, steps: int) -> Vector:
    """The best point found in so many steps from `start`, the first simplex having sides of `size`; deterministic."""
    points = [start, *(start + size * side for side in np.eye(len(start)))]
    values = [function(point) for point in points]
    for _ in range(steps):
        order = np.argsort(values, kind="stable")
        points, values = [points[i] for i in order], [values[i] for i in order]
        centre, worst = np.mean(points[:-1], axis=0), points[-1]
        reflected = 2 * centre - worst
        value = function(reflected)
        if value < values[0]:
            further = 3 * centre - 2 * worst
            better = function(further)
            points[-1], values[-1] = (further, better) if better < value else (reflected, value)
        elif value < values[-2]:
            points[-1], values[-1] = reflected, value
        else:
            nearer = (centre + (worst if value >= values[-1] else reflected)) / 2
            better = function(nearer)
            if better < min(value, values[-1]):
                points[-1], values[-1] = nearer, better
            else:
                points = [points[0], *((points[0] + point) / 2 for point in points[1:])]
                values = [values[0], *(function(point) for point in points[1:])]
    return points[int(np.argmin(values))]
