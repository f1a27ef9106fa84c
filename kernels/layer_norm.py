"""LayerNorm and RMSNorm over the last dimension, with the residual sum before and the modulation after them.

    layer_norm:      x (..., d)            -> normed
    add_layer_norm:  x, delta (..., d)     -> x + delta, and the norm of that sum

    normed = (x - mean) / deviation * weight + bias, without mean and bias for RMSNorm, then * (1 + scale) + shift

scale, shift (r, d) stand for rows / r rows each: one per sample (adaLN), or one per token.

Why: a transformer's residual stream is read and written between any two of its products. As torch's operators the
sum, the norm and the modulation take 12 passes over x; here they take 4. Rows up to 8,192 features are held in
registers, several of narrow ones in a program; wider ones are read twice, the second time from cache.

Sources: Ba et al. 2016, arXiv 1607.06450; Zhang and Sennrich 2019, arXiv 1910.07467; Peebles and Xie 2022 (adaLN),
arXiv 2212.09748.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minimodels.kernels.launch import Launch, cdiv, jit, power_of_2, tl, wide
from minimodels.kernels.operands import alike, both, require, rows, vector
from minimodels.kernels.operator import define
from minimodels.kernels.work import Work, size_bytes, stored_bytes

HELD = 8192  # features of a row that a program holds
TILE = 4096  # elements a program holds where rows are narrower


@jit
def _affine(values, weight, bias, scale, shift, row, column, per, width, real):
    """Weight, bias, and the modulation of normalised values."""
    if weight is not None:
        values *= tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    if bias is not None:
        values += tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    if scale is not None:
        at = (row // per) * width + column
        values *= 1.0 + tl.load(scale + at, mask=real, other=0.0).to(tl.float32)
        values += tl.load(shift + at, mask=real, other=0.0).to(tl.float32)
    return values


@jit
def _held(
    x, delta, total, out, weight, bias, scale, shift, rows, width, per, eps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, RMS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """ROWS whole rows a program."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    row = program * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    real = (row < rows) & (column < width)
    at = row * width + column
    values = tl.load(x + at, mask=real, other=0.0).to(tl.float32)
    if delta is not None:
        values += tl.load(delta + at, mask=real, other=0.0).to(tl.float32)
        rounded = values.to(total.dtype.element_ty)
        tl.store(total + at, rounded, mask=real)
        values = rounded.to(tl.float32)
    if not RMS:
        values = tl.where(real, values - tl.sum(values, 1, keep_dims=True) / width, 0.0)
    inverse = tl.rsqrt(tl.sum(values * values, 1, keep_dims=True) / width + eps)
    values = _affine(values * inverse, weight, bias, scale, shift, row, column, per, width, real)
    tl.store(out + at, values.to(out.dtype.element_ty), mask=real)


