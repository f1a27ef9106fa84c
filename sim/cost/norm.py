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
from minimodels.sim.cost.base import FREE, ITEMSIZE, Cost, one_by_one, origin, rate
from minimodels.sim.device import Device

THREADS = 512  # of a block of the reduction
RESIDENT = 4  # blocks of so many threads that a compute unit holds
LATENCY = 435e-9  # seconds of a load and its step of Welford's algorithm: both measurements above


def price(work: Work, dtype: str, device: Device) -> Cost:
    """A norm or a softmax over rows, or a group norm, where `work.blocks` says how many groups there are."""
    if work.blocks is not None:
        return _group_norm(work, dtype, device)
    constants = device.constants
    family = "softmax" if work.kernel == "softmax" else "norm"
    share = constants.softmax_bandwidth if family == "softmax" else constants.norm_bandwidth
    moved = work.bytes_read + work.bytes_written
    copied = min(moved, 2 * work.workspace) if work.launches > 1 else 0  # an input that lies otherwise
    slower = one_by_one(device)
    copying = min(share, constants.memory_bandwidth / slower)
    moving = (slower if work.strided else 1.0) * (moved - copied) / rate(share, device) + copied / rate(copying, device)
    floors = work.launches * constants.memory_floor
    seconds = moving + floors
    if not seconds:  # what a chain of others does on the way
        return FREE
    provenance, error = origin(family, device)
    if floors > moving:
        return Cost(seconds, work.launches, "launch", *origin("floor", device), floors / seconds)
    return Cost(seconds, work.launches, "memory", provenance, error, moved / device.datasheet.bandwidth / seconds)


def _group_norm(work: Work, dtype: str, device: Device) -> Cost:
    assert work.blocks is not None, work
    constants = device.constants
    size = ITEMSIZE[dtype]
    tensor = work.bytes_written / work.launches if work.launches > 1 else work.bytes_written  # a copy comes first
    loads = ceil(tensor / size / work.blocks / THREADS)
    waves = ceil(work.blocks / (RESIDENT * device.datasheet.compute_units))
    reducing = max(waves * loads * LATENCY, tensor / rate(constants.memory_bandwidth, device))
    applied = work.bytes_read + work.bytes_written
    moving = one_by_one(device) * applied / rate(constants.memory_bandwidth, device)
    launches = work.launches + 2
    floors = launches * constants.memory_floor
    seconds = reducing + moving + floors
    provenance, error = origin("norm", device, fitted=False)  # `LATENCY` was set by hand, no table has this kernel
    bound = "waves" if reducing > moving else "memory"
    if floors > max(reducing, moving):
        bound = "launch"
    used = (tensor + work.bytes_read + work.bytes_written) / device.datasheet.bandwidth / seconds
    return Cost(seconds, launches, bound, provenance, error, used, work.blocks, float(waves))
