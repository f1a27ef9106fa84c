"""Attention of many short sequences, read as they lie in memory: over the frames of a video, one position each.

q (b, p, heads, n, d), k and v (b, p, kv_heads, m, d): p positions, n queries, m keys, at most 128 of either, any
strides with the last dimension contiguous. A projection's (b, f, p, heads d) is such a view, so that nothing is
transposed on the way in; the result lies in memory as q does, so nothing is on the way out.

Why: fused attention kernels are built for long sequences. At 16 frames 2 % of FlashAttention-2's 128 x 128 tile is
useful, a grid dimension of 65,535 limits the batch, and the sequence must be next to the head. The work is 8 FLOPs a
byte: memory bounds it. So one program takes several positions of a head at once, as one batched product with no tile
to pad beyond 16, and the grid is flat.

- up to 32 tokens: G positions a program, products of (G, n, d) and (G, d, m);
- up to 128 tokens: one position and up to 64 queries a program.

Inside, at no cost in memory traffic: causal mask, additive bias, rotary embedding of queries and keys.
Source of the problem: Golden et al. 2024, arXiv 2312.14385, section VI.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minimodels.kernels.backend import INTERPRETED
from minimodels.kernels.launch import Launch, cdiv, jit, power_of_2, tl, wide
from minimodels.kernels.operator import define
from minimodels.kernels.work import Work, stored_bytes

MOST_TOKENS, MOST_FEATURES = 128, 128  # wider heads, up to 256, with at most 32 tokens
BATCHED = 32  # tokens up to which one program takes several positions
TILE = 4096  # elements of a tile of queries, over all positions of a program
ROWS = 64  # queries of a program where it takes one position
UNIT = 8  # elements: what strides are multiples of, so that rows of 40 features too are read 16 bytes at once
LOG2_E = 1.4426950408889634


@jit
def _load(base, row, column, rows, columns, stride, present):
    """Rows of a tile (..., rows, columns): zero where a row or a column does not exist."""
    return tl.load(base + row * stride + column, mask=present & (row < rows) & (column < columns), other=0.0)


@jit
def _rotated(base, row, column, rows, half: tl.constexpr, stride, present, cos, sin, first, second_half: tl.constexpr):
    """Half the features of rotated rows: x cos + (the other half) sin."""
    own = _load(base + (half if second_half else 0), row, column, rows, half, stride, present)
    other = _load(base + (0 if second_half else half), row, column, rows, half, stride, present)
    at = (first + row) * (2 * half) + column + (half if second_half else 0)
    here = (row < rows) & (column < half)
    angle = tl.load(cos + at, mask=here, other=0.0).to(tl.float32), tl.load(sin + at, mask=here, other=0.0)
    return (own.to(tl.float32) * angle[0] + other.to(tl.float32) * angle[1].to(tl.float32)).to(own.dtype)


@jit
def _product(a, b, upcast: tl.constexpr):
    """a @ b in float32; `upcast`: the interpreter cannot multiply bfloat16."""
    if upcast:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision="ieee")


@jit
def _attend(
    q, k, v, out, bias, cos, sin,
    q_b, q_p, q_h, q_n, k_b, k_p, k_h, k_m, v_b, v_p, v_h, v_m, o_b, o_p, o_h, o_n,
    bias_b, bias_p, bias_h, bias_n, bias_m,
    positions, heads, n, m, scale,
    G: tl.constexpr, N: tl.constexpr, M: tl.constexpr, D: tl.constexpr, HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr, CAUSAL: tl.constexpr, WIDE: tl.constexpr, UPCAST: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """G positions of one head: tiles (G, N, D) where G > 1, else (N, D). Strides of q, k, v, out are in UNITs."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    head, rest = program % heads, program // heads
    row_blocks, position_blocks = tl.cdiv(n, N), tl.cdiv(positions, G)
    first_row, rest = (rest % row_blocks) * N, rest // row_blocks
    batch, first = rest // position_blocks, (rest % position_blocks) * G
    kv_head = head // GROUP
    rows, keys, features = tl.arange(0, N), tl.arange(0, M), tl.arange(0, D)
    if G > 1:
        position = (first + tl.arange(0, G))[:, None, None]
        row, key = first_row + rows[None, :, None], keys[None, :, None]
        feature, query, column = features[None, None, :], first_row + rows[None, :, None], keys[None, None, :]
    else:
        position = first
        row, key = first_row + rows[:, None], keys[:, None]
        feature, query, column = features[None, :], first_row + rows[:, None], keys[None, :]
    present = position < positions
    q_at = q + (batch * q_b + position * q_p + head * q_h) * UNIT
    k_at = k + (batch * k_b + position * k_p + kv_head * k_h) * UNIT
    v_at = v + (batch * v_b + position * v_p + kv_head * v_h) * UNIT
    if cos is None:
        queries = _load(q_at, row, feature, n, HEAD_DIM, q_n * UNIT, present)
        table = _load(k_at, key, feature, m, HEAD_DIM, k_m * UNIT, present)
        scores = _product(queries, tl.trans(table, 0, 2, 1) if G > 1 else tl.trans(table), UPCAST)
    else:
        half: tl.constexpr = HEAD_DIM // 2
        q_low = _rotated(q_at, row, feature, n, half, q_n * UNIT, present, cos, sin, m - n, False)
        k_low = _rotated(k_at, key, feature, m, half, k_m * UNIT, present, cos, sin, 0, False)
        scores = _product(q_low, tl.trans(k_low, 0, 2, 1) if G > 1 else tl.trans(k_low), UPCAST)
        q_high = _rotated(q_at, row, feature, n, half, q_n * UNIT, present, cos, sin, m - n, True)
        k_high = _rotated(k_at, key, feature, m, half, k_m * UNIT, present, cos, sin, 0, True)
        scores += _product(q_high, tl.trans(k_high, 0, 2, 1) if G > 1 else tl.trans(k_high), UPCAST)
    scores *= scale * 1.4426950408889634
    if bias is not None:
        added = bias + batch * bias_b + position * bias_p + head * bias_h + query * bias_n + column * bias_m
        shown = present & (query < n) & (column < m)
        scores += tl.load(added, mask=shown, other=0.0).to(tl.float32) * 1.4426950408889634
    seen = column < m
    if CAUSAL:
        seen = seen & (column <= query + (m - n))
    scores = tl.where(seen, scores, float("-inf"))
    axis: tl.constexpr = 2 if G > 1 else 1
    highest = tl.max(scores, axis, keep_dims=True)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    weight = tl.exp2(scores - highest)
    total = tl.sum(weight, axis, keep_dims=True)
    WIDTH: tl.constexpr = D if cos is None else 2 * D
    features = tl.arange(0, WIDTH)
    feature = features[None, None, :] if G > 1 else features[None, :]
    values = _load(v_at, key, feature, m, HEAD_DIM, v_m * UNIT, present)
    result = _product(weight.to(values.dtype), values, UPCAST) / total
    o_at = out + (batch * o_b + position * o_p + head * o_h + row * o_n) * UNIT + feature
    tl.store(o_at, result.to(out.dtype.element_ty), mask=present & (row < n) & (feature < HEAD_DIM))


