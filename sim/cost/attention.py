"""Fused attention kernels: whole tiles of queries, each walking over tiles of keys.

Per tile of queries the kernel multiplies twice on the tensor cores, head dim padded to a size it is built for, and
takes an exponential per score on the special-function units; FlashAttention-2 and 3 and cuDNN at head dims 64 and
128 differ by just the time of the exponentials, so they are not overlapped with the products. A prologue fills the
pipeline of every tile that walks over more than one tile of keys. Blocks run in waves; causal masks make them
uneven, and the longest one stands at the end. Few queries take a whole tile all the same: 16 frames are an eighth of
one. Where there are few blocks (decoding), the keys are split over the device, in tiles of their own, and the parts
added up by a second kernel: of all splits the fastest runs, which FlashAttention's heuristic is to find.

Our kernels (`triton`) that hold all the keys they attend to, 128 at most, walk over nothing: they take the time of
their bytes, or of their products padded to powers of two and their exponentials, whichever is longer.

Every term grows with queries, keys and heads. Kernels differ in tiles (`KERNELS`) and constants (device files).
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from minimodels.kernels.scope import AttentionCall
from minimodels.kernels.work import Work
from minimodels.sim.call import L2State
from minimodels.sim.cost.base import LEAST, Cost, origin, rate, rounded_max, state, streamed
from minimodels.sim.device import AttentionKernel, Device, carried

DECODING = 0.14  # median error of a step with one query on the H100, which no constant was fitted to; 0.09 on others
HELD = 128  # keys that a program of ours holds at once
HIDDEN = 0.5  # of what the last wave leaves idle
COMPARED = 2048  # FLOPs per clock of a unit of the A100, on which kernels were compared (`Tiling.share`)
SINGLE = 0.3  # of a prologue, for a tile that has one tile of keys
SMALL = ("sm86", "sm89")  # 100 KB of shared memory a unit
FEW = 16  # rows of the smallest product of tensor cores
SPLITS = (1, 2, 4, 8, 16, 32, 64)
SPLIT_SECONDS = 3.5e-6  # the kernel that adds up the parts
SUM, SHARED = 8, 128  # bytes that a sum in float32 is read and written with; of shared memory per clock
SHORT = 128  # keys up to which the first FlashAttention takes one step, of so many


class Tiling(NamedTuple):
    """Tiles of a kernel, (largest head dim, queries per block, keys per step) each, and the head dims it is built for.

    small: tiles under a causal mask on compute units with less shared memory than those of sm80 and sm90, if others.
    products: of the two of the forward pass; the backward pass has five and is as long as 2.5 forward passes.
    scores: how often what is beside the products, an exponential's time for each score, comes: the backward pass makes
    the scores again, and their gradients.
    share: of flash's rate, where a device file has no constants for the kernel.
    around: bytes per element of the queries that two more kernels pass over, one before and one after.
    splitting: tiles of the kernel that splits the keys, if there are others; pages: it runs without a split too.
    thin: a kernel of its own for few queries, whose tiles have `FEW` rows.
    warps: so many add up their parts of a row in float32 in shared memory, and several steps over the keys in memory.
    """

    tiles: tuple[tuple[int, int, int], ...]
    head_dims: tuple[int, ...]
    share: float = 1.0
    products: float = 1.0
    scores: float = 1.0
    around: float = 0.0
    small: tuple[tuple[int, int, int], ...] = ()
    splitting: tuple[tuple[int, int, int], ...] = ()
    pages: bool = False
    thin: bool = False
    warps: int = 0

    def tile(self, call: AttentionCall, split: int, device: Device) -> tuple[int, int]:
        """Queries per block and keys per step."""
        tiles = self.tiles
        if self.splitting and (split > 1 or self.pages):
            tiles = self.splitting
        elif self.small and call.causal and call.query_length > 1 and device.arch in SMALL:
            tiles = self.small
        rows, keys = next(((rows, keys) for limit, rows, keys in tiles if call.head_dim <= limit), tiles[-1][1:])
        if self.warps and call.key_length <= SHORT:
            keys = min(keys, SHORT)
        return (FEW if self.thin and _rows(call)[1] <= FEW else rows), keys

    def backward(self, **changes: float) -> Tiling:
        """The kernel of the backward pass that belongs to a forward one."""
        return self._replace(products=2.5, scores=2.0, small=(), splitting=(), **changes)


def _rows(call: AttentionCall) -> tuple[int, int]:
    """Heads that have blocks of their own, and queries of each: of one query, those of the heads that share a key."""
    if call.query_length == 1:
        return call.kv_heads, call.heads // call.kv_heads
    return call.heads, call.query_length


FLASH_DIMS = (32, 64, 96, 128, 192, 256)  # FlashAttention is built for these
FLASH = Tiling(  # flash_fwd_launch_template.h
    ((64, 128, 128), (256, 128, 64)), FLASH_DIMS, small=((64, 128, 128), (128, 64, 64), (192, 128, 64), (256, 64, 64)),
    splitting=((64, 64, 256), (128, 64, 128), (256, 64, 64)),
)  # fmt: skip
FLASH3 = Tiling(((96, 192, 128), (256, 128, 128)), (64, 96, 128, 192, 256))  # hopper/tile_size.h
CUDNN = Tiling(((256, 128, 128),), (64, 128, 192, 256))
CUTLASS = Tiling(((1 << 20, 64, 64),), (64, 128), 0.45)  # longer head dims in steps
FLASH1 = Tiling(  # fmha_fwd_hdim*.cu of flash-attention 1.0.9; outputs stand in memory between its steps over keys
    ((64, 64, 256), (256, 64, 128)), (32, 64, 128), 0.6, warps=4
)
KERNELS = {
    "flash": FLASH,  # FlashAttention-2
    "flash-paged": FLASH._replace(pages=True),  # as serving engines call it: keys in pages
    "mmha": FLASH._replace(splitting=(), thin=True),  # as engines and compilers write it for one query
    # Before: outputs and their gradients are read, sums of the queries' gradients cleared; after: these are converted
    "flash-backward": FLASH.backward(share=0.85, around=2 + 2 + 4 + 4 + 2),  # flash_bwd_launch_template.h
    "flash3": FLASH3,
    "flash3-varlen": FLASH3,  # sequences of different lengths
    "flash3-paged": FLASH3,
    "cudnn": CUDNN,
    "cudnn-backward": CUDNN.backward(),
    "efficient": CUTLASS,  # xformers
    "efficient-backward": CUTLASS.backward(),
    "triton": Tiling(  # heads of two tiles
        ((256, 128, 64),), (16, 32, 48, 64, 80, 96, 128, 144, 160, 192, 256), 0.9, thin=True
    ),
    "flash1": FLASH1,
    "flash1-backward": FLASH1.backward(warps=8),
    "flash1-triton": CUTLASS._replace(share=0.5),
    "flash1-triton-backward": CUTLASS.backward(share=0.5),
}


def price(
    work: Work, dtype: str, call: AttentionCall | None, device: Device, l2: L2State = "cold", resident: int = 0
) -> Cost:
    """One call of a fused attention kernel; without the facts of a call, its FLOPs at the kernel's rate."""
    backend = call.backend if call is not None and call.backend in KERNELS else "flash"
    kernel = constants_of(backend, device)
    moved = work.bytes_read + work.bytes_written
    missed = streamed(work.bytes_read, work.bytes_written, device, l2, resident)
    constants = device.constants
    memory = missed / rate(max(constants.gemm_bandwidth, constants.memory_bandwidth), device)  # it nearly only reads
    peak = device.peak_flops(dtype)
    if call is None:
        computed = (work.flops or 0) / (kernel.efficiency * peak)
        best = (rounded_max(computed, memory), computed, 1, 1.0, "tensor")
    elif backend == "triton" and call.key_length <= HELD:
        best = _held(call, memory, peak, kernel, device)
    else:
        best = min(_split(call, split, memory, peak, KERNELS[backend], kernel, device) for split in SPLITS)
    seconds, computed, blocks, waves, unit = best
    launches = work.launches
    if call is not None and (around := KERNELS[backend].around):
        elements = call.batch * call.heads * call.query_length * call.head_dim
        seconds += around * elements / rate(device.constants.memory_bandwidth, device)
        launches += 2
    extra = (launches - 1) * device.constants.memory_floor
    seconds += kernel.floor + extra
    bound = unit if computed > memory else "memory"
    if kernel.floor + extra > max(computed, memory):
        bound = "launch"
    elif bound == unit and blocks < 0.5 * ceil(waves) * device.datasheet.compute_units:
        bound = "waves"
    used = {"memory": missed / device.datasheet.bandwidth, "exp": computed, "launch": kernel.floor + extra}
    share = used.get(bound, (work.flops or 0) / peak) / seconds
    provenance, error = origin("attention", device, kernel.error is not None)
    if provenance == "calibrated" and kernel.error is not None:
        error = max(kernel.error, LEAST["attention"])
    if call is not None and call.query_length == 1:
        error = max(error, DECODING)
    return Cost(
        seconds, launches, bound, provenance, error, min(1.0, share), blocks, float(ceil(waves)), state(missed, moved)
    )


