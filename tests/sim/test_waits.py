"""What belongs to how a table was timed, not to a GPU, is fitted like a GPU's constants: to rows that are not reported.

`WAITS` are two numbers a family: seconds that the host adds, and seconds that a call takes at least. `LOAD` are the
clocks of a load that nothing hides. All three come from the A100's rows, with the constants of its device file as they
are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from minimodels.sim import device as devices
from minimodels.sim.calibrate import measured
from minimodels.sim.fit import Vector, minimise
from minimodels.sim.split import held_out
from minimodels.sim.truth_kernels import LOAD, WAITS, Kernel
from minimodels.sim.validate import Row, fittable, parse, seconds_of, shipped

A100 = "a100-80gb"


@pytest.fixture(scope="module")
def rows() -> list[tuple[Row, Kernel]]:
    """The A100's rows that constants are fitted to."""
    found = fittable(parse(shipped(), "shipped table"))
    return [(row, one) for row, one, name in found if name == A100 and not held_out(one.family, one.key, name)]


class Loss:
    """The mean of |log(predicted / measured)| over rows, as a function of constants in log space.

    seconds: the predictions, from the constants and the seconds on the device.
    """

    def __init__(self, members: list[tuple[Row, Kernel]], seconds: Callable[[Vector, Vector], Vector]) -> None:
        bare = [replace(one, wait=0.0, least=0.0, loads=0.0) for _, one in members]
        self.bare = np.array(seconds_of(bare, devices.load(A100)))
        self.truth = np.array([measured(row, one) for row, one in members])
        self.seconds = seconds

    def __call__(self, point: Vector) -> float:
        return float(np.mean(np.abs(np.log(self.seconds(np.exp(point), self.bare) / self.truth))))

    def best(self, *starts: list[float]) -> float:
        """The smallest that is found."""
        return min(self(minimise(self, np.log(start), 0.25, 200)) for start in starts)


# A constant is written with three digits, which moves a prediction by up to half a per cent.
ROUNDING = 1e-3


@pytest.mark.parametrize("family", WAITS)
def test_the_waits_of_a_host_are_what_a_fit_to_rows_that_are_not_reported_gives(
    rows: list[tuple[Row, Kernel]], family: str
) -> None:
    members = [(row, one) for row, one in rows if one.family == family]
    loss = Loss(members, lambda x, bare: np.maximum(x[1], x[0] + bare))
    shipped_loss = loss(np.log(np.maximum(WAITS[family], 1e-12)))
    assert shipped_loss <= loss.best([1e-5, 1.5e-5], [4e-5, 5e-5]) + ROUNDING


def test_the_time_of_a_load_is_what_a_fit_to_rows_that_are_not_reported_gives(rows: list[tuple[Row, Kernel]]) -> None:
    members = [(row, one) for row, one in rows if one.loads]
    seconds = np.array([one.loads for _, one in members]) / devices.load(A100).datasheet.clock
    loss = Loss(members, lambda x, bare: np.maximum(x[0] * seconds, bare))
    assert loss(np.log([LOAD])) <= loss.best([400.0], [900.0]) + ROUNDING
