"""The cost model, first version: seconds of every call of a walk on a device it may never run on.

A kernel takes a floor, plus what is longer of its computing and its memory traffic:

    seconds = floor + (compute^3 + memory^3)^(1/3)
    compute = FLOPs on whole tiles / (efficiency x tensor peak)
    memory  = bytes / (fraction x bandwidth)

The cubes are a maximum with a rounded corner. Efficiencies fall with size by themselves: the floor is what
bounds small transfers (latency x bandwidth bytes in flight reach half the rate), matrix products carry an
idle share of a wave of tiles, and attention pays whole tiles, whole waves and a prologue per tile.

Host and device are a queue: the host issues one operator after another, a kernel starts when it has been
issued and the kernel before it has ended. What the device waits is the gap of that call.

- `eager`: the host spends time on every operator and launch.
- `compiled`: it spends launches only, and chains of elementwise, norm, softmax and copy operators are one
  kernel each, whose intermediate results never reach memory. A chain's seconds are shared among its operators
  in proportion to the time that the bytes of each would take alone: none gets more than it would take unfused.
- `graph`: no host time; queued kernels still lie `kernel_gap` apart.

Only `predict` is public, so that a model of tiles and waves can take its place. The constants stand in
`devices/*.toml` with the tables they were fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Literal, NamedTuple

from minimodels.kernels.scope import AttentionCall
from minimodels.kernels.work import Kernel, Work
from minimodels.sim.call import Call, Priced, stretches
from minimodels.sim.device import Device
from minimodels.sim.fusion import fuse

Mode = Literal["eager", "graph", "compiled"]

OVERLAP = 3.0  # exponent of the rounded maximum; 2.5 to 4 fit the GEMM tables of four GPUs equally well
TILE = 128  # rows and columns of an output tile of a large matrix product, rows of an attention tile
LEAST = 64  # rows or columns that the smallest tile in use computes, needed or not
IDLE_WAVE = 0.1  # of a wave of output tiles: what the last wave leaves idle; fitted on A100, H100 and H200 GEMMs
KEY_TILE = 64  # keys per step of an attention kernel, and what its prologue and epilogue cost in keys
EXPS = 16  # exponentials per clock and compute unit: the special-function units, Ampere to Blackwell and CDNA 3
FEW_QUERIES = 16  # up to here an attention kernel splits the keys over the device
FLASH_HEAD_DIMS = (32, 64, 96, 128, 192, 256)  # FlashAttention-2 pads to these
EFFICIENT_SHARE = 0.45  # of flash: xformers over FA2 at 2k to 16k tokens, A100 (FlashAttention-2, Fig. 4)

HALF = frozenset({"float16", "bfloat16"})


class Cost(NamedTuple):
    """One kernel or chain of kernels on the device: seconds, how many launches, and why so long."""

    seconds: float
    launches: int
    bound: str
    provenance: str


def predict(calls: Sequence[Call], device: Device, mode: Mode) -> list[Priced]:
    """The seconds of one execution of each call, in call order, and the work they were predicted from.

    Device plus gap seconds, times weight, add up to the time of the run. A call that stands for many
    executions gets the gap of the steady state of its loop. A stage starts with host and device idle.
    """
    works, chains = fuse(calls) if mode == "compiled" else ([call.work for call in calls], [])
    known: dict[tuple[Work, str, AttentionCall | None], Cost] = {}
    costs: list[Cost] = []
    for call, work in zip(calls, works, strict=True):
        key = (work, call.dtype, call.attention if work.kernel == "attention" else None)
        cost = known.get(key)
        if cost is None:
            cost = known[key] = _cost(*key, device)
        costs.append(cost)
    for chain in chains:
        _share(calls, chain, costs, device)
    constants = device.constants
    per_op = constants.host_per_op if mode == "eager" else 0.0
    per_launch = 0.0 if mode == "graph" else constants.host_per_launch
    host = [per_op + cost.launches * per_launch if cost.launches else 0.0 for cost in costs]
    gaps = _gaps(calls, costs, host, constants.kernel_gap)
    return [
        Priced(
            cost.seconds,
            spent,
            gap,
            "host" if gap > cost.seconds and gap > cost.launches * constants.kernel_gap else cost.bound,
            cost.provenance,
            work,
        )
        for cost, spent, gap, work in zip(costs, host, gaps, works, strict=True)
    ]


def _cost(work: Work, dtype: str, attention: AttentionCall | None, device: Device) -> Cost:
    """The device seconds of one execution; an operator's launches after the first are copies of its input."""
    constants = device.constants
    if work.kernel == "none":
        return Cost(0.0, 0, "launch", "datasheet")
    if work.kernel == "math":
        return _math_cost(work, dtype, device)
    matrix = work.kernel in ("gemm", "conv")
    moved = work.bytes_read + work.bytes_written
    copied = min(moved, 2 * work.workspace) if work.launches > 1 and matrix else 0
    compute, floor, unit = 0.0, 0.0, "tensor"
    if matrix:
        compute, floor = _matrix_seconds(work, dtype, device), constants.gemm_floor
    elif work.kernel == "attention":
        (compute, unit), floor = _attention_seconds(work, dtype, attention, device), constants.attention_floor
    memory = (moved - copied) / _rate(work.kernel, device)
    small = (work.launches - (floor > 0)) * constants.memory_floor
    seconds = _rounded_max(compute, memory) + floor + small + copied / _rate("copy", device)
    bound = "launch" if floor + small > max(compute, memory) else unit if compute > memory else "memory"
    fitted = work.kernel in constants.calibrated and (dtype in HALF or not compute)
    return Cost(seconds, work.launches, bound, _provenance(fitted, small, seconds, device))


