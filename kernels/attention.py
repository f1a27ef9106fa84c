"""Scaled dot-product attention: the one entrance, its backends, and what each of them cannot do.

softmax(q k^T * scale + bias) v, with q (*batch, heads, n, d), k and v (*batch, kv_heads, m, d).

- `baseline` materialises the n x m matrix on contiguous 3-D tensors, so that every copy and every pass over
  the matrix is an operator of its own. The softmax keeps the input's dtype (float32 accumulation inside).
- `flash`, `efficient`, `cudnn` are torch's fused kernels. `flash` is a policy: the flash kernel where its
  limits allow, `efficient` where they do not. A name with "!" pins the kernel: a call it cannot do raises.
- `sdpa` leaves the choice to torch.

The backend is a property of the run: `with attention_backend("flash"): ...`. `target` names the architecture
whose limits and preferences decide on `meta` tensors ("sm80", "gfx942", "cpu"); on real tensors it is their
device's own. Source of limits and order: torch/native/transformers/cuda/sdp_utils.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from minimodels.kernels.scope import CORE, AttentionCall, scope

BACKENDS = ("sdpa", "baseline", "flash", "flash!", "efficient", "efficient!", "cudnn", "cudnn!")
MAX_GRID = 65535  # batch and heads are grid dimensions of the flash and cuDNN kernels
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class _Choice:
    name: str
    target: str


_choice = _Choice("sdpa", "cpu")


@contextmanager
def attention_backend(name: str, target: str = "cpu") -> Iterator[None]:
    """Run every `attention()` inside with backend `name`; `target` decides on `meta` tensors.

    Raises:
        ValueError: there is no such backend.
    """
    global _choice
    if name not in BACKENDS:
        raise ValueError(f"unknown attention backend {name!r}; allowed: {', '.join(BACKENDS)}")
    before, _choice = _choice, _Choice(name, target)
    try:
        yield
    finally:
        _choice = before


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Attend: q (*batch, heads, n, d), k, v (*batch, kv_heads, m, d) -> (*batch, heads, n, d).

    causal: query i sees keys up to m - n + i, so the last query sees all; bias: added to the scaled scores,
    broadcast to (*batch, heads, n, m); scale: of the scores, 1 / sqrt(d) unless given.

    Raises:
        ValueError: shapes do not fit together, or a pinned backend cannot do the call; the message names the limit
            and the value.
    """
    n, m = q.shape[-2], k.shape[-2]
    _check(q, k, v, causal)
    causal = causal and n > 1
    if scale is None:
        scale = q.shape[-1] ** -0.5
    target = _choice.target if q.device.type == "meta" else architecture(q.device)
    backend = _resolve(_choice.name, target, q, k, causal, bias)
    call = AttentionCall(
        backend=backend,
        batch=q.shape[:-3].numel(),
        query_length=n,
        key_length=m,
        heads=q.shape[-3],
        kv_heads=k.shape[-3],
        head_dim=q.shape[-1],
        causal=causal,
        bias=bias is not None,
    )
    with scope(CORE, backend, call):
        if backend == "baseline":
            return _baseline(q, k, v, causal, bias, scale)
        return _fused(backend, q, k, v, causal, bias, scale)