def takes(q: Tensor, k: Tensor) -> bool:
    """Whether q and k are short enough."""
    longest = max(q.shape[-2], k.shape[-2])
    return longest <= (MOST_TOKENS if q.shape[-1] <= MOST_FEATURES else BATCHED)


def plan(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cos: Tensor | None, sin: Tensor | None, causal: bool,
    scale: float,
) -> tuple[Tensor, list[Launch]]:  # fmt: skip
    """The result, and the launch that fills it."""
    assert takes(q, k), f"at most {MOST_TOKENS} tokens of {MOST_FEATURES} features: {tuple(q.shape)}, {tuple(k.shape)}"
    out = _empty(q, v)
    batch, positions, heads, n, head_dim = q.shape
    m = k.shape[3]
    rows, keys = power_of_2(n, 16), power_of_2(m, 16)
    features = power_of_2(head_dim if cos is None else head_dim // 2, 16)
    width = features if cos is None else 2 * features
    together, num_warps = 1, 4
    if max(n, m) <= BATCHED:
        tile, num_warps = (TILE // 2, 2) if width == 128 else (TILE, 4)  # more would spill on sm80
        together = min(power_of_2(positions), max(1, tile // (max(rows, keys) * width)))
    else:
        rows = min(rows, ROWS)
    bias_strides = (0, 0, 0, 0, 0) if bias is None else bias.expand(*q.shape[:-1], m).stride()
    strides = [stride for x in (q, k, v, out) for stride in x.stride()[:4]]
    unit = UNIT if all(stride % UNIT == 0 for stride in strides) else 1
    args = (
        q, k, v, out, bias, cos, sin,
        *(stride // unit for stride in strides), *bias_strides, positions, heads, n, m, scale,
    )  # fmt: skip
    constants = {
        "G": together, "N": rows, "M": keys, "D": features, "HEAD_DIM": head_dim, "GROUP": heads // k.shape[2],
        "CAUSAL": causal, "WIDE": wide(q, k, v, out, bias),
        "UPCAST": INTERPRETED and q.dtype == torch.bfloat16, "UNIT": unit,
    }  # fmt: skip
    programs = batch * cdiv(positions, together) * cdiv(n, rows) * heads
    if rows * keys > 4096 or together * rows * width > TILE:
        num_warps = 8
    return out, [Launch(_attend, (programs, 1, 1), args, constants, num_warps)]


def _empty(q: Tensor, v: Tensor) -> Tensor:
    """A result dense in memory, its dimensions in the order of q's."""
    order = sorted(range(q.dim()), key=q.stride().__getitem__, reverse=True)
    return torch.empty_permuted((*q.shape[:-1], v.shape[-1]), order, dtype=q.dtype, device=q.device)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, first: int) -> Tensor:
    rows = slice(first, first + x.shape[-2])
    return x * cos[rows] + x.roll(x.shape[-1] // 2, -1) * sin[rows]


def _weights(
    q: Tensor, k: Tensor, bias: Tensor | None, cos: Tensor | None, sin: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax of the scores, and the queries and keys they come from, in float32 at least, keys for every head."""
    wide_type = torch.promote_types(q.dtype, torch.float32)
    n, m, group = q.shape[-2], k.shape[-2], q.shape[-3] // k.shape[-3]
    q, k = q.to(wide_type), k.to(wide_type).repeat_interleave(group, -3)
    if cos is not None and sin is not None:
        cos, sin = cos.to(wide_type), sin.to(wide_type)
        q, k = _rotate(q, cos, sin, m - n), _rotate(k, cos, sin, 0)
    scores = q @ k.transpose(-1, -2) * scale
    if bias is not None:
        scores = scores + bias
    if causal:
        future = torch.ones(n, m, dtype=torch.bool, device=q.device).triu(m - n + 1)
        scores = scores.masked_fill(future, float("-inf"))
    return scores.softmax(-1), q, k


def reference(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cos: Tensor | None, sin: Tensor | None, causal: bool,
    scale: float,
) -> Tensor:  # fmt: skip
    """The same in plain torch, in float32 at least."""
    weights, _, _ = _weights(q, k, bias, cos, sin, causal, scale)
    values = v.to(weights.dtype).repeat_interleave(q.shape[-3] // v.shape[-3], -3)
    return _empty(q, v).copy_(weights @ values)


def eager(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cos: Tensor | None, sin: Tensor | None, causal: bool,
    scale: float,
) -> Tensor:  # fmt: skip
    """What torch offers: rotation in two passes, and its fused attention on positions folded into the batch."""
    n, m = q.shape[-2], k.shape[-2]
    if cos is not None and sin is not None:
        q, k = _rotate(q, cos, sin, m - n), _rotate(k, cos, sin, 0)
    if causal and (n != m or bias is not None):
        future = torch.ones(n, m, dtype=torch.bool, device=q.device).triu(m - n + 1)
        hidden = torch.zeros(n, m, dtype=q.dtype, device=q.device).masked_fill(future, float("-inf"))
        bias, causal = hidden if bias is None else bias + hidden, False
    if bias is not None:
        bias = bias.expand(*q.shape[:-1], m).flatten(0, 1)
    folded = (x.flatten(0, 1) for x in (q, k, v))
    out = F.scaled_dot_product_attention(
        *folded, attn_mask=bias, is_causal=causal, scale=scale, enable_gqa=q.shape[2] != k.shape[2]
    )
    return out.unflatten(0, q.shape[:2])


def _fake(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
    return _empty(q, v)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    """4 n m d multiply-adds a head and position; every argument read once, the result written once."""
    q, k, v = args[:3]
    pairs = q.shape[0] * q.shape[1] * q.shape[2] * q.shape[3] * k.shape[3]
    read = sum(stored_bytes(x) for x in args[:6] if x is not None)
    return Work("attention", 2 * pairs * (q.shape[4] + v.shape[4]), read, sum(map(stored_bytes, out)))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.causal, ctx.scale = inputs
    if any(ctx.needs_input_grad[4:6]):
        raise RuntimeError("temporal_attention has no gradient for rotary tables: they are computed, not trained")
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v and bias, the weights computed anew, in plain torch."""
    q, k, v, bias, cos, sin = ctx.saved_tensors
    weights, q_wide, k_wide = _weights(q, k, bias, cos, sin, ctx.causal, ctx.scale)
    grad, group, (n, m) = grad.to(weights.dtype), q.shape[-3] // k.shape[-3], weights.shape[-2:]
    values = v.to(weights.dtype).repeat_interleave(group, -3)
    of_weights = grad @ values.transpose(-1, -2)
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True))
    of_q, of_k = of_scores @ k_wide * ctx.scale, of_scores.transpose(-1, -2) @ q_wide * ctx.scale
    of_v = weights.transpose(-1, -2) @ grad
    if cos is not None:
        cos, sin = cos.to(weights.dtype), sin.to(weights.dtype)
        of_q, of_k = _rotate_back(of_q, cos, sin, m - n), _rotate_back(of_k, cos, sin, 0)
    of_k, of_v = (x.unflatten(-3, (-1, group)).sum(-3) for x in (of_k, of_v))
    of_bias = None if bias is None else of_scores.sum_to_size(_padded(bias)).view(bias.shape).to(bias.dtype)
    return of_q.to(q.dtype), of_k.to(k.dtype), of_v.to(v.dtype), of_bias, None, None, None, None


def _rotate_back(x: Tensor, cos: Tensor, sin: Tensor, first: int) -> Tensor:
    rows = slice(first, first + x.shape[-2])
    return x * cos[rows] + (x * sin[rows]).roll(x.shape[-1] // 2, -1)


def _padded(bias: Tensor) -> tuple[int, ...]:
    return (1,) * (5 - bias.dim()) + tuple(bias.shape)


temporal_attention = define(
    "temporal_attention(Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? cos, Tensor? sin, bool causal, float scale)"
    " -> Tensor",
    plan=plan,
    reference=reference,
    eager=eager,
    fake=_fake,
    work=_work,
    backward=_backward,
    save=_save,
)
"""temporal_attention(q, k, v, bias, cos, sin, causal, scale) -> Tensor: see the module.

bias: added to the scaled scores, broadcast to (b, p, heads, n, m); cos, sin: (at least m, d), of `RotaryTable`, queries
being the last n of m positions.
"""
