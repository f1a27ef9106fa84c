"""Which of our attention kernels takes a call.

- `temporal_attention`: at most 128 queries and keys, two batch dimensions or one.
"""

from __future__ import annotations

from torch import Tensor

from minimodels.kernels import temporal_attention as short


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float) -> Tensor:
    """q (*batch, heads, n, d), k and v (*batch, kv_heads, m, d) -> (*batch, heads, n, d)."""
    batch = q.shape[:-3]
    if len(batch) == 1:  # no positions: the batch takes their place
        q, k, v = (x[None] for x in (q, k, v))
    elif len(batch) != 2:
        q, k, v = (x.reshape(1, -1, *x.shape[-3:]) for x in (q, k, v))
    out = short.temporal_attention(q, k, v, bias, None, None, causal, scale)
    return out[0] if len(batch) == 1 else out.reshape(*batch, *out.shape[2:]) if len(batch) != 2 else out
