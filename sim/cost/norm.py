"""Norms and softmax: reductions over rows, and torch's group norm, which launches no more blocks than groups.

A row norm or a softmax is a pass over memory at a share of the bandwidth. torch's group norm is three kernels: means
and deviations, a block of 512 threads per sample and group; the factors of every channel; a pass that applies them, an
element at a time.
A block takes an element per thread and load latency, however little else the device does: with 32 groups of a
128-channel video of 20 frames of 256 x 256 that is 2.3 GB/s per block and 4.7 ms on an H200 (sglang pull 23938), and
2.4 GB/s on an H100 (pull 26045). Source: torch/native/cuda/group_norm_kernel.cu.
"""

from __future__ import annotations

from math import ceil

from minimodels.kernels.work import Work
from minimodels.sim.call import L2State
from minimodels.sim.cost.base import (
    FREE,
    ITEMSIZE,
    REPLAYED,
    Cost,
    one_by_one,
    origin,
    rate,
    state,
    streamed,
    turning,
    within,
)
from minimodels.sim.device import Device

THREADS = 512  # of a block of the reduction
RESIDENT = 4  # blocks of so many threads that a compute unit holds
LATENCY = 435e-9  # seconds of a load and its step of Welford's algorithm: both measurements above


def price(work: Work, dtype: str, device: Device, l2: L2State = "cold", resident: int = 0) -> Cost:
    """A norm or a softmax over rows, or a group norm, where `work.blocks` says how many groups there are."""
    if work.blocks is not None:
        return _group_norm(work, dtype, device, resident)
    constants = device.constants
    family = "softmax" if work.kernel == "softmax" else "norm"
    share = constants.softmax_bandwidth if family == "softmax" else constants.norm_bandwidth
    moved = work.bytes_read + work.bytes_written
    copied = min(moved, 2 * work.workspace) if work.launches > 1 else 0  # an input that lies otherwise
    own = moved - copied
    streaming = streamed(work.bytes_read - copied / 2, work.bytes_written - copied / 2, device, l2, resident)
    moving = one_by_one(own, device) / rate(share, device) if work.strided else own / rate(share, device)
    if not work.strided:  # what is found saves its time from memory, whatever else bounds the kernel
        moving -= (own - streaming) / rate(max(share, constants.memory_bandwidth), device)
    copying = max(one_by_one(copied, device) / constants.memory_bandwidth, copied / share) / device.datasheet.bandwidth
    moving += max(copying, turning(work, device))
    floors = work.launches * constants.memory_floor
    seconds = moving + floors
    if not seconds:  # what a chain of others does on the way
        return FREE
    provenance, error = origin(family, device)
    said = state(streaming, own)
    if floors > moving:
        return Cost(seconds, work.launches, "launch", *origin("floor", device), floors / seconds, l2=said)
    used = min(1.0, moved / device.datasheet.bandwidth / seconds)
    return Cost(seconds, work.launches, "memory", provenance, error, used, l2=said)


def _group_norm(work: Work, dtype: str, device: Device, resident: int) -> Cost:
    assert work.blocks is not None, work
    constants = device.constants
    size = ITEMSIZE[dtype]
    tensor = work.bytes_written / work.launches if work.launches > 1 else work.bytes_written  # a copy comes first
    loads = ceil(tensor / size / work.blocks / THREADS)
    waves = ceil(work.blocks / (RESIDENT * device.datasheet.compute_units))
    held = tensor * within(tensor, REPLAYED * device.datasheet.l2_bytes)  # of what the kernel before has moved
    missed = streamed(tensor, 0, device, "cold", resident if work.launches == 1 else held)
    reducing = max(waves * loads * LATENCY, missed / rate(constants.memory_bandwidth, device))
    applied = work.bytes_read + work.bytes_written
    again = streamed(applied, 0, device, "cold", held)
    moving = one_by_one(applied, device, again) / rate(constants.memory_bandwidth, device)
    if work.turned:  # of the copy that comes first
        copied = one_by_one(2 * tensor, device) / rate(constants.memory_bandwidth, device)
        moving += max(0.0, turning(work, device) - copied)
    launches = work.launches + 2
    floors = launches * constants.memory_floor
    seconds = reducing + moving + floors
    provenance, error = origin("norm", device, fitted=False)  # `LATENCY` was set by hand, no table has this kernel
    bound = "waves" if reducing > moving else "memory"
    if floors > max(reducing, moving):
        bound = "launch"
    used = (tensor + work.bytes_read + work.bytes_written) / device.datasheet.bandwidth / seconds
    return Cost(
        seconds, launches, bound, provenance, error, min(1.0, used), work.blocks, float(waves), state(again, applied)
    )
