"""Modules that are not ours, made visible: their names become scopes, their attention becomes `attention()`.

`labelled` opens a scope for every submodule that has submodules itself; one whose class is called Attention is an
attention block. `through_attention` sends `F.scaled_dot_product_attention` through our one entrance, so that the
run's backend holds for any module that uses it. A module that multiplies its own scores runs as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minimodels.kernels.attention import attention
from minimodels.kernels.backend import choice
from minimodels.kernels.scope import TRACER, scope

ATTENTION = re.compile(r"(attention|attn)$", re.IGNORECASE)  # how classes of attention blocks end


@contextmanager
def labelled(module: nn.Module) -> Iterator[None]:
    """Scopes around the submodules of `module` while it runs."""
    labels = dict(_labels(module))
    open_scopes: list[AbstractContextManager[object]] = []
    hooks = []

    def enter(child: nn.Module, _: Any) -> None:
        opened = scope(*labels[child])
        opened.__enter__()
        open_scopes.append(opened)

    def leave(*_: Any) -> None:
        open_scopes.pop().__exit__(None, None, None)

    for child in labels:
        hooks.append(child.register_forward_pre_hook(enter, prepend=True))
        hooks.append(child.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _labels(module: nn.Module, outer: str = "") -> Iterator[tuple[nn.Module, tuple[str, str]]]:
    """Submodules with submodules of their own, and kind and name of their scopes; a list is part of a name."""
    for own, child in module.named_children():
        name = f"{outer}_{own}" if outer else own
        if isinstance(child, nn.ModuleList):
            yield from _labels(child, name)
        elif any(True for _ in child.children()):
            yield child, ("attention", name) if ATTENTION.search(type(child).__name__) else (name, "")
            yield from _labels(child)


@contextmanager
def made_visible(module: nn.Module) -> Iterator[None]:
    """Both of the above while somebody looks at `module`; a clocked run is of the module as it is.

    A clocked run too goes through `attention()` where its backend is not torch's own choice.
    """
    tracer = TRACER.get()
    clocked = tracer is not None and tracer.clocks
    own = clocked and choice().attention == "sdpa"
    with nullcontext() if clocked else labelled(module), nullcontext() if own else through_attention():
        yield


class through_attention(TorchFunctionMode):
    """Inside, `F.scaled_dot_product_attention` is `attention()` under the backend of the run."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            return _attend(*args, **kwargs)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """torch's arguments, given to `attention()`: a mask of booleans becomes a bias of 0 and -inf."""
    n, m = query.shape[-2], key.shape[-2]
    if dropout_p or key.shape != value.shape or is_causal and n > m:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        hidden = torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = hidden.masked_fill(~attn_mask, float("-inf"))
    if is_causal and n != m:  # torch aligns the mask with the first key, attention() with the last
        future = torch.ones(n, m, dtype=torch.bool, device=query.device).triu(1)
        hidden = torch.zeros(n, m, dtype=query.dtype, device=query.device).masked_fill(future, float("-inf"))
        attn_mask, is_causal = hidden if attn_mask is None else attn_mask + hidden, False
    with scope("attention", "self" if n == m else "cross"):
        return attention(query, key, value, causal=is_causal, bias=attn_mask, scale=scale)
