"""Which of our attention kernels takes a call.

- `temporal_attention`: at most 128 queries and keys;
- `cross_attention`: more queries, at most 128 keys, all of which a program holds;
- `decode_attention`: a few queries whose keys are appended to a cache;
- `flash_attention`: all others, up to 256 features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minimodels.kernels import cross_attention as cross
from minimodels.kernels import decode_attention as decode
from minimodels.kernels import flash_attention as flash
from minimodels.kernels import temporal_attention as short
from minimodels.kernels.attention_math import empty_result


def attend(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float, cos: Tensor | None = None,
    sin: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """q (*batch, heads, n, d), k and v (*batch, kv_heads, m, d) -> (*batch, heads, n, d); cos, sin: `rotates` says."""
    batch = q.shape[:-3]
    if not q.numel():
        return empty_result(q, v)
    q, k, v = (beside(x) for x in (q, k, v))
    if len(batch) == 1:  # no positions: the batch takes their place
        q, k, v = (x[None] for x in (q, k, v))
    elif len(batch) != 2:
        q, k, v = (x.reshape(1, -1, *x.shape[-3:]) for x in (q, k, v))
        bias = bias if bias is None or bias.dim() < 4 else _folded(bias, batch)
    if short.suits(q, k):
        out = short.temporal_attention(q, k, v, bias, cos, sin, causal, scale)
    elif bias is None and not causal and cross.takes(q, k):
        out = cross.cross_attention(q, k, v, scale)
    else:
        out = flash.flash_attention(q, k, v, bias, causal, scale)
    return out[0] if len(batch) == 1 else out.reshape(*batch, *out.shape[2:]) if len(batch) != 2 else out


def rotates(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether `attend` rotates q and k (*batch, heads, n, d) by tables cos and sin (length, d) inside."""
    lies = cos.is_contiguous() and sin.is_contiguous() and q.numel() > 0
    trained = torch.is_grad_enabled() and (cos.requires_grad or sin.requires_grad)
    return lies and not trained and short.suits(q, k) and short.holds_rotated(q, k)


def takes_cache(q: Tensor, k: Tensor) -> bool:
    """Whether queries are few enough for one launch to append their keys and attend."""
    return decode.takes(q, k) and q.numel() > 0


def attend_with_cache(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, pos: int, bias: Tensor | None, scale: float
) -> Tensor:
    """q (b, heads, n, d) -> the same; k, v (b, kv_heads, n, d) go into keys, values (b, kv_heads, capacity, d)."""
    q, k, v = (beside(x) for x in (q, k, v))
    return decode.decode_attention(q, k, v, keys, values, bias, None, pos, scale)


def beside(x: Tensor) -> Tensor:
    """x with its features beside each other: a copy, which a profile shows, where they are not."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _folded(bias: Tensor, batch: tuple[int, ...]) -> Tensor:
    """The bias with its batch dimensions folded as those of the queries are."""
    return bias.expand(*batch, *bias.shape[-3:]).reshape(1, -1, *bias.shape[-3:])
