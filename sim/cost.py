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
  kernel each, whose intermediate results never reach memory.
- `graph`: no host time; queued kernels still lie `kernel_gap` apart.

Only `predict` is public, so that a model of tiles and waves can take its place. The constants stand in
`devices/*.toml` with the tables they were fitted to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, prod
from typing import Literal, NamedTuple

from minimodels.kernels.scope import AttentionCall
from minimodels.sim.call import Call, Timing, Work
from minimodels.sim.device import Device

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

FUSABLE = frozenset({"elementwise", "norm", "softmax", "copy"})
HALF = frozenset({"float16", "bfloat16"})


class Cost(NamedTuple):
    """One kernel or chain of kernels on the device: seconds, how many launches, and why so long."""

    seconds: float
    launches: int
    bound: str
    provenance: str


def predict(calls: Sequence[Call], device: Device, mode: Mode) -> list[Timing]:
    """The seconds of one execution of each call, in call order.

    Device plus gap seconds, times weight, add up to the time of the run. A call that stands for many
    executions gets the gap of the steady state of its loop. A stage starts with host and device idle.
    """
    works = _fused(calls) if mode == "compiled" else [call.work for call in calls]
    known: dict[tuple[Work, str, AttentionCall | None], Cost] = {}
    costs: list[Cost] = []
    for call, work in zip(calls, works, strict=True):
        key = (work, call.dtype, call.attention if work.kernel == "attention" else None)
        cost = known.get(key)
        if cost is None:
            cost = known[key] = _cost(*key, device)
        costs.append(cost)
    constants = device.constants
    per_op = constants.host_per_op if mode == "eager" else 0.0
    per_launch = 0.0 if mode == "graph" else constants.host_per_launch
    host = [per_op + cost.launches * per_launch if cost.launches else 0.0 for cost in costs]
    gaps = _gaps(calls, costs, host, constants.kernel_gap)
    return [
        Timing(
            cost.seconds,
            spent,
            gap,
            "host" if gap > cost.seconds and gap > cost.launches * constants.kernel_gap else cost.bound,
            cost.provenance,
        )
        for cost, spent, gap in zip(costs, host, gaps, strict=True)
    ]


def _cost(work: Work, dtype: str, attention: AttentionCall | None, device: Device) -> Cost:
    """The device seconds of one execution; an operator's launches after the first are copies of its input."""
    constants, sheet = device.constants, device.datasheet
    if work.kernel == "none":
        return Cost(0.0, 0, "launch", "datasheet")
    matrix = work.kernel in ("gemm", "conv")
    moved = work.bytes_read + work.bytes_written
    copied = min(moved, 2 * work.workspace) if work.launches > 1 and matrix else 0
    rate = constants.memory_bandwidth
    compute, floor, unit = 0.0, constants.memory_floor, "tensor"
    if matrix:
        compute, floor, rate = _matrix_seconds(work, dtype, device), constants.gemm_floor, constants.gemm_bandwidth
    elif work.kernel == "attention":
        (compute, unit), floor = _attention_seconds(work, dtype, attention, device), constants.attention_floor
    elif work.kernel == "softmax":
        rate = constants.softmax_bandwidth
    memory = (moved - copied) / (rate * sheet.bandwidth)
    floors = (floor + (work.launches - 1) * constants.memory_floor) if work.launches else 0.0
    seconds = _rounded_max(compute, memory) + floors + copied / (constants.memory_bandwidth * sheet.bandwidth)
    fitted = work.kernel in constants.calibrated and (dtype in HALF or not compute)
    bound = "launch" if floors > max(compute, memory) else unit if compute > memory else "memory"
    return Cost(seconds, work.launches, bound, constants.provenance if fitted else "datasheet")


def _rounded_max(a: float, b: float) -> float:
    """The larger of two times, up to 2^(1/3) larger where they are equal."""
    large, small = (a, b) if a > b else (b, a)
    return large * (1 + (small / large) ** OVERLAP) ** (1 / OVERLAP) if small else large


