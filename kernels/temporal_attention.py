"""Attention of many short sequences, read as they lie in memory: over the frames of a video, one position each.

q (b, p, heads, n, d), k and v (b, p, kv_heads, m, d): p positions, n queries, m keys, at most 128 of either, any
strides with the last dimension contiguous. A projection's (b, f, p, heads d) is such a view, so that nothing is
transposed on the way in; the result lies in memory as q does, so nothing is on the way out.

Why: fused attention kernels are built for long sequences. At 16 frames 2 % of FlashAttention-2's 128 x 128 tile is
useful, a grid dimension of 65,535 limits the batch, and the sequence must be next to the head. The work is 8 FLOPs a
byte: memory bounds it. So one program takes several positions of a head at once, as one batched product with no tile
to pad beyond 16, and the grid is flat.

- up to 32 tokens: G positions a program, products of (G, n, d) and (G, d, m);
- up to 128 tokens: one position and up to 64 queries a program, 16 or 32 where keys are rotated: it takes registers.

Inside, at no cost in memory traffic: causal mask, additive bias, rotary embedding of queries and keys (heads up to 128
features, of all keys 8,192: 64 tokens of 128, 128 of 64).
Source of the problem: Golden et al. 2024, arXiv 2312.14385, section VI.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minimodels.kernels import attention_math as maths
from minimodels.kernels.attention_tiles import in_units, load, product
from minimodels.kernels.backend import INTERPRETED, target_of
from minimodels.kernels.launch import Launch, cdiv, jit, power_of_2, tl, wide
from minimodels.kernels.operands import both, require, rows
from minimodels.kernels.operator import define
from minimodels.kernels.work import Work

MOST_TOKENS, MOST_FEATURES = 128, 128  # wider heads, up to 256, with at most 32 tokens
BATCHED = 32  # tokens up to which one program takes several positions
TILE = 4096  # elements of a tile of queries, over all positions of a program
ROWS = 64  # queries of a program where it takes one position
ROTATED = 8192  # elements of all keys that registers hold rotated
ROTATED_ROWS = 16  # queries beside rotated keys of one position, at 128 features


@jit
def _rotated(base, row, column, rows, half: tl.constexpr, stride, present, cos, sin, first, second_half: tl.constexpr):
    """Half the features of rotated rows: x cos + (the other half) sin."""
    own = load(base + (half if second_half else 0), row, column, rows, half, stride, present)
    other = load(base + (0 if second_half else half), row, column, rows, half, stride, present)
    at = (first + row) * (2 * half) + column + (half if second_half else 0)
    here = (row < rows) & (column < half)
    angle = tl.load(cos + at, mask=here, other=0.0).to(tl.float32), tl.load(sin + at, mask=here, other=0.0)
    return (own.to(tl.float32) * angle[0] + other.to(tl.float32) * angle[1].to(tl.float32)).to(own.dtype)


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
    if WIDE:
        rows, keys = rows.to(tl.int64), keys.to(tl.int64)
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
        queries = load(q_at, row, feature, n, HEAD_DIM, q_n * UNIT, present)
        table = load(k_at, key, feature, m, HEAD_DIM, k_m * UNIT, present)
        scores = product(queries, tl.trans(table, 0, 2, 1) if G > 1 else tl.trans(table), UPCAST)
    else:
        half: tl.constexpr = HEAD_DIM // 2
        q_low = _rotated(q_at, row, feature, n, half, q_n * UNIT, present, cos, sin, m - n, False)
        k_low = _rotated(k_at, key, feature, m, half, k_m * UNIT, present, cos, sin, 0, False)
        scores = product(q_low, tl.trans(k_low, 0, 2, 1) if G > 1 else tl.trans(k_low), UPCAST)
        q_high = _rotated(q_at, row, feature, n, half, q_n * UNIT, present, cos, sin, m - n, True)
        k_high = _rotated(k_at, key, feature, m, half, k_m * UNIT, present, cos, sin, 0, True)
        scores += product(q_high, tl.trans(k_high, 0, 2, 1) if G > 1 else tl.trans(k_high), UPCAST)
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
    total = tl.where(total == 0.0, 1.0, total)  # of queries that see no key
    WIDTH: tl.constexpr = D if cos is None else 2 * D
    features = tl.arange(0, WIDTH)
    feature = features[None, None, :] if G > 1 else features[None, :]
    values = load(v_at, key, feature, m, HEAD_DIM, v_m * UNIT, present)
    result = product(weight.to(values.dtype), values, UPCAST) / total
    o_at = out + (batch * o_b + position * o_p + head * o_h + row * o_n) * UNIT + feature
    tl.store(o_at, result.to(out.dtype.element_ty), mask=present & (row < n) & (feature < HEAD_DIM))


def takes(q: Tensor, k: Tensor) -> bool:
    """Whether q and k are short enough."""
    longest, head_dim = max(q.shape[-2], k.shape[-2]), q.shape[-1]
    return longest <= (MOST_TOKENS if head_dim <= MOST_FEATURES else BATCHED) and head_dim <= 2 * MOST_FEATURES


def suits(q: Tensor, k: Tensor) -> bool:
    """Whether it is the kernel to take: in float32, whose products are sums in registers, larger tiles would spill."""
    small = max(q.shape[-2], k.shape[-2]) <= BATCHED and q.shape[-1] <= MOST_FEATURES // 2
    return takes(q, k) and (small or q.element_size() == 2)


def holds_rotated(q: Tensor, k: Tensor) -> bool:
    """Whether registers hold the keys rotated, in halves, and queries are the last of them."""
    (n, head_dim), m = q.shape[-2:], k.shape[-2]
    held = power_of_2(m, 16) * power_of_2(head_dim)
    return head_dim % 2 == 0 and n <= m and held <= ROTATED and head_dim <= MOST_FEATURES


def _check(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cos: Tensor | None, sin: Tensor | None, causal: bool,
    scale: float,
) -> None:  # fmt: skip
    maths.check(q, k, v, bias, causal, scale)
    limit, given = f"{MOST_TOKENS} tokens of {MOST_FEATURES} features", f"{tuple(q.shape)} and {tuple(k.shape)}"
    require(takes(q, k), f"sequences are at most {limit}, or {BATCHED} of {2 * MOST_FEATURES}, not {given}")
    both("cos", cos, "sin", sin)
    (n, m), head_dim = (q.shape[-2], k.shape[-2]), q.shape[-1]
    require(
        cos is None or head_dim % 2 == 0 and n <= m, f"halves of heads are rotated, of the last queries: not {given}"
    )
    limit = f"at most {MOST_FEATURES} features, {ROTATED:,} in all"
    require(cos is None or holds_rotated(q, k), f"keys rotated inside have {limit}; not {m} of {head_dim}")
    for name, table in (("cos", cos), ("sin", sin)):
        if table is not None:
            long = table.dim() == 2 and len(table) >= m
            require(long, f"{name} is (at least {m}, {head_dim}), not {tuple(table.shape)}")
            rows(name, table, (len(table), head_dim))


def plan(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cos: Tensor | None, sin: Tensor | None, causal: bool,
    scale: float,
) -> tuple[Tensor, list[Launch]]:  # fmt: skip
    """The result, and the launch that fills it."""
    out = maths.empty_result(q, v)
    batch, positions, heads, n, head_dim = q.shape
    m = k.shape[3]
    rows, keys = power_of_2(n, 16), power_of_2(m, 16)
    features = power_of_2(head_dim if cos is None else head_dim // 2, 16)
    width = features if cos is None else 2 * features
    together, num_warps = 1, 4
    if max(n, m) <= BATCHED:
        tile, num_warps = (TILE // 2, 2) if width == 128 else (TILE, 4)  # more would spill on sm80
        tile = tile // 2 if cos is not None and q.dtype == torch.float32 else tile
        together = min(power_of_2(positions), max(1, tile // (max(rows, keys) * width)))
    else:
        rows = min(rows, ROWS)
    if cos is not None and together == 1:
        many = keys * width > TILE and not target_of(q).startswith("gfx")
        # As many queries as eight warps store 16 bytes a lane of
        rows, num_warps = (ROTATED_ROWS * MOST_FEATURES // width, 8) if many else (ROTATED_ROWS, 4)
    elif rows * keys > 4096 or together * rows * width > TILE:
        num_warps = 8
    bias_strides = (0, 0, 0, 0, 0) if bias is None else bias.expand(*q.shape[:-1], m).stride()
    unit, strides = in_units(q, k, v, out, dims=4)
    args = (
        q, k, v, out, bias, cos, sin,
        *strides, *bias_strides, positions, heads, n, m, scale,
    )  # fmt: skip
    constants = {
        "G": together, "N": rows, "M": keys, "D": features, "HEAD_DIM": head_dim, "GROUP": heads // k.shape[2],
        "CAUSAL": causal, "WIDE": wide(q, k, v, out, bias),
        "UPCAST": INTERPRETED and q.dtype == torch.bfloat16, "UNIT": unit,
    }  # fmt: skip
    programs = batch * cdiv(positions, together) * cdiv(n, rows) * heads
    return out, [Launch(_attend, (programs, 1, 1), args, constants, num_warps)]


def reference(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cos: Tensor | None, sin: Tensor | None, causal: bool,
    scale: float,
) -> Tensor:  # fmt: skip
    """The same in plain torch, in float32 at least."""
    return maths.attend(q, k, v, bias, causal, scale, cos, sin)


def eager(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cos: Tensor | None, sin: Tensor | None, causal: bool,
    scale: float,
) -> Tensor:  # fmt: skip
    """torch's fused attention, positions folded into the batch."""
    return maths.attend_eagerly(q, k, v, bias, causal, scale, cos, sin)


def _fake(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
    return maths.empty_result(q, v)


def _work(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
    return maths.work(*args[:6], out=out)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.causal, ctx.scale = inputs
    if any(ctx.needs_input_grad[4:6]):
        raise RuntimeError("temporal_attention has no gradient for rotary tables: they are computed, not trained")
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v and bias, in plain torch."""
    q, k, v, bias, cos, sin = ctx.saved_tensors
    return *maths.gradients(grad, q, k, v, bias, ctx.causal, ctx.scale, cos, sin), None, None, None, None


temporal_attention = define(
    "temporal_attention(Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? cos, Tensor? sin, bool causal, float scale)"
    " -> Tensor",
    plan=plan,
    reference=reference,
    eager=eager,
    fake=_fake,
    work=_work,
    check=_check,
    backward=_backward,
    save=_save,
)
"""temporal_attention(q, k, v, bias, cos, sin, causal, scale) -> Tensor: see the module.

bias: added to the scaled scores, broadcast to (b, p, heads, n, m); cos, sin: (at least m, d), of `RotaryTable`, queries
being the last n of m positions.
"""
