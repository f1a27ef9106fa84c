"""Calls of single kernels, everything else plain, for the tests of the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minimodels.kernels.scope import AttentionCall
from minimodels.kernels.work import Conv, Work
from minimodels.sim import device as devices
from minimodels.sim.call import Call, Timing
from minimodels.sim.cost import predict
from minimodels.sim.device import Device

A100 = devices.load("a100-80gb")
NAMES = [name for name in devices.names() if {"float16", "float32"} <= devices.load(name).datasheet.flops.keys()]


def call(work: Work, **changes: Any) -> Call:
    """A call of `work` with everything else plain."""
    plain: dict[str, Any] = {"shapes": (), "dtype": "float16", "stage": "run", "scope": "", "module": None}
    plain |= {"name": work.kernel, "category": "Other", "role": None, "attention": None}
    return Call(work=work, **plain | changes)


def product(m: int, n: int, k: int, batch: int = 1) -> Work:
    read, written = 2 * batch * (m * k + k * n), 2 * batch * m * n
    return Work("gemm", 2 * batch * m * n * k, read, written, 1, (batch, m, n, k))


def convolution(pixels: int, filters: int, channels: int, window: int = 9, direct: bool = False) -> Work:
    """A convolution with as many pixels in as out, channels last."""
    sizes = 2 * pixels * channels, 2 * filters * channels * window, 2 * pixels * filters
    conv = Conv(channels, *sizes, channels_last=True, bias=False, direct=direct)
    flops, gemm = 2 * pixels * filters * channels * window, (1, pixels, filters, channels * window)
    return Work("conv", flops, sizes[0] + sizes[1], sizes[2], gemm=gemm, conv=conv)


def pointwise(elements: int) -> Work:
    return Work("elementwise", 0, 2 * elements, 2 * elements)


def attention(
    n: int, m: int, head_dim: int = 64, backend: str = "flash", causal: bool = False, batch: int = 3, heads: int = 7
) -> Call:
    rows = 2 * batch * heads * head_dim
    work = Work("attention", 2 * rows * n * m, 2 * rows * m, rows * n)
    return call(work, attention=AttentionCall(backend, batch, n, m, heads, heads, head_dim, causal, False))


def device_seconds(one: Call, device: Device = A100) -> float:
    return predict([one], device, "graph")[0].device_seconds


def total(calls: Sequence[Call], timings: Sequence[Timing]) -> float:
    return sum(c.weight * (t.device_seconds + t.gap_seconds) for c, t in zip(calls, timings, strict=True))
