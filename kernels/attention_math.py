"""Attention in plain torch: what our attention kernels are held against, their gradient, their work.

q (*batch, heads, n, d), k and v (*batch, kv_heads, m, d); bias: added to the scaled scores, broadcast to
(*batch, heads, n, m); cos, sin: (at least m, d), rotary tables, queries being the last n of m positions. A query from
which the bias hides all keys has the result zero. All is computed in float32 at least; float64 stays float64.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minimodels.kernels import attention_check
from minimodels.kernels.operands import require
from minimodels.kernels.work import Work, stored_bytes


def empty_result(q: Tensor, v: Tensor) -> Tensor:
    """A result dense in memory, its dimensions in the order of q's: laid out as q, it goes out without a copy."""
    order = sorted(range(q.dim()), key=q.stride().__getitem__, reverse=True)
    return torch.empty_permuted((*q.shape[:-1], v.shape[-1]), order, dtype=q.dtype, device=q.device)


def check(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float, dims: int = 5) -> None:
    """What our kernels take: `dims` dimensions, features beside each other, and what `attention_check` asks."""
    attention_check.check(q, k, v, causal, bias, scale)
    require(q.dim() == dims, f"queries have {dims} dimensions, not shape {tuple(q.shape)}")
    beside = all(x.stride(-1) == 1 or x.shape[-1] == 1 or not x.numel() for x in (q, k, v))
    require(beside, f"features lie beside each other, not in strides {q.stride()}, {k.stride()}, {v.stride()}")


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float,
    cos: Tensor | None = None, sin: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The result, by the definition."""
    weights, _, _ = _weights(q, k, bias, causal, scale, cos, sin)
    values = v.to(weights.dtype).repeat_interleave(q.shape[-3] // v.shape[-3], -3)
    return empty_result(q, v).copy_(weights @ values)


def attend_eagerly(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float,
    cos: Tensor | None = None, sin: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """What torch offers: rotation in two passes, and its fused attention on two batch dimensions folded into one."""
    n, m = q.shape[-2], k.shape[-2]
    if cos is not None and sin is not None:
        q, k = _rotate(q, cos, sin, m - n), _rotate(k, cos, sin, 0)
    if causal and (n != m or bias is not None):
        hidden = torch.zeros(n, m, dtype=q.dtype, device=q.device).masked_fill(future(n, m, q.device), float("-inf"))
        bias, causal = hidden if bias is None else bias + hidden, False
    if bias is not None:
        bias = bias.to(q.dtype).expand(*q.shape[:-1], m).flatten(0, 1)
    folded = (x.flatten(0, 1) for x in (q, k, v))
    out = F.scaled_dot_product_attention(
        *folded, attn_mask=bias, is_causal=causal, scale=scale, enable_gqa=q.shape[-3] != k.shape[-3]
    )
    return out.unflatten(0, q.shape[:2])


def gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float,
    cos: Tensor | None = None, sin: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of q, k, v and bias, the weights computed anew."""
    weights, q_wide, k_wide = _weights(q, k, bias, causal, scale, cos, sin)
    grad, group, (n, m) = grad.to(weights.dtype), q.shape[-3] // k.shape[-3], weights.shape[-2:]
    values = v.to(weights.dtype).repeat_interleave(group, -3)
    of_weights = grad @ values.transpose(-1, -2)
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True))
    of_q, of_k = of_scores @ k_wide * scale, of_scores.transpose(-1, -2) @ q_wide * scale
    of_v = weights.transpose(-1, -2) @ grad
    if cos is not None and sin is not None:
        cos, sin = cos.to(weights.dtype), sin.to(weights.dtype)
        of_q, of_k = _rotate_back(of_q, cos, sin, m - n), _rotate_back(of_k, cos, sin, 0)
    of_k, of_v = (x.unflatten(-3, (-1, group)).sum(-3) for x in (of_k, of_v))
    of_bias = None
    if bias is not None:
        padded = (1,) * (q.dim() - bias.dim()) + tuple(bias.shape)
        of_bias = of_scores.sum_to_size(padded).view(bias.shape).to(bias.dtype)
    return of_q.to(q.dtype), of_k.to(k.dtype), of_v.to(v.dtype), of_bias


def work(q: Tensor, k: Tensor, v: Tensor, *others: Any, out: tuple[Tensor, ...]) -> Work:
    """n m (d + d') multiply-adds a head; every argument is read once, the result written once.

    As torch counts them: keys that causal queries do not see are counted too.
    """
    pairs = q.shape[:-1].numel() * k.shape[-2]
    read = sum(stored_bytes(x) for x in (q, k, v, *others) if isinstance(x, Tensor))
    return Work("attention", 2 * pairs * (q.shape[-1] + v.shape[-1]), read, sum(map(stored_bytes, out)))


def future(n: int, m: int, device: torch.device) -> Tensor:
    """What the last n of m positions do not see, true in (n, m)."""
    return torch.ones(n, m, dtype=torch.bool, device=device).triu(m - n + 1)


def _weights(
    q: Tensor, k: Tensor, bias: Tensor | None, causal: bool, scale: float, cos: Tensor | None, sin: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax of the scores, and the queries and keys they come from, keys for every head."""
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
        scores = scores.masked_fill(future(n, m, q.device), float("-inf"))
    if bias is None:
        return scores.softmax(-1), q, k
    blind = (scores == float("-inf")).all(-1, keepdim=True)  # a softmax of -inf alone is NaN, its gradient too
    return scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0), q, k


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, first: int) -> Tensor:
    rows = slice(first, first + x.shape[-2])
    return x * cos[rows] + x.roll(x.shape[-1] // 2, -1) * sin[rows]


def _rotate_back(x: Tensor, cos: Tensor, sin: Tensor, first: int) -> Tensor:
    rows = slice(first, first + x.shape[-2])
    return x * cos[rows] + (x * sin[rows]).roll(x.shape[-1] // 2, -1)
