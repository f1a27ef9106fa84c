"""What every family of kernels shares: the record of a predicted time, rates of a device, a rounded maximum."""

from __future__ import annotations

from typing import NamedTuple

from minimodels.sim.call import L2State
from minimodels.sim.device import Device, Family

# What taking a family's constants from a relative or an assumption adds to its error, as a share of the seconds: a
# little more than the A100's constants did on the H100, and the H100's on the A100, at products and attention.
CARRIED_OVER: dict[Family, float] = {
    "gemm": 0.10, "conv": 0.20, "attention": 0.12, "norm": 0.20, "softmax": 0.20, "elementwise": 0.10, "floor": 0.50,
}  # fmt: skip
DISTANT = 2.0  # times that, from another generation: T4 and V100, whose constants are the A100's, were as far off
# Medians of kernels beside those fitted to (`origin`); of attention that of flash on the A100, in two engines' tables.
LEAST: dict[Family, float] = {"elementwise": 0.10, "norm": 0.13, "attention": 0.046}
CACHED = 2.5  # times the bandwidth of memory, streams from the L2 cache: decoding with 67 MB on an L40S
HALF = frozenset({"float16", "bfloat16"})
# Times as long, where threads load single elements of half precision, and for how many bytes a clock and compute unit
# of memory: vLLM's kernels in Vidur's table of the A100.
ONE_BY_ONE, PER_CLOCK = 1.6, 13.4
OVERLAP = 3.0  # exponent of the rounded maximum; 2.5 to 4 fit the GEMM tables of four GPUs equally well
ITEMSIZE = {"float64": 8.0, "float32": 4.0, "tf32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8": 1.0, "float4": 0.5}


class Cost(NamedTuple):
    """One kernel or chain of kernels on the device, and why it takes so long.

    seconds; launches; what bounds it; where its constants come from; thread blocks and rounds of them (waves), where
    it has tiles; the share of what bounds it that it uses, from 0 to 1; whether its input was taken to lie in the L2
    cache; and how far off it may be, as a share of the seconds.
    """

    seconds: float
    launches: int
    bound: str
    provenance: str
    error: float
    utilisation: float = 0.0
    tiles: int | None = None
    waves: float | None = None
    l2: L2State = "cold"


FREE = Cost(0.0, 0, "launch", "datasheet", 0.0)  # a view


def rounded_max(*times: float) -> float:
    """The largest of some times; more where others come near it, by up to 2^(1/3) for two that are equal."""
    largest = max(times)
    if largest == 0:
        return 0.0
    return largest * sum((time / largest) ** OVERLAP for time in times) ** (1 / OVERLAP)


def rate(share: float, device: Device) -> float:
    """Bytes per second, at a share of the datasheet's bandwidth."""
    return share * device.datasheet.bandwidth


def one_by_one(device: Device) -> float:
    """Times as long as others takes a pass over memory whose threads load single elements: a unit's clocks bound it."""
    sheet = device.datasheet
    return max(1.0, ONE_BY_ONE / PER_CLOCK * sheet.bandwidth / sheet.clock / sheet.compute_units)


def streamed(moved: float, share: float, device: Device, l2: L2State) -> float:
    """The bytes that take as long to read from memory: those in the L2 cache come `CACHED` times as fast."""
    return moved * (1 - (1 - 1 / CACHED) * kept(moved, share, device, l2))


def kept(moved: float, share: float, device: Device, l2: L2State) -> float:
    """The part of some bytes still in the L2 cache, of which they have a share: all, or ever less from a size on."""
    if l2 == "cold" or not moved:
        return 0.0
    return min(1.0, max(0.0, 2 - moved / (share * device.datasheet.l2_bytes)))


def origin(family: Family, device: Device, fitted: bool = True) -> tuple[str, float]:
    """Where a family's constants come from on this device, and the error that its predictions have had.

    fitted: whether the table they were fitted to, if any, had such kernels. A fit to one kernel of a family (GELU,
    LayerNorm) has a smaller error than the family's others, such as sums and RMSNorm, have had.
    """
    constants = device.constants
    if fitted and family in constants.calibrated:
        return constants.provenance, max(constants.errors.get(family, CARRIED_OVER[family]), LEAST.get(family, 0.0))
    far = DISTANT if device.distant() else 1.0
    return "datasheet", constants.errors.get(family, 0.0) + far * CARRIED_OVER[family]