def _provenance(fitted: bool, small: float, seconds: float, device: Device) -> str:
    """Calibrated if what decides the time was fitted here: rates, or `small` seconds of floors of small kernels."""
    if 2 * small > seconds:
        fitted = "memory_floor" in device.constants.calibrated
    return device.constants.provenance if fitted else "datasheet"


def _rate(kernel: Kernel, device: Device) -> float:
    """Bytes per second that a large kernel of a kind moves."""
    constants = device.constants
    fraction = constants.memory_bandwidth
    if kernel in ("gemm", "conv"):
        fraction = constants.gemm_bandwidth
    elif kernel == "softmax":
        fraction = constants.softmax_bandwidth
    return fraction * device.datasheet.bandwidth


def _math_cost(work: Work, dtype: str, device: Device) -> Cost:
    """Unfused attention: two products and a softmax, in float32 at least, and elementwise passes; its longest bounds it."""
    assert work.gemm is not None and work.flops is not None, work
    batch, n, m, d = work.gemm
    wide, size = ("float64", 8) if dtype == "float64" else ("float32", 4)
    value_dim = work.flops // (2 * batch * n * m) - d
    parts = [
        Work("gemm", 2 * batch * n * k * columns, size * batch * (n + columns) * k, size * batch * n * columns,
             gemm=(batch, n, columns, k))
        for columns, k in ((m, d), (value_dim, m))
    ]  # fmt: skip
    parts.append(Work("softmax", 0, size * batch * n * m, size * batch * n * m))
    read, written = sum(part.bytes_read for part in parts), sum(part.bytes_written for part in parts)
    passes = Work("elementwise", 0, work.bytes_read - read, work.bytes_written - written, work.launches - len(parts))
    costs = [_cost(part, wide, None, device) for part in (*parts, passes)]
    longest = max(costs, key=lambda cost: cost.seconds)
    return Cost(sum(cost.seconds for cost in costs), work.launches, longest.bound, longest.provenance)


def _share(calls: Sequence[Call], chain: Sequence[int], costs: list[Cost], device: Device) -> None:
    """Share the seconds of a fused chain among its calls, as the time that the bytes of each would take alone."""
    floor = device.constants.memory_floor
    alone = [(w.bytes_read + w.bytes_written) / _rate(w.kernel, device) for w in (calls[i].work for i in chain)]
    seconds, whole = sum(costs[i].seconds for i in chain), sum(alone)
    fitted = all(calls[i].work.kernel in device.constants.calibrated for i in chain)
    bound, provenance = "launch" if 2 * floor > seconds else "memory", _provenance(fitted, floor, seconds, device)
    for index, part in zip(chain, alone, strict=True):
        share = part / whole if whole else 1 / len(chain)
        costs[index] = Cost(share * seconds, costs[index].launches, bound, provenance)


