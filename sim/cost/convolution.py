"""Convolutions as implicit matrix products: pixels x channels x taps, whatever the number of dimensions.

The tiles are large, and have an efficiency of their own. Beside that

- input channels are padded to what a load of the tensor cores takes (3 to 8 in half precision);
- tensor cores want channels beside each other: of channels-first tensors cuDNN reorders input and
  weight first, in kernels of their own; the product's kernel (nhwckrsc_nchw) writes channels-first;
- torch adds a bias in a kernel of its own, which a compiler fuses with what follows;
- float32 without tensor cores, of 3x3 windows in two dimensions and stride 1, may use Winograd's algorithm, with 2.25
  times fewer products.
  Source: Lavin and Gray, arXiv 1509.09308, F(2x2, 3x3); kernel names in NeuSight's convolution table.
"""

from __future__ import annotations

from math import ceil

from minimodels.kernels.work import Work
from minimodels.sim.call import L2State
from minimodels.sim.cost.base import ITEMSIZE, REPLAYED, Cost, one_by_one, rate, streamed, turning, within
from minimodels.sim.cost.gemm import Menu, product
from minimodels.sim.device import Device

TILES = ((128, 64), (128, 128), (256, 64), (256, 128), (128, 256))  # DeepBench's small images leave no room for smaller
FORWARD: Menu = (TILES, (1, 2, 4, 8, 16))
DATA: Menu = (TILES, (1,))  # backward to the data is not split: 7 x 7 pixels take as long for 8 images as for 16
LOAD = 16  # bytes that a thread loads at once: input channels come in multiples of it
BACKWARD = 0.75  # of the forward efficiency; DeepBench on the V100, rows that are fitted to
WINOGRAD = 2.25  # products of a 3x3 convolution over those of F(2x2, 3x3)
WINOGRAD_TAPS = 9


def price(work: Work, dtype: str, device: Device, l2: L2State = "cold", resident: int = 0) -> Cost:
    """A convolution (groups, pixels, channels, taps), with the copies and the bias that come with it."""
    assert work.gemm is not None, work
    constants, conv = device.constants, work.conv
    groups, pixels, channels, taps = work.gemm
    moved = work.bytes_read + work.bytes_written
    copied = min(moved, 2 * work.workspace) if work.launches > 1 else 0
    tensor_cores = dtype not in ("float32", "float64")
    window = taps // conv.channels if conv else 1
    if conv and tensor_cores:
        step = max(1, int(LOAD / ITEMSIZE[dtype]))
        taps = window * step * ceil(conv.channels / step)
    efficiency = constants.conv_efficiency * (BACKWARD if conv and conv.backward else 1)
    menu = DATA if conv and conv.backward else FORWARD
    own = constants.conv_floor, efficiency, constants.conv_bandwidth
    shape = groups, pixels, channels, taps
    cost = product(shape, moved - copied, dtype, device, own, l2, "conv", menu, resident)
    if conv and not tensor_cores and not conv.direct and window == WINOGRAD_TAPS:
        reduced = *shape[:3], ceil(taps / WINOGRAD)
        cost = min(cost, product(reduced, moved - copied, dtype, device, own, l2, "conv", menu, resident))
    passes = [copied // (work.launches - 1)] * (work.launches - 1) if work.launches > 1 else []
    if conv and tensor_cores and not conv.channels_last:
        passes += [2 * conv.input, 2 * conv.weight]
    if conv and conv.bias:
        held = conv.output * within(conv.output, REPLAYED * device.datasheet.l2_bytes)
        missed = streamed(conv.output, conv.output, device, "cold", held)
        passes.append(round(one_by_one(2 * conv.output, device, missed)))
    slower = turning(work, device) - copied / rate(constants.memory_bandwidth, device)
    return _with_passes(cost, passes, max(0.0, slower), device)


def _with_passes(cost: Cost, passes: list[int], slower: float, device: Device) -> Cost:
    """The kernel, and passes over memory of so many bytes before and after it, so many seconds slower than these."""
    if not passes:
        return cost
    constants = device.constants
    floors = len(passes) * constants.memory_floor
    moving = sum(passes) / rate(constants.memory_bandwidth, device) + slower
    bound = cost.bound
    if floors + moving > cost.seconds:
        bound = "launch" if floors > moving else "memory"
    seconds = cost.seconds + floors + moving
    used = cost.utilisation * cost.seconds / seconds
    return cost._replace(seconds=seconds, launches=cost.launches + len(passes), bound=bound, utilisation=used)