def _check(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> None:
    """Raise a ValueError where shapes do not fit together."""
    heads, kv_heads, (n, head_dim), m = q.shape[-3], k.shape[-3], q.shape[-2:], k.shape[-2]
    if k.shape != v.shape:
        raise ValueError(f"keys and values have one shape, not {tuple(k.shape)} and {tuple(v.shape)}")
    if q.shape[:-3] != k.shape[:-3] or k.shape[-1] != head_dim:
        raise ValueError(
            f"queries and keys have the same batch and head_dim, not {tuple(q.shape)} and {tuple(k.shape)}"
        )
    if heads % kv_heads:
        raise ValueError(f"heads are a multiple of kv_heads, not {heads} and {kv_heads}")
    if causal and n > m:
        raise ValueError(f"causal attention needs a key for every query, not {n:,} queries and {m:,} keys")


def _resolve(name: str, target: str, q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> str:
    """The kernel that will run: baseline, flash, efficient, cudnn or math."""
    if name == "baseline":
        return name
    if name == "sdpa":
        order = ORDER.get(target, ("flash", "efficient", "math"))
    elif name == "flash":
        order = ("flash", "math") if target == "cpu" else ("flash", "efficient")
    else:
        order = (name.removesuffix("!"),)
    limits = []
    for backend in order:
        limit = LIMITS[backend](target, q, k, causal, bias)
        if limit is None:
            return backend
        limits.append(f"{backend}: {limit}")
    raise ValueError(f"attention backend {name!r} cannot do this call: " + "; ".join(limits))


# In which order torch tries its kernels. sm90 and newer prefer cuDNN from cuDNN 9.15 on.
ORDER = {
    "sm90": ("cudnn", "flash", "efficient", "math"),
    "sm100": ("cudnn", "flash", "efficient", "math"),
    "cpu": ("flash", "math"),
}


def _flash_limit(target: str, q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> str | None:
    head_dim = q.shape[-1]
    if target == "cpu":
        return None if q.shape[-3] == k.shape[-3] else "grouped keys are not supported on a CPU"
    if target in ("sm70", "sm75"):
        return f"needs sm80 or newer, not {target}"
    if q.dtype not in HALF:
        return f"needs float16 or bfloat16, not {_short(q.dtype)}"
    if head_dim > 256:
        return f"head_dim is at most 256, not {head_dim}"
    if bias is not None:
        return "takes no bias"
    if causal and q.shape[-2] != k.shape[-2]:
        return f"causal needs as many queries as keys, not {q.shape[-2]} and {k.shape[-2]}"
    return _grid_limit(q)


def _cudnn_limit(target: str, q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> str | None:
    head_dim = q.shape[-1]
    if target == "cpu" or target.startswith("gfx"):
        return f"needs an NVIDIA GPU, not {target}"
    if target in ("sm70", "sm75"):
        return f"needs sm80 or newer, not {target}"
    if q.dtype not in HALF:
        return f"needs float16 or bfloat16, not {_short(q.dtype)}"
    if head_dim % 8 or head_dim > 128:
        return f"head_dim is a multiple of 8 up to 128, not {head_dim}"
    if k.shape[-2] == 1:
        return "needs more than one key"
    if causal and q.shape[-2] != k.shape[-2]:
        return f"causal needs as many queries as keys, not {q.shape[-2]} and {k.shape[-2]}"
    return _grid_limit(q)


def _efficient_limit(target: str, q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> str | None:
    align = 8 if q.dtype in HALF else 4
    if target == "cpu":
        return "needs a GPU"
    if q.dtype not in (*HALF, torch.float32):
        return f"needs float16, bfloat16 or float32, not {_short(q.dtype)}"
    if q.shape[-1] % align:
        return f"head_dim is a multiple of {align} in {_short(q.dtype)}, not {q.shape[-1]}"
    if q.shape[-3] > MAX_GRID:
        return f"has at most {MAX_GRID:,} heads, not {q.shape[-3]:,}"
    return None


def _grid_limit(q: Tensor) -> str | None:
    batch, heads = q.shape[:-3].numel(), q.shape[-3]
    if batch > MAX_GRID or heads > MAX_GRID:
        return f"batch and heads are at most {MAX_GRID:,}, not {batch:,} and {heads:,}"
    return None


Limit = Callable[[str, Tensor, Tensor, bool, "Tensor | None"], "str | None"]
LIMITS: dict[str, Limit] = {
    "flash": _flash_limit,
    "efficient": _efficient_limit,
    "cudnn": _cudnn_limit,
    "math": lambda target, q, k, causal, bias: None,
}
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def _baseline(q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float) -> Tensor:
    n, m = q.shape[-2], k.shape[-2]
    k, v = _ungroup(q, k), _ungroup(q, v)
    queries, keys, values = (x.reshape(-1, x.shape[-2], x.shape[-1]).contiguous() for x in (q, k, v))
    scores = torch.bmm(queries, keys.transpose(1, 2)) * scale
    if bias is not None:
        scores = (scores.view(*q.shape[:-1], m) + bias).view(-1, n, m)
    if causal:
        scores = scores.masked_fill(_future(n, m, q.device), float("-inf"))
    return torch.bmm(torch.softmax(scores, dim=-1), values).view(*q.shape[:-1], v.shape[-1])


def _fused(backend: str, q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float) -> Tensor:
    n, m = q.shape[-2], k.shape[-2]
    if backend in ("efficient", "math"):  # the others take grouped keys as they are
        k, v = _ungroup(q, k), _ungroup(q, v)
    batch = q.shape[:-3]
    if causal and n != m:  # torch aligns a causal mask with the first key, attention() with the last
        future = torch.zeros(n, m, dtype=q.dtype, device=q.device).masked_fill(_future(n, m, q.device), float("-inf"))
        bias, causal = future if bias is None else bias + future, False
    if bias is not None and causal:
        bias, causal = bias.masked_fill(_future(n, m, q.device), float("-inf")), False
    if len(batch) != 1:
        q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
    if bias is not None:
        bias = _mask(bias, batch)
    grouped = q.shape[-3] != k.shape[-3]
    with sdpa_kernel(KERNELS[backend]):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal, scale=scale, enable_gqa=grouped)
    return out if len(batch) == 1 else out.reshape(*batch, *out.shape[-3:])


def _mask(bias: Tensor, batch: torch.Size) -> Tensor:
    """The bias in two or four dimensions, its last one of stride 1: the only ones that torch's kernels take."""
    bias = bias if bias.stride(-1) == 1 else bias.contiguous()
    if bias.dim() > 3 and len(batch) != 1:
        return bias.expand(*batch, *bias.shape[-3:]).reshape(-1, *bias.shape[-3:])
    return bias[None] if bias.dim() % 2 else bias


def _ungroup(q: Tensor, x: Tensor) -> Tensor:
    """Repeat grouped keys or values so that every query head has its own."""
    groups = q.shape[-3] // x.shape[-3]
    return x if groups == 1 else x.repeat_interleave(groups, dim=-3)


def _future(n: int, m: int, device: torch.device) -> Tensor:
    return torch.ones(n, m, dtype=torch.bool, device=device).triu(m - n + 1)


@cache
def architecture(device: torch.device) -> str:
    """What decides a device's limits: "sm80", "gfx942", "cpu"."""
    if device.type != "cuda":
        return "cpu"
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.partition(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
