"""What every family of kernels shares: the record of a predicted time, rates of a device, a rounded maximum."""

from __future__ import annotations

from typing import NamedTuple

from minimodels.kernels.work import Work
from minimodels.sim.call import L2State
from minimodels.sim.device import Device, Family

# What taking a family's constants from a relative or an assumption adds to its error, as a share of the seconds: a
# little more than the A100's constants did on the H100, and the H100's on the A100, at products and attention.
CARRIED_OVER: dict[Family, float] = {
    "gemm": 0.10, "conv": 0.20, "attention": 0.12, "norm": 0.20, "softmax": 0.20, "elementwise": 0.10, "floor": 0.50,
}  # fmt: skip
DISTANT = 2.0  # times that, from another generation: T4 and V100 were as far off with constants of the A100 alone
# Medians of kernels beside those fitted to (`origin`); of attention that of flash on the A100, in two engines' tables.
LEAST: dict[Family, float] = {"elementwise": 0.10, "norm": 0.13, "attention": 0.041}
REPLAYED = 0.8  # of the L2 cache is left of what kernels moved, when one uses it again
# Times as long, where threads load single elements of half precision, and for how many bytes a clock and compute unit
# of memory: vLLM's kernels in Vidur's table of the A100.
ONE_BY_ONE, PER_CLOCK = 1.6, 13.4
# Elements per clock of a compute unit, where a copy reads across the lines in which it writes: 268 million of one byte
# in 1.98 ms on an H100, for which a compiler's tiled copy takes 0.22 ms (pytorch/pytorch issue 113560).
TURNED = 0.52
NOTED = 0.1  # of what a kernel moves, found in the L2 cache: from there on it is said
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


def one_by_one(moved: float, device: Device, missed: float | None = None) -> float:
    """The bytes that take as long, where threads load single elements: a unit's clocks bound it, or what missed."""
    sheet = device.datasheet
    slower = ONE_BY_ONE / PER_CLOCK * sheet.bandwidth / sheet.clock / sheet.compute_units
    return max(moved if missed is None else missed, slower * moved)


def turning(work: Work, device: Device) -> float:
    """The least seconds of copies that read across the lines in which they write."""
    return work.turned / (TURNED * device.datasheet.clock * device.datasheet.compute_units)


def streamed(read: float, written: float, device: Device, l2: L2State, resident: float = 0) -> float:
    """The bytes that take as long to read from memory: those in the L2 cache come at the rate that products load them.

    There are as many as fit of what is read, if that was just written (fed), of all, if a kernel runs again on the same
    data (warm), or so many as are resident.
    """
    moved, part = read + written, within(read + written, REPLAYED * device.datasheet.l2_bytes)
    found = {"warm": moved * part, "fed": read * part, "cold": min(moved, resident)}[l2]
    sheet = device.datasheet
    faster = device.constants.l2_rate * sheet.clock * sheet.compute_units / sheet.bandwidth
    return moved - (1 - 1 / max(1.0, faster)) * found


def state(missed: float, moved: float) -> L2State:
    """What is said of the L2 cache: warm, if a tenth and more of what a kernel moves was found there."""
    return "warm" if missed < (1 - NOTED) * moved else "cold"


def within(moved: float, held: float) -> float:
    """The part still in a cache that holds so many bytes, after so many were moved: all, or ever less from there on."""
    return min(1.0, max(0.0, 2 - moved / held)) if moved else 0.0


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
