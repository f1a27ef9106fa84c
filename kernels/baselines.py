"""What an operator of ours is compared with: torch's kernels and other packages', each in the layout it takes.

A way is named by whose kernel it is. What its own layout costs is not timed (`protocol.Way`), but in the ways named for
just that: "rearranged flash" is attention over frames as models without us do it, projections brought to
(b p, heads, f, d), torch's flash kernel, and its result brought back; "conv1d" is the same for a convolution over
frames.
A package that is not installed has no way; `packages.versions` says which are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from minimodels.kernels import attention_packages as others
from minimodels.kernels import package_norms as norms
from minimodels.kernels.attention_math import attend_eagerly, empty_result
from minimodels.kernels.limits import flash_attn_limit, xformers_limit
from minimodels.kernels.operator import Benched, Composite
from minimodels.kernels.packages import installed
from minimodels.kernels.protocol import Way

OURS, EAGER, COMPILE, FLEX, CONV1D = "ours", "eager", "compile", "flex", "conv1d"
REARRANGED = "rearranged "  # before the name of torch's kernel
PINNED = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
PACKAGES = {
    "flash-attn": (others.flash_attn, flash_attn_limit),
    "flash-attn-3": (others.flash_attn_3, flash_attn_limit),
    "xformers": (others.xformers, xformers_limit),
}
Ways = Mapping[str, Way | str]
"""By whose they are; for a kernel that cannot do the call the limit."""


def ways(name: str, operator: Benched, args: tuple[Any, ...], compiled: bool) -> Ways:
    """What is compared on a call of operator `name` ("temporal_attention").

    compiled: what torch.compile makes, too, which takes most of the time; flex_attention is of no use without it.
    """
    ours = Way(operator.run, operator.prepare) if isinstance(operator, Composite) else Way(operator.call)
    found: dict[str, Way | str] = {OURS: ours, EAGER: Way(operator.eager)}
    if compiled:
        found[COMPILE] = Way(at_first_call(operator.eager))
    more = OTHERS.get(name)
    found |= {} if more is None else more(*args)
    return {name: way for name, way in found.items() if compiled or name != FLEX}


def at_first_call(call: Callable[..., Any], whole: bool = False) -> Callable[..., Any]:
    """`call` compiled at its first call, for the sizes of that call; whole: as one graph or not at all."""
    made: list[Callable[..., Any]] = []

    def compiled(*args: Any) -> Any:
        if not made:
            torch._dynamo.reset()
            made.append(torch.compile(call, dynamic=False, fullgraph=whole))
        return made[0](*args)

    return compiled


def pinned(backend: SDPBackend, call: Callable[..., Any], *args: Any) -> Any:
    """`call` with one of torch's attention kernels."""
    with sdpa_kernel(backend):
        return call(*args)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cos: Tensor | None, sin: Tensor | None, causal: bool,
    scale: float,
) -> dict[str, Way | str]:  # fmt: skip
    """Attention over n of (b, p, heads, n, d), b and p folded beforehand; rotary embedding is torch's, and timed."""

    def arrange(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *_: Any) -> tuple[Any, ...]:
        added = None if bias is None else bias.expand(*q.shape[:-1], k.shape[-2]).flatten(0, 1)
        return *(x.flatten(0, 1) for x in (q, k, v)), added

    def with_mask(*args: Any) -> tuple[Any, ...]:
        given = arrange(*args)
        mask = others.flex_mask(q.shape[-2], k.shape[-2], q.device) if causal else None
        return *given, mask, scale

    def restore(found: Tensor) -> Tensor:
        return found.unflatten(0, q.shape[:2])

    def torchs(*given: Tensor | None) -> Tensor:
        q, k, v, bias = (None if x is None else x[None] for x in given)
        assert q is not None and k is not None and v is not None
        return attend_eagerly(q, k, v, bias, causal, scale, cos, sin)[0]

    found: dict[str, Way | str] = {}
    for name, backend in PINNED.items():
        found[name] = Way(partial(pinned, backend, torchs), arrange, restore)
    if cos is not None:
        return found
    flex = at_first_call(others.flex_masked, whole=True) if q.is_cuda else others.flex_masked
    found[FLEX] = Way(flex, with_mask, restore)
    for name, (attend, limit) in PACKAGES.items():
        if installed(name):
            call = partial(_with_settings, attend, causal, scale)
            found[name] = limit(q, k, causal, bias) or Way(call, arrange, restore)
    return found