def _matrix_seconds(work: Work, dtype: str, device: Device) -> float:
    """Computing time of a product (batch, m, n, k): its outputs, and the share of a wave left idle."""
    assert work.gemm is not None, work
    batch, m, n, k = work.gemm
    tf32 = work.kernel == "conv" and dtype == "float32" and "tf32" in device.datasheet.flops
    peak = device.peak_flops("tf32" if tf32 and device.vendor == "nvidia" else dtype)  # torch: cudnn.allow_tf32
    outputs = float(batch * m * n)
    if min(m, n) > 1:  # a product with a vector has a kernel of its own, without tiles
        m, n = max(m, LEAST), max(n, LEAST)
        outputs = batch * m * n + IDLE_WAVE * device.datasheet.compute_units * min(m, TILE) * min(n, TILE)
    return 2 * outputs * k / (device.constants.gemm_efficiency * peak)


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
    if call.causal and call.query_length == call.key_length:
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
    for start, stop in _stretches(calls):
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


def _stretches(calls: Sequence[Call]) -> Iterator[tuple[int, int]]:
    """The stretches of calls that run equally often: loops and what lies between them."""
    start = 0
    for stop in range(1, len(calls) + 1):
        if stop == len(calls) or (calls[stop].weight, calls[stop].stage) != (calls[start].weight, calls[start].stage):
            yield start, stop
            start = stop


def _fused(calls: Sequence[Call]) -> list[Work]:
    """The work of each call once chains are fused: one launch per chain, intermediates kept on chip."""
    works = [call.work for call in calls]
    last_read = {storage: index for index, call in enumerate(calls) for storage in call.reads}
    for start, stop in _stretches(calls):
        for chain in _chains(calls, start, stop):
            if len(chain) > 1:
                _fuse(calls, chain, last_read, works)
    return works


def _chains(calls: Sequence[Call], start: int, stop: int) -> Iterator[list[int]]:
    """Runs of fusable calls of which each reads what an earlier one of the run has read or written."""
    chain: list[int] = []
    seen: set[int] = set()
    for index in range(start, stop):
        call = calls[index]
        if call.work.kernel == "none":
            continue
        fusable = call.work.kernel in FUSABLE
        if chain and not (fusable and not seen.isdisjoint(call.reads)):
            yield chain
            chain, seen = [], set()
        if fusable:
            chain.append(index)
            seen.update(call.reads, call.writes)
    if chain:
        yield chain


def _fuse(calls: Sequence[Call], chain: Sequence[int], last_read: dict[int, int], works: list[Work]) -> None:
    """Take out of a chain the traffic that never leaves it: what was read or written in it before is on chip."""
    on_chip: dict[int, int] = {}
    for index in chain:
        call, work = calls[index], calls[index].work
        read = 0
        for storage, size in zip(call.reads, _read_bytes(call), strict=True):
            read += max(0, size - on_chip.get(storage, 0))
            on_chip[storage] = max(size, on_chip.get(storage, 0))
        size = work.bytes_written // max(1, len(call.writes))
        written = work.bytes_written
        for storage in call.writes:
            on_chip[storage] = max(size, on_chip.get(storage, 0))
            if index < last_read.get(storage, -1) <= chain[-1]:
                written -= size
        first = index == chain[0]
        works[index] = Work(work.kernel, work.flops, min(read, work.bytes_read), written, int(first), None, 0)


def _read_bytes(call: Call) -> list[int]:
    """The bytes that a call reads of each of its arguments, shared out by their sizes."""
    if len(call.reads) == 1:
        return [call.work.bytes_read]
    if len(call.reads) != len(call.shapes):
        return [call.work.bytes_read // max(1, len(call.reads))] * len(call.reads)
    sizes = [max(1, prod(shape)) for shape in call.shapes]
    return [call.work.bytes_read * size // sum(sizes) for size in sizes]
