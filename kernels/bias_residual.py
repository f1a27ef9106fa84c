"""What follows a channels-last convolution run without its bias, in one pass: x (b, c, *pixels) -> the same.

    (x + bias + residual + residual_bias) / divisor        residual laid out as x, its own bias if it lacks one, too

Why: for channels-last results torch adds the bias of a convolution in a kernel of its own that goes element by
element, at a third of the memory's rate, and the sum with the shortcut of a residual block is another. Here it is
one launch, 16 bytes at a time: two passes over memory, three with a residual.

Elements are taken as they lie, so no width of channels leaves lanes idle; which channel one has is its place modulo
`CHANNELS`, a constant, so that the compiler sees that 16 bytes of the bias belong together.
Computed, not measured: at 24 to 36 registers a thread an H100's multiprocessor keeps at least 64 KB of reads in
flight, more than twice what the latency of its memory asks for.
Source of the rate: sglang pull 38650.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels.launch import Launch, cdiv, jit, tl, wide
from minimodels.kernels.layout import pixel_rows
from minimodels.kernels.operands import require, vector
from minimodels.kernels.operator import define
from minimodels.kernels.work import Work, stored_bytes

BLOCK = 2048  # elements of a program: 16 a thread


@jit
def _add(
    x, bias, residual, residual_bias, out, size, divisor, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """BLOCK elements a program."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    channel = at % CHANNELS
    result = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    result += tl.load(bias + channel).to(tl.float32)
    if residual is not None:
        result += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    if residual_bias is not None:
        result += tl.load(residual_bias + channel).to(tl.float32)
    if divisor is not None:
        result = result / divisor
    tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)


def _check(
    x: Tensor, bias: Tensor, residual: Tensor | None, residual_bias: Tensor | None, divisor: float | None
) -> None:
    require(x.dim() >= 3, f"x is (b, c, *pixels), not of shape {tuple(x.shape)}")
    require(pixel_rows(x), f"x lies channels last, not in strides {x.stride()}")
    if residual is not None:
        require(residual.shape == x.shape, f"the residual is {tuple(x.shape)} as x is, not {tuple(residual.shape)}")
        require(pixel_rows(residual), f"the residual lies channels last, not in strides {residual.stride()}")
    vector("bias", bias, x.shape[1])
    vector("residual_bias", residual_bias, x.shape[1])


def _empty(x: Tensor) -> Tensor:
    order = (0, *range(2, x.dim()), 1)
    return torch.empty_permuted(x.shape, order, dtype=x.dtype, device=x.device)


def plan(
    x: Tensor, bias: Tensor, residual: Tensor | None, residual_bias: Tensor | None, divisor: float | None
) -> tuple[Tensor, list[Launch]]:
    """The result and the launch that fills it."""
    out = _empty(x)
    args = (x, bias, residual, residual_bias, out, x.numel(), divisor)
    constants = {"CHANNELS": x.shape[1], "BLOCK": BLOCK, "WIDE": wide(x)}
    return out, [Launch(_add, (cdiv(x.numel(), BLOCK), 1, 1), args, constants)]


def _channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (x.dim() - 2))


def reference(
    x: Tensor, bias: Tensor, residual: Tensor | None, residual_bias: Tensor | None, divisor: float | None
) -> Tensor:
    """The same in plain torch, in float32 at least."""
    kind = torch.promote_types(x.dtype, torch.float32)
    result = x.to(kind) + _channels(bias, x)
    for more in (residual, None if residual_bias is None else _channels(residual_bias, x)):
        result = result if more is None else result + more
    return _empty(x).copy_(result if divisor is None else result / divisor)


def eager(
    x: Tensor, bias: Tensor, residual: Tensor | None, residual_bias: Tensor | None, divisor: float | None
) -> Tensor:
    """As torch's convolutions add their biases, and a residual block its shortcut."""
    result = x + _channels(bias, x)
    if residual is not None:
        result = (residual if residual_bias is None else residual + _channels(residual_bias, x)) + result
    return result if divisor is None else result / divisor


def _fake(x: Tensor, *_: Any) -> Tensor:
    return _empty(x)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Every tensor read once, the result written once."""
    return Work("elementwise", 0, sum(stored_bytes(x) for x in args[:4] if x is not None), stored_bytes(out[0]))


bias_residual = define(
    "bias_residual(Tensor x, Tensor bias, Tensor? residual, Tensor? residual_bias, float? divisor) -> Tensor",
    plan=plan, reference=reference, eager=eager, fake=_fake, work=_work, check=_check,
)  # fmt: skip
"""bias_residual(x, bias, residual, residual_bias, divisor) -> Tensor: see the module; biases are (c,)."""