def _with_settings(attend: others.Attend, causal: bool, scale: float, *given: Any) -> Tensor:
    return attend(*given, causal, scale)


def _flash_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float
) -> dict[str, Way | str]:
    return _attention(q, k, v, bias, None, None, causal, scale)


def _cross_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> dict[str, Way | str]:
    def unbiased(way: Way) -> Way:
        return Way(way.call, lambda q, k, v, _: way.arrange(q, k, v, None), way.restore)

    found = _attention(q, k, v, None, None, None, False, scale)
    return {name: way if isinstance(way, str) else unbiased(way) for name, way in found.items()}


def _temporal_attention(*args: Any) -> dict[str, Way | str]:
    """As others, and with what brings projections to the layout of torch's kernels and their result back."""
    found = _attention(*args)
    for name, backend in PINNED.items():
        found[REARRANGED + name] = Way(partial(pinned, backend, _rearranged))
    return found


def _rearranged(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cos: Tensor | None, sin: Tensor | None, causal: bool,
    scale: float,
) -> Tensor:  # fmt: skip
    dense = (x.contiguous() for x in (q, k, v))
    return empty_result(q, v).copy_(attend_eagerly(*dense, bias, causal, scale, cos, sin))


def _decode_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, position: Tensor | None,
    pos: int, scale: float,
) -> dict[str, Way | str]:  # fmt: skip
    """torch's kernels after two copies into the cache; FlashAttention's entrance that appends and attends."""
    from minimodels.kernels.decode_attention import eager

    found: dict[str, Way | str] = {name: Way(partial(pinned, backend, eager)) for name, backend in PINNED.items()}
    for name in ("flash-attn", "flash-attn-3"):
        if installed(name):
            limit = flash_attn_limit(q, keys, True, bias)
            limit = "takes no position on the device" if limit is None and position is not None else limit
            found[name] = limit or Way(partial(_with_cache, name))
    return found


def _with_cache(package: str, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, *rest: Any) -> Tensor:
    _, _, pos, scale = rest
    return others.with_cache(package, q, k, v, keys, values, pos, scale)


def _temporal_conv(*_: Any) -> dict[str, Way | str]:
    def arrange(x: Tensor, weight: Tensor, *rest: Any) -> tuple[Any, ...]:
        return x, weight[..., 0, 0].contiguous(), *rest

    return {CONV1D: Way(_conv1d, arrange)}


def _conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, residual_bias: Tensor | None
) -> Tensor:
    """x (b, c, f, h, w), weight (n, c, k): a convolution over the frames of rows, and the sum that follows it."""
    height, width = x.shape[3:]
    rows = rearrange(x, "b c f h w -> (b h w) c f")
    rows = F.conv1d(rows, weight, bias, padding=weight.shape[2] // 2)
    result = rearrange(rows, "(b h w) n f -> b n f h w", h=height, w=width)
    result = result.contiguous(memory_format=torch.channels_last_3d)
    if residual is None:
        return result
    return (residual if residual_bias is None else residual + residual_bias.view(-1, 1, 1, 1)) + result


OTHERS: dict[str, Callable[..., Ways]] = {
    "flash_attention": _flash_attention,
    "cross_attention": _cross_attention,
    "temporal_attention": _temporal_attention,
    "decode_attention": _decode_attention,
    "temporal_conv": _temporal_conv,
    "layer_norm": norms.layer_norm,
    "add_layer_norm": norms.add_layer_norm,
    "gated": norms.gated,
}
