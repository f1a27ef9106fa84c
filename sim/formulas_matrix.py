"""Formulas of what multiplies matrices: products, convolutions, attention, distances.

FLOPs are 2 x multiply-accumulates and equal torch's FlopCounterMode. `Work.gemm` holds the product as
(batch, m, n, k), or (groups, pixels, channels, taps) for a convolution.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor

from minimodels.kernels.layout import LAST
from minimodels.kernels.work import Conv, Work, is_direct, size_bytes, stored_bytes
from minimodels.sim.traffic import convolved_format, copying, one_dimension, reordered, traffic, turned

MANY_POINTS = 25  # from here on torch computes distances as a product


def copy_bytes(x: Tensor) -> int:
    """Bytes of the contiguous copy that a matrix product makes of x, 0 if its strides will do."""
    if x.dim() < 2 or x.is_contiguous():
        return 0
    rows, columns = x.stride(-2), x.stride(-1)
    plain = (columns == 1 and rows >= max(1, x.shape[-1])) or (rows == 1 and columns >= max(1, x.shape[-2]))
    batch = one_dimension(x.shape[:-2], x.stride()[:-2])
    return 0 if plain and batch else size_bytes(x)


def _gemm(batch: int, m: int, n: int, k: int, read: int, written: int, operands: tuple[Tensor, ...]) -> Work:
    """A product; operands: those that it copies, if their strides will not do."""
    work = Work("gemm", 2 * batch * m * n * k, read, written, 1, (batch, m, n, k))
    copies = [copy_bytes(x) for x in operands]
    across = sum(turned(x) for x, size in zip(operands, copies, strict=True) if size)
    return copying(work, *copies, turned=across)


def linear(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    x, weight = args[0], args[1]
    read, written = traffic(args, kwargs, out)
    n, k = weight.shape
    rows = x if x.dim() <= 2 else _rows(x)
    if rows is None:  # they do not view as one dimension: torch multiplies sample by sample
        work = _gemm(prod(x.shape[:-2]), x.shape[-2], n, k, read, written, (x,))
    else:
        work = _gemm(1, rows.numel() // k, n, k, read, written, (rows,))
    if x.dim() <= 2 or x.is_contiguous() or len(args) < 3 or args[2] is None:
        return work
    # addmm takes a bias with contiguous rows only: here it is added afterwards
    apart = replace(work, bytes_read=work.bytes_read + written, bytes_written=work.bytes_written + written)
    return replace(apart, launches=work.launches + 1)


def _rows(x: Tensor) -> Tensor | None:
    """x (..., k) seen as (rows, k), or None where that takes a copy."""
    try:
        return x.view(-1, x.shape[-1])
    except RuntimeError:
        return None


def matmul(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    a, b = args[0], args[1]
    read, written = traffic(args, kwargs, out)
    batch = prod(out[0].shape[:-2]) if a.dim() > 2 or b.dim() > 2 else 1
    m = a.shape[-2] if a.dim() > 1 else 1
    n = b.shape[-1] if b.dim() > 1 else 1
    return _gemm(batch, m, n, a.shape[-1], read, written, (a, b))


def addmm(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    read, written = traffic(args, kwargs, out)
    added, a, b = args[:3]
    if kwargs.get("beta", 1) == 0:  # then it only says a shape
        read -= stored_bytes(added)
    batch = a.shape[0] if a.dim() == 3 else 1
    return _gemm(batch, a.shape[-2], b.shape[-1], a.shape[-1], read, written, (a, b))


def convolution(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    (x, weight), (y,) = args[:2], out
    groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
    stride = args[3] if len(args) > 3 else kwargs.get("stride", 1)
    dilation = args[5] if len(args) > 5 else kwargs.get("dilation", 1)
    read, written = traffic(args, kwargs, out)
    pixels = y.shape[0] * prod(y.shape[2:])
    channels, taps = weight.shape[0] // groups, prod(weight.shape[1:])
    flops = 2 * groups * pixels * channels * taps
    bias = len(args) > 2 and args[2] is not None or kwargs.get("bias") is not None
    direct = is_direct(weight.shape[2:], stride, dilation)
    sizes = size_bytes(x), size_bytes(weight), size_bytes(y)
    conv = Conv(weight.shape[1], *sizes, _channels_last(x, weight), bias, direct=direct)
    work = Work("conv", flops, read, written, 1, (groups, pixels, channels, taps), conv=conv)
    return reordered(work, x, weight)


def _channels_last(x: Tensor, weight: Tensor) -> bool:
    """Whether x is convolved as the kernels of tensor cores take it: channels beside each other."""
    wanted, last = convolved_format(x, weight), LAST.get(x.dim())
    return x.shape[1] == 1 or last is not None and (wanted is last or x.is_contiguous(memory_format=last))


def transposed_convolution(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Every pixel of x gives a patch of y: channels count the places of the patch, taps are those of x."""
    x, weight = args[:2]
    groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
    read, written = traffic(args, kwargs, out)
    pixels = x.shape[0] * prod(x.shape[2:])
    channels, taps = prod(weight.shape[1:]), weight.shape[0] // groups
    work = Work("conv", 2 * groups * pixels * channels * taps, read, written, 1, (groups, pixels, channels, taps))
    return reordered(work, x, weight)


