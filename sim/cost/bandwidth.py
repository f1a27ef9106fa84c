"""Elementwise operators, copies and gathers: a floor, and bytes at a share of the bandwidth.

The floor is what bounds small transfers: latency x bandwidth bytes in flight reach half the rate. Where layouts differ
or an operand is broadcast, torch's kernels go element by element.
"""

from __future__ import annotations

from minimodels.kernels.work import Work
from minimodels.sim.call import L2State
from minimodels.sim.cost.base import FREE, Cost, kept, one_by_one, origin, rate, streamed
from minimodels.sim.device import Device

REPLAYED = 0.8  # of the L2 cache is left of a kernel's bytes when it runs again on the same data


def price(work: Work, device: Device, l2: L2State = "cold") -> Cost:
    """Kernels that read and write memory and compute next to nothing."""
    constants = device.constants
    moved = work.bytes_read + work.bytes_written
    state: L2State = "warm" if kept(moved, REPLAYED, device, l2) else "cold"
    moved = streamed(moved, REPLAYED, device, l2)
    slower = one_by_one(device) if work.strided else 1.0
    moving, floors = slower * moved / rate(constants.memory_bandwidth, device), work.launches * constants.memory_floor
    seconds = moving + floors
    if not seconds:  # what a chain of others does on the way
        return FREE
    if floors > moving:
        return Cost(seconds, work.launches, "launch", *origin("floor", device), floors / seconds, l2=state)
    used = moved / device.datasheet.bandwidth / seconds
    return Cost(seconds, work.launches, "memory", *origin("elementwise", device), used, l2=state)
