"""What each attention kernel cannot do, and which one a run's choice comes to.

Source of torch's limits and order: torch/native/transformers/cuda/sdp_utils.cpp.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minimodels.kernels.backend import INTERPRETED

MAX_GRID = 65535  # batch and heads are grid dimensions of the flash and cuDNN kernels
HALF = (torch.float16, torch.bfloat16)


def resolve(name: str, target: str, q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> str:
    """The kernel that will run: baseline, flash, efficient, cudnn, math, triton, reference or flash-attn.

    Raises:
        ValueError: a pinned backend cannot do the call; the message names the limit and the value.
    """
    if name == "baseline":
        return name
    if name == "sdpa":
        order = ORDER.get(target, ("flash", "efficient", "math"))
    elif name == "flash":
        order = ("flash", "math") if target == "cpu" else ("flash", "efficient")
    elif name == "triton":
        order = ("reference",) if target == "cpu" and not INTERPRETED else ("triton", "flash", "efficient", "math")
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
    return "needs a GPU" if target == "cpu" else _efficient_call_limit(q)


def _efficient_call_limit(q: Tensor) -> str | None:
    align = 8 if q.dtype in HALF else 4
    if q.dtype not in (*HALF, torch.float32):
        return f"needs float16, bfloat16 or float32, not {_short(q.dtype)}"
    if q.shape[-1] % align:
        return f"head_dim is a multiple of {align} in {_short(q.dtype)}, not {q.shape[-1]}"
    if q.shape[-3] > MAX_GRID:
        return f"has at most {MAX_GRID:,} heads, not {q.shape[-3]:,}"
    return None


def _triton_limit(target: str, q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> str | None:
    head_dim = q.shape[-1]
    if target == "cpu" and not INTERPRETED:
        return "needs a GPU"
    if target in ("sm70", "sm75"):
        return f"needs sm80 or newer, not {target}"
    if q.dtype not in (*HALF, torch.float32):
        return f"needs float16, bfloat16 or float32, not {_short(q.dtype)}"
    if head_dim > 256:
        return f"head_dim is at most 256, not {head_dim}"
    return None


def flash_attn_limit(q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> str | None:
    """What the packages flash-attn and flash-attn-3 cannot do of a call on a GPU that they support.

    Source: flash_attn/flash_attn_interface.py, csrc/flash_attn/flash_api.cpp: heads that are no multiple of 8 are
    copied to ones that are; causal masks are aligned with the last key.
    """
    if q.dtype not in HALF:
        return f"needs float16 or bfloat16, not {_short(q.dtype)}"
    if q.shape[-1] % 8 or q.shape[-1] > 256:
        return f"head_dim is a multiple of 8 up to 256, not {q.shape[-1]}"
    return "takes no bias" if bias is not None else _grid_limit(q)


def xformers_limit(q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> str | None:
    """What xformers cannot do of a call on a GPU; biases it wants aligned, in rows of a multiple of 8."""
    return "bias: it takes aligned ones only" if bias is not None else _efficient_call_limit(q)


def _grid_limit(q: Tensor) -> str | None:
    batch, heads = q.shape[:-3].numel(), q.shape[-3]
    if batch > MAX_GRID or heads > MAX_GRID:
        return f"batch and heads are at most {MAX_GRID:,}, not {batch:,} and {heads:,}"
    return None


def _flash_attn_limit(target: str, q: Tensor, k: Tensor, causal: bool, bias: Tensor | None) -> str | None:
    if target == "cpu":
        return "needs a GPU"
    if target in ("sm70", "sm75"):
        return f"needs sm80 or newer, not {target}"
    return flash_attn_limit(q, k, causal, bias)


Limit = Callable[[str, Tensor, Tensor, bool, "Tensor | None"], "str | None"]
LIMITS: dict[str, Limit] = {
    "flash": _flash_limit,
    "efficient": _efficient_limit,
    "cudnn": _cudnn_limit,
    "triton": _triton_limit,
    "flash-attn": _flash_attn_limit,
    "math": lambda target, q, k, causal, bias: None,
    "reference": lambda target, q, k, causal, bias: None,
}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
