"""The cost model: seconds of every call of a walk on a device it may never run on, and why it takes so long.

A file per family of kernels: `gemm` (tiles, waves, splits, the L2 cache), `convolution`, `attention`, `norm`,
`bandwidth` (what only moves); `host` puts them behind each other. The constants stand in `devices/*.toml` with the
tables they were fitted to.

In `compiled` mode chains of elementwise, norm, softmax and copy operators are one kernel each, whose intermediate
results never reach memory. A chain's seconds are shared among its operators in proportion to the time that the bytes
of each would take alone: none gets more than it would take unfused.

Only `predict` is public.
"""

from __future__ import annotations

from collections.abc import Sequence

from minimodels.kernels.scope import AttentionCall
from minimodels.kernels.work import Kernel, Work
from minimodels.sim.call import Call, L2State, Priced
from minimodels.sim.cost import attention, bandwidth, convolution, gemm, norm
from minimodels.sim.cost.base import FREE, Cost, origin, rate
from minimodels.sim.cost.host import Mode, gaps, host_seconds
from minimodels.sim.cost.residency import resident
from minimodels.sim.device import Device
from minimodels.sim.fusion import fuse, unfused

__all__ = ["Mode", "predict", "rate_of"]


def predict(calls: Sequence[Call], device: Device, mode: Mode) -> list[Priced]:
    """The seconds of one execution of each call, in call order, and the work they were predicted from.

    Device plus gap seconds, times weight, add up to the time of the run. A call that stands for many
    executions gets the gap of the steady state of its loop. A stage starts with host and device idle.
    """
    apart = unfused(calls)
    fused = fuse(calls) if mode == "compiled" else apart
    known: dict[tuple[Work, str, AttentionCall | None, L2State, int], Cost] = {}
    costs: list[Cost] = []
    found = resident(calls, fused, device)
    for call, work, held in zip(calls, fused.works, found, strict=True):
        dtype = rate_of(work.kernel, call.dtype, device) if call.tf32 else call.dtype
        key = (work, dtype, call.attention if work.kernel == "attention" else None, call.l2, held)
        cost = known.get(key)
        if cost is None:
            cost = known[key] = _cost(*key, device)
        costs.append(cost)
    if fused.chains:
        found = resident(calls, apart, device)
    for chain in fused.chains:
        _share(calls, chain, costs, found, device)
    constants = device.constants
    host = host_seconds(costs, constants, mode)
    waits = gaps(calls, costs, host, constants.kernel_gap)
    return [
        Priced(
            cost.seconds,
            spent,
            gap,
            "host" if gap > cost.seconds and gap > cost.launches * constants.kernel_gap else cost.bound,
            cost.provenance,
            work,
            cost.error,
            cost.utilisation,
            cost.tiles,
            cost.waves,
            cost.l2,
        )
        for cost, spent, gap, work in zip(costs, host, waits, fused.works, strict=True)
    ]


def rate_of(kernel: Kernel, dtype: str, device: Device) -> str:
    """In which type the multipliers work: torch leaves products in float32, and lets cuDNN take TF32."""
    tf32 = kernel == "conv" and dtype == "float32" and device.vendor == "nvidia" and "tf32" in device.datasheet.flops
    return "tf32" if tf32 else dtype


def _cost(work: Work, dtype: str, call: AttentionCall | None, l2: L2State, found: int, device: Device) -> Cost:
    """The device seconds of one execution; an operator's launches after the first are copies of its input.

    found: the bytes of its input in the L2 cache.
    """
    if work.parts:
        return _in_turn([_cost(part, dtype, call, l2, 0, device) for part in work.parts])
    match work.kernel:
        case "none":
            return FREE
        case "math":
            return _math_cost(work, dtype, device)
        case "gemm":
            return gemm.price(work, dtype, device, l2, found)
        case "conv":
            return convolution.price(work, dtype, device, l2, found)
        case "attention":
            return attention.price(work, dtype, call, device, l2, found)
        case "norm" | "softmax":
            return norm.price(work, dtype, device, l2, found)
        case _:
            return bandwidth.price(work, device, l2, found)


def _math_cost(work: Work, dtype: str, device: Device) -> Cost:
    """Unfused attention: two products and a softmax, in float32 at least, elementwise passes; its longest bounds it."""
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
    return _in_turn([_cost(part, wide, None, "cold", 0, device) for part in (*parts, passes)])


def _in_turn(costs: Sequence[Cost]) -> Cost:
    """Kernels one after another; the longest says what bounds them."""
    longest = max(costs, key=lambda cost: cost.seconds)
    return longest._replace(seconds=sum(cost.seconds for cost in costs), launches=sum(cost.launches for cost in costs))


def _share(
    calls: Sequence[Call], chain: Sequence[int], costs: list[Cost], found: Sequence[int], device: Device
) -> None:
    """Share the seconds of a fused chain among its calls, as the time that the bytes of each would take alone."""
    constants = device.constants
    shares = {"norm": constants.norm_bandwidth, "softmax": constants.softmax_bandwidth}
    works = [calls[i].work for i in chain]
    alone = [
        (w.bytes_read + w.bytes_written) / rate(shares.get(w.kernel, constants.memory_bandwidth), device) for w in works
    ]
    seconds, whole = sum(costs[i].seconds for i in chain), sum(alone)
    families = {"floor"} if 2 * constants.memory_floor > seconds else {FAMILIES[w.kernel] for w in works}
    origins = [origin(family, device) for family in families]
    provenance = "datasheet" if any(source == "datasheet" for source, _ in origins) else origins[0][0]
    bound, error = "launch" if "floor" in families else "memory", max(error for _, error in origins)
    moved = sum(costs[i].utilisation * costs[i].seconds for i in chain)
    used = min(1.0, moved / seconds) if seconds else 0.0
    apart = [_cost(calls[i].work, calls[i].dtype, None, calls[i].l2, found[i], device).seconds for i in chain]
    left = min(seconds, sum(apart))
    for limit, share, index in sorted(zip(apart, alone, chain, strict=True), key=lambda one: one[0] / (one[1] or 1)):
        part = min(left * share / whole if whole else left / len(chain), limit)
        costs[index] = Cost(part, costs[index].launches, bound, provenance, error, used)
        left, whole = left - part, whole - share


FAMILIES = {"norm": "norm", "softmax": "softmax", "elementwise": "elementwise", "copy": "elementwise"}
