"""Elementwise operators, copies and gathers: a floor, and bytes at a share of the bandwidth.

The floor is what bounds small transfers: latency x bandwidth bytes in flight reach half the rate. Where layouts differ
or an operand is broadcast, torch's kernels go element by element.
"""

from __future__ import annotations

from minimodels.kernels.work import Work
from minimodels.sim.call import L2State
from minimodels.sim.cost.base import FREE, Cost, one_by_one, origin, rate, state, streamed, turning
from minimodels.sim.device import Device


def price(work: Work, device: Device, l2: L2State = "cold", resident: int = 0) -> Cost:
    """Kernels that read and write memory and compute next to nothing."""
    constants = device.constants
    whole = work.bytes_read + work.bytes_written
    moved = streamed(work.bytes_read, work.bytes_written, device, l2, resident)
    said = state(moved, whole)
    taken = one_by_one(whole, device, moved) if work.strided else moved
    moving = max(taken / rate(constants.memory_bandwidth, device), turning(work, device))
    floors = work.launches * constants.memory_floor
    seconds = moving + floors
    if not seconds:  # what a chain of others does on the way
        return FREE
    if floors > moving:
        return Cost(seconds, work.launches, "launch", *origin("floor", device), floors / seconds, l2=said)
    used = moved / device.datasheet.bandwidth / seconds
    return Cost(seconds, work.launches, "memory", *origin("elementwise", device), used, l2=said)
