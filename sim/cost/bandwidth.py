"""Elementwise operators, copies and gathers: a floor, and bytes at a share of the bandwidth.

The floor is what bounds small transfers: latency x bandwidth bytes in flight reach half the rate. Where layouts differ
or an operand is broadcast, torch's kernels go element by element.
"""

from __future__ import annotations

from minimodels.kernels.work import Work
from minimodels.sim.cost.base import FREE, ONE_BY_ONE, Cost, origin, rate
from minimodels.sim.device import Device


def price(work: Work, device: Device) -> Cost:
    """Kernels that read and write memory and compute next to nothing."""
    constants = device.constants
    moved = work.bytes_read + work.bytes_written
    slower = ONE_BY_ONE if work.strided else 1.0
    moving, floors = slower * moved / rate(constants.memory_bandwidth, device), work.launches * constants.memory_floor
    seconds = moving + floors
    if not seconds:  # what a chain of others does on the way
        return FREE
    if floors > moving:
        return Cost(seconds, work.launches, "launch", *origin("floor", device), floors / seconds)
    used = moved / device.datasheet.bandwidth / seconds
    return Cost(seconds, work.launches, "memory", *origin("elementwise", device), used)
