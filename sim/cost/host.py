"""Host and device as a queue: the host issues one operator after another, a kernel starts when it has been issued
and the kernel before it has ended. What the device waits is the gap of that call.

- `eager`: the host spends time on every operator and every launch;
- `compiled`: launches only;
- `graph`: no host time; queued kernels still lie `kernel_gap` apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from minimodels.sim.call import Call, stretches
from minimodels.sim.cost.base import Cost
from minimodels.sim.device import Constants

Mode = Literal["eager", "graph", "compiled"]


def host_seconds(costs: Sequence[Cost], constants: Constants, mode: Mode) -> list[float]:
    """What the host spends on each call."""
    per_op = constants.host_per_op if mode == "eager" else 0.0
    per_launch = 0.0 if mode == "graph" else constants.host_per_launch
    return [per_op + cost.launches * per_launch if cost.launches else 0.0 for cost in costs]


def gaps(calls: Sequence[Call], costs: Sequence[Cost], host: Sequence[float], kernel_gap: float) -> list[float]:
    """The device's waiting time before each call.

    `ahead` is how long the device is still busy with what the host has issued. In a loop that costs the host
    more time than the device it is the same at the start of every iteration; else it grows from one to the next.
    """
    found = [cost.launches * kernel_gap for cost in costs]

    def issue(start: int, stop: int, ahead: float) -> float:
        for i in range(start, stop):
            launches = costs[i].launches
            if launches:
                ahead -= host[i]
                found[i] = max(launches * kernel_gap, -ahead)
                ahead += found[i]
            ahead += costs[i].seconds
        return ahead

    ahead, stage = 0.0, None
    for start, stop in stretches(calls):
        ahead = ahead if calls[start].stage == stage else 0.0
        stage, weight = calls[start].stage, calls[start].weight
        surplus = sum(costs[i].seconds + found[i] - host[i] for i in range(start, stop))
        if weight > 1 and surplus >= 0:
            ahead += weight * surplus
        elif weight > 1:
            ahead = issue(start, stop, issue(start, stop, 0.0))
        else:
            ahead = issue(start, stop, ahead)
    return found