@jit
def _streamed(
    x, delta, total, out, weight, bias, scale, shift, rows, width, per, eps,
    COLUMNS: tl.constexpr, RMS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One wide row a program: statistics block by block, joined by Chan's formula, then the row again."""
    row = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    mean, m2, count = 0.0, 0.0, 0.0
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        real = column < width
        values = tl.load(x + row * width + column, mask=real, other=0.0).to(tl.float32)
        if delta is not None:
            values += tl.load(delta + row * width + column, mask=real, other=0.0).to(tl.float32)
            rounded = values.to(total.dtype.element_ty)
            tl.store(total + row * width + column, rounded, mask=real)
            values = rounded.to(tl.float32)
        number = tl.minimum(width - start, COLUMNS).to(tl.float32)
        middle = 0.0 if RMS else tl.sum(values, 0) / number
        centred = tl.where(real, values - middle, 0.0)
        apart = middle - mean
        m2 += tl.sum(centred * centred, 0) + apart * apart * count * number / (count + number)
        mean += apart * number / (count + number)
        count += number
    inverse = tl.rsqrt(m2 / width + eps)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        real = column < width
        values = tl.load(x + row * width + column, mask=real, other=0.0).to(tl.float32)
        if delta is not None:  # the sum again, not from memory: what a thread wrote another may read too early
            values += tl.load(delta + row * width + column, mask=real, other=0.0).to(tl.float32)
            values = values.to(total.dtype.element_ty).to(tl.float32)
        values = _affine((values - mean) * inverse, weight, bias, scale, shift, row, column, per, width, real)
        tl.store(out + row * width + column, values.to(out.dtype.element_ty), mask=real)


def _check(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float,
    rms: bool,
) -> None:  # fmt: skip
    require(x.dim() > 0 and x.shape[-1], f"x is (..., d) with at least one feature, not of shape {tuple(x.shape)}")
    rows("x", x, x.shape)
    width = x.shape[-1]
    vector("weight", weight, width)
    vector("bias", bias, width)
    both("scale", scale, "shift", shift)
    if scale is not None:
        count, number = x.numel() // width, scale.shape[0] if scale.dim() else 0
        rows("scale", scale, (number, width))
        rows("shift", shift, (number, width))
        fits = count % number == 0 if number else count == 0
        require(fits, f"rows of scale divide the {count:,} rows of x, which {number:,} do not")


def _check_sum(x: Tensor, delta: Tensor, *rest: Any) -> None:
    rows("delta", delta, x.shape)
    alike(x=x, delta=delta)
    _check(x, *rest)


def _launch(
    x: Tensor, delta: Tensor | None, total: Tensor | None, out: Tensor, weight: Tensor | None, bias: Tensor | None,
    scale: Tensor | None, shift: Tensor | None, eps: float, rms: bool,
) -> Launch:  # fmt: skip
    width, count = x.shape[-1], x.numel() // x.shape[-1]
    per = 1 if scale is None else count // len(scale)
    args = (x, delta, total, out, weight, bias, scale, shift, count, width, per, eps)
    if (columns := power_of_2(width, 16)) > HELD:
        return Launch(_streamed, (count, 1, 1), args, {"COLUMNS": TILE, "RMS": rms, "WIDE": wide(x)}, 8)
    together = max(1, min(TILE // 2 // columns, power_of_2(cdiv(count, 512))))
    constants = {"ROWS": together, "COLUMNS": columns, "RMS": rms, "WIDE": wide(x)}
    num_warps = max(1, min(16, together * columns // 512))
    return Launch(_held, (cdiv(count, together), 1, 1), args, constants, num_warps)


def plan(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float,
    rms: bool,
) -> tuple[Tensor, list[Launch]]:  # fmt: skip
    """The result, and the launch that fills it."""
    out = torch.empty_like(x)
    return out, [_launch(x, None, None, out, weight, bias, scale, shift, eps, rms)]


def plan_sum(
    x: Tensor, delta: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None,
    eps: float, rms: bool,
) -> tuple[tuple[Tensor, Tensor], list[Launch]]:  # fmt: skip
    """The sum and its norm, and the launch that fills both."""
    total, out = torch.empty_like(x), torch.empty_like(x)
    return (total, out), [_launch(x, delta, total, out, weight, bias, scale, shift, eps, rms)]


def _normalised(x: Tensor, eps: float, rms: bool) -> tuple[Tensor, Tensor]:
    """x normalised, and 1 / deviation, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    x = x if rms else x - x.mean(-1, keepdim=True)
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x * inverse, inverse


def _spread(modulation: Tensor, x: Tensor) -> Tensor:
    """A modulation (r, d) as a tensor that broadcasts to x seen as (r, -1, d)."""
    return modulation.view(-1, 1, x.shape[-1])


def reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float,
    rms: bool,
) -> Tensor:  # fmt: skip
    """The same in plain torch, in float32 at least."""
    result = _normalised(x, eps, rms)[0]
    result = result if weight is None else result * weight
    result = result if bias is None else result + bias
    if scale is not None and shift is not None:
        result = result.view(len(scale), -1, x.shape[-1]) * (1 + _spread(scale, x)) + _spread(shift, x)
    return result.view(x.shape).to(x.dtype)


def reference_sum(x: Tensor, delta: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """The same in plain torch: the sum is rounded once, and its norm is that of the rounded one."""
    total = x + delta
    return total, reference(total, *rest)


def eager(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float,
    rms: bool,
) -> Tensor:  # fmt: skip
    """As models run it: torch's norm, then a product and a sum."""
    size = x.shape[-1:]
    result = F.rms_norm(x, size, weight, eps) if rms else F.layer_norm(x, size, weight, bias, eps)
    if scale is not None and shift is not None:
        result = result.view(len(scale), -1, x.shape[-1]) * (1 + _spread(scale, x)) + _spread(shift, x)
    return result.view(x.shape)


def eager_sum(x: Tensor, delta: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """As models run it: a sum, then the norm."""
    total = x + delta
    return total, eager(total, *rest)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_sum(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Every argument read once, every result written once; x and delta twice where a row is not held."""
    read = sum(stored_bytes(x) for x in args if isinstance(x, Tensor))
    if power_of_2(args[0].shape[-1], 16) > HELD:
        read += sum(size_bytes(x) for x in args[:2] if isinstance(x, Tensor) and x.shape == args[0].shape)
    return Work("norm", 0, read, sum(map(size_bytes, out)))


def _gradients(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float,
    rms: bool, grad: Tensor,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of x, weight, bias, scale and shift, the normalised x computed anew, in plain torch."""
    normalised, inverse = _normalised(x, eps, rms)
    width, grad = x.shape[-1], grad.to(normalised.dtype)
    of_scale = of_shift = None
    if scale is not None and shift is not None:
        affine = normalised if weight is None else normalised * weight
        affine = affine if bias is None else affine + bias
        grouped = grad.reshape(len(scale), grad.numel() // max(1, scale.numel()), width)
        of_scale = (grouped * affine.view(grouped.shape)).sum(1).to(scale.dtype)
        of_shift = grouped.sum(1).to(shift.dtype)
        grad = (grouped * (1 + _spread(scale, x))).view(x.shape)
    of_weight = None if weight is None else (grad * normalised).reshape(-1, width).sum(0).to(weight.dtype)
    of_bias = None if bias is None else grad.reshape(-1, width).sum(0).to(bias.dtype)
    inner = grad if weight is None else grad * weight
    spread = normalised * (inner * normalised).mean(-1, keepdim=True)
    spread = spread if rms else spread + inner.mean(-1, keepdim=True)
    return ((inner - spread) * inverse).to(x.dtype), of_weight, of_bias, of_scale, of_shift


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, ctx.rms = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_gradients(*ctx.saved_tensors, ctx.eps, ctx.rms, grad), None, None)


def _save_sum(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, _, *tensors, ctx.eps, ctx.rms = inputs
    ctx.save_for_backward(output[0], *tensors)


def _backward_sum(ctx: Any, of_total: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
    of_x, *rest = _gradients(*ctx.saved_tensors, ctx.eps, ctx.rms, grad)
    assert of_x is not None
    both = of_total + of_x
    return (both, both, *rest, None, None)


layer_norm = define(
    "layer_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor? scale, Tensor? shift, float eps, bool rms) -> Tensor",
    plan=plan,
    reference=reference,
    eager=eager,
    fake=_fake,
    work=_work,
    check=_check,
    backward=_backward,
    save=_save,
)
"""layer_norm(x, weight, bias, scale, shift, eps, rms) -> Tensor: see the module; x is contiguous."""

add_layer_norm = define(
    "add_layer_norm(Tensor x, Tensor delta, Tensor? weight, Tensor? bias, Tensor? scale, Tensor? shift, float eps,"
    " bool rms) -> (Tensor, Tensor)",
    plan=plan_sum,
    reference=reference_sum,
    eager=eager_sum,
    fake=_fake_sum,
    work=_work,
    check=_check_sum,
    backward=_backward_sum,
    save=_save_sum,
)
"""add_layer_norm(x, delta, ...) -> (x + delta, its norm): see the module; both are contiguous."""