def _held(
    call: AttentionCall, memory: float, peak: float, kernel: AttentionKernel, device: Device
) -> tuple[float, float, int, float, str]:
    """As `_split`, of our kernels for few keys: tiles as large as a power of two, from 16 on, that holds them."""
    sheet = device.datasheet
    queries = ceil(call.query_length / HELD) * _power_of_2(min(call.query_length, HELD))
    keys, head_dim = _power_of_2(call.key_length), _power_of_2(call.head_dim)
    rows = call.batch * call.heads * queries
    product = 4 * rows * keys * head_dim / (kernel.efficiency * peak)
    exponential = rows * keys / (sheet.exps * sheet.clock * sheet.compute_units)
    blocks = max(1, rows // HELD)
    compute = product + exponential
    unit = "tensor" if product > exponential else "exp"
    return rounded_max(compute, memory), compute, blocks, blocks / sheet.compute_units, unit


def _power_of_2(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())


def constants_of(backend: str, device: Device) -> AttentionKernel:
    """The constants of a kernel on a device: its own, those of its forward pass, or flash's at a share of the rate."""
    known = device.constants.attention
    for name in (backend, *(backend.removesuffix(suffix) for suffix in ("-backward", "-varlen", "-paged"))):
        if name in known and (name, backend) != ("flash", "flash-backward"):
            return known[name] if name == backend else known[name].model_copy(update={"error": None})
    flash, ratio = known["flash"], device.per_clock() / COMPARED if device.vendor == "nvidia" else 1.0
    compared = KERNELS[backend].share * carried(flash.efficiency, 1 / ratio)
    return flash.model_copy(update={"efficiency": carried(compared, ratio), "error": None})


def _split(
    call: AttentionCall, split: int, memory: float, peak: float, tiling: Tiling, kernel: AttentionKernel, device: Device
) -> tuple[float, float, int, float, str]:
    """(seconds beside the floor, of them computing, blocks, waves, unit) with the keys of a tile split in so many."""
    sheet = device.datasheet
    head_dim = next((size for size in tiling.head_dims if size >= call.head_dim), None)
    if head_dim is None:
        head_dim = ceil(call.head_dim / tiling.head_dims[-1]) * tiling.head_dims[-1]
    rows, keys = tiling.tile(call, split, device)
    heads, queries = _rows(call)
    blocks = call.batch * heads * ceil(queries / rows) * split
    unit_peak = kernel.efficiency * peak / sheet.compute_units
    product = 4 * tiling.products * head_dim * rows / unit_peak
    exponential = tiling.scores * rows / (sheet.exps * sheet.clock)
    steps = ceil(call.key_length / (keys * split))
    if tiling.warps:
        through = 1 / device.constants.l2_rate if call.key_length > keys else 0.0
        product += rows * head_dim * SUM * (through + tiling.warps / SHARED) / keys / sheet.clock
    prologue = kernel.prologue * (SINGLE if steps == 1 else 1)
    longest = steps * keys * (product + exponential) + prologue
    rounds = blocks / sheet.compute_units
    compute = max(1.0, HIDDEN * rounds + (1 - HIDDEN) * ceil(rounds)) * longest
    if call.causal and call.query_length <= call.key_length and not call.bias:  # else the mask is part of a bias
        walked = min(steps * keys, (2 * call.key_length - call.query_length + rows + keys) / 2 / split)
        mean = walked * (product + exponential) + prologue
        uneven = max(longest, rounds * mean) + (HIDDEN * longest if rounds > 1 else 0)
        compute = min(compute, uneven)  # a mask only leaves out work
    parts = 0.0
    if split > 1:
        results = call.batch * call.heads * call.query_length * head_dim
        parts = SPLIT_SECONDS + 8 * split * results / rate(device.constants.memory_bandwidth, device)
    return (
        rounded_max(compute, memory) + parts, compute, blocks, rounds,
        "tensor" if product > exponential else "exp",
    )  # fmt: skip