def _rounded_max(a: float, b: float) -> float:
    """The larger of two times, up to 2^(1/3) larger where they are equal."""
    large, small = (a, b) if a > b else (b, a)
    return large * (1 + (small / large) ** OVERLAP) ** (1 / OVERLAP) if small else large


def _matrix_seconds(work: Work, dtype: str, device: Device) -> float:
    """Computing time of a product (batch, m, n, k): its outputs, and the share of a wave left idle."""
    assert work.gemm is not None, work
    batch, m, n, k = work.gemm
    peak = device.peak_flops(rate_of(work.kernel, dtype, device))
    outputs = float(batch * m * n)
    if min(m, n) > 1:  # a product with a vector has a kernel of its own, without tiles
        m, n = max(m, LEAST), max(n, LEAST)
        outputs = batch * m * n + IDLE_WAVE * device.datasheet.compute_units * min(m, TILE) * min(n, TILE)
    return 2 * outputs * k / (device.constants.gemm_efficiency * peak)


def rate_of(kernel: Kernel, dtype: str, device: Device) -> str:
    """In which type the multipliers work: torch leaves products in float32, and lets cuDNN take TF32."""
    tf32 = kernel == "conv" and dtype == "float32" and device.vendor == "nvidia" and "tf32" in device.datasheet.flops
    return "tf32" if tf32 else dtype


def _attention_seconds(work: Work, dtype: str, call: AttentionCall | None, device: Device) -> tuple[float, str]:
    """Computing time of fused attention, and its bound: waves of tiles of 128 queries, each walking over its keys.

    Exponentials are not overlapped with the products: FlashAttention-2 and 3 and cuDNN at head dims 64 and
    128 differ by just their time.
    """
    constants, sheet = device.constants, device.datasheet
    peak = device.peak_flops(dtype)
    if call is None:
        return (work.flops or 0) / (constants.attention_efficiency * peak), "tensor"
    efficiency = constants.cudnn_efficiency if call.backend == "cudnn" else constants.attention_efficiency
    share = 1.0 if call.backend in ("cudnn", "flash", "triton") else EFFICIENT_SHARE
    head_dim = next((size for size in FLASH_HEAD_DIMS if size >= call.head_dim), call.head_dim)
    product, exponential = 4 * head_dim / (efficiency * peak), 1 / (EXPS * sheet.clock * sheet.compute_units)
    score, bound = (product + exponential) / share, "tensor" if product > exponential else "exp"
    if call.query_length <= FEW_QUERIES:
        return call.batch * call.heads * FEW_QUERIES * call.key_length * score, bound
    keys = KEY_TILE * (ceil(call.key_length / KEY_TILE) + 1)
    if call.causal and call.query_length == call.key_length and not call.bias:  # else the mask is part of a bias
        keys = (call.key_length + TILE) / 2 + KEY_TILE
    waves = ceil(call.batch * call.heads * ceil(call.query_length / TILE) / sheet.compute_units)
    return waves * sheet.compute_units * TILE * keys * score, bound


def _gaps(calls: Sequence[Call], costs: Sequence[Cost], host: Sequence[float], kernel_gap: float) -> list[float]:
    """The device's waiting time before each call.

    `ahead` is how long the device is still busy with what the host has issued. In a loop that costs the host
    more time than the device it is the same at the start of every iteration; else it grows from one to the next.
    """
    gaps = [cost.launches * kernel_gap for cost in costs]

    def issue(start: int, stop: int, ahead: float) -> float:
        for i in range(start, stop):
            launches = costs[i].launches
            if launches:
                ahead -= host[i]
                gaps[i] = max(launches * kernel_gap, -ahead)
                ahead += gaps[i]
            ahead += costs[i].seconds
        return ahead

    ahead, stage = 0.0, None
    for start, stop in stretches(calls):
        ahead = ahead if calls[start].stage == stage else 0.0
        stage, weight = calls[start].stage, calls[start].weight
        surplus = sum(costs[i].seconds + gaps[i] - host[i] for i in range(start, stop))
        if weight > 1 and surplus >= 0:
            ahead += weight * surplus
        elif weight > 1:
            ahead = issue(start, stop, issue(start, stop, 0.0))
        else:
            ahead = issue(start, stop, ahead)
    return gaps