def attention(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    q, k, v = args[:3]
    read, written = traffic(args, kwargs, out)
    batch_heads, n, m = prod(q.shape[:-2]), q.shape[-2], k.shape[-2]
    return Work("attention", 2 * batch_heads * n * m * (q.shape[-1] + v.shape[-1]), read, written)


def math_attention(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """torch's fallback, pass by pass as on a CPU of torch 2.13; half precision is widened to float32 and back.

    Source: torch/native/transformers/attention.cpp, _scaled_dot_product_attention_math and _safe_softmax.
    """
    q, k, v = args[:3]
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    causal = args[5] if len(args) > 5 else kwargs.get("is_causal", False)
    n, m, narrow = q.shape[-2], k.shape[-2], q.element_size()
    wide, pairs = max(4, narrow), prod(q.shape[:-1]) * m
    scores, (q_wide, k_wide, v_wide, y_wide) = pairs * wide, (x.numel() * wide for x in (q, k, v, out[0]))
    passes = [(q_wide, q_wide), (k_wide, k_wide), (q_wide + k_wide, scores)]  # scale both, multiply
    masked = 0
    if causal:  # ones, their lower triangle, 0 and -inf in its place
        masked = n * m * wide
        passes += [(0, n * m), (n * m, n * m), (n * m, masked), (n * m, masked)]
    if causal or mask is not None:
        passes += [(scores + masked + (0 if mask is None else stored_bytes(mask)), scores)]
    passes += [
        (scores, scores),
        (scores, pairs),
        (pairs, 0),
        (scores, scores),
    ]  # softmax; rows that see nothing become 0
    passes += [(scores + v_wide, y_wide)]
    widened = 0
    if narrow < wide:
        widened = q_wide + k_wide + v_wide
        passes += [(x.numel() * narrow, x.numel() * wide) for x in (q, k, v)]
        passes += [(scores, pairs * narrow), (y_wide, out[0].numel() * narrow)]
    read, written = (sum(column) for column in zip(*passes, strict=True))
    multiplied, softened = k_wide + scores, 2 * scores + pairs  # what is alive beside the scaled q, step by step
    narrowed = scores + pairs * narrow + y_wide + size_bytes(out[0]) if widened else 0
    held = max(multiplied, softened, narrowed) + q_wide + widened + masked - size_bytes(out[0])
    product = (prod(q.shape[:-2]), n, m, q.shape[-1])
    flops = attention(args, kwargs, out).flops
    return Work("math", flops, read, written, len(passes), product, max(0, held))


def cdist(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """Distances |a - b|^2 = [-2a, |a|^2, 1] [b, 1, |b|^2]^T: one product where there are many, else one kernel.

    Source: torch/native/Distance.cpp, cdist_impl and _euclidean_dist.
    """
    a, b = args[:2]
    power = args[2] if len(args) > 2 else kwargs.get("p", 2.0)
    mode = args[3] if len(args) > 3 else kwargs.get("compute_mode")
    (n, d), m, batch = a.shape[-2:], b.shape[-2], prod(out[0].shape[:-2])
    if power != 2 or not (mode == 1 or mode in (None, 0) and max(n, m) > MANY_POINTS):
        return Work("norm", 0, *traffic(args, kwargs, out))
    points, rows, distances = size_bytes(a) + size_bytes(b), batch * (n + m) * a.element_size(), size_bytes(out[0])
    extended = points + 2 * rows
    # squares, their sums, ones, -2a, both rows joined; the product; two passes over the result, in place
    read = 3 * points + size_bytes(a) + 2 * rows + extended + 2 * distances
    written = points + 2 * rows + size_bytes(a) + extended + 3 * distances
    return Work("gemm", 2 * batch * n * m * (d + 2), read, written, 12, (batch, n, m, d + 2), extended)
