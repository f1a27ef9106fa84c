"""Packages that a test installs: modules of their names, with their signatures, that compute in plain torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ATTEND = '''
import torch

__version__ = "0.0.test"


def attend(q, k, v, causal, scale):
    """q (b, n, heads, d), keys of as many heads or fewer."""
    q, k, v = (x.transpose(1, 2).double() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.mT * scale
    n, m = scores.shape[-2:]
    if causal:
        scores = scores.masked_fill(torch.ones(n, m, dtype=torch.bool).triu(m - n + 1), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
    return attend(q, k, v, causal, softmax_scale).to(q.dtype)


def flash_attn_with_kvcache(
    q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None, softmax_scale=None,
    causal=False,
):
    end = cache_seqlens + k.shape[1]
    k_cache[:, cache_seqlens:end], v_cache[:, cache_seqlens:end] = k, v
    return attend(q, k_cache[:, :end], v_cache[:, :end], causal, softmax_scale).to(q.dtype)
'''
FLASH3 = (
    ATTEND
    + """

def _(plain=flash_attn_func):
    def flash_attn_func(q, k, v, softmax_scale=None, causal=False):
        return plain(q, k, v, 0.0, softmax_scale, causal), None  # the first releases return a pair
    return flash_attn_func


flash_attn_func = _()
"""
)
XFORMERS = """
from types import SimpleNamespace

from flash_attn import attend


class LowerTriangularFromBottomRightMask:
    pass


fmha = SimpleNamespace(
    attn_bias=SimpleNamespace(LowerTriangularFromBottomRightMask=LowerTriangularFromBottomRightMask)
)


def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None):
    causal = isinstance(attn_bias, LowerTriangularFromBottomRightMask)
    if query.dim() == 5:
        assert query.shape[2:4] == key.shape[2:4], "keys of a group are repeated"
        given = (query.flatten(2, 3), key.flatten(2, 3), value.flatten(2, 3))
        return attend(*given, causal, scale).unflatten(2, query.shape[2:4]).to(query.dtype)
    return attend(query, key, value, causal, scale).to(query.dtype)
"""
LIGER = """
import torch
import torch.nn.functional as F


def liger_rms_norm(X, W, eps, offset=0.0, casting_mode="llama", in_place=True):
    assert casting_mode in ("llama", "gemma", "none")
    return F.rms_norm(X.float(), X.shape[-1:], W.float() + offset, eps).to(X.dtype)


def liger_layer_norm(X, W, B, eps):
    return F.layer_norm(X.float(), X.shape[-1:], W.float(), B.float(), eps).to(X.dtype)


def liger_fused_add_rms_norm(X, R, W, eps, offset=0.0, casting_mode="llama", in_place=True):
    return liger_rms_norm(X + R, W, eps, offset, casting_mode), X + R


def liger_swiglu(a, b):
    return (F.silu(a.float()) * b).to(a.dtype)


def liger_geglu(a, b):
    return (F.gelu(a.float(), approximate="tanh") * b).to(a.dtype)
"""
APEX = """
import torch.nn.functional as F


def fused_rms_norm_affine(input, weight, normalized_shape, eps=1e-6, memory_efficient=False):
    return F.rms_norm(input, normalized_shape, weight, eps)


def fused_layer_norm_affine(input, weight, bias, normalized_shape, eps=1e-6, memory_efficient=False):
    return F.layer_norm(input, normalized_shape, weight, bias, eps)
"""
FILES = {
    "flash_attn/__init__.py": ATTEND,
    "flash_attn_interface.py": FLASH3,
    "xformers/__init__.py": "",
    "xformers/ops.py": XFORMERS,
    "liger_kernel/__init__.py": "",
    "liger_kernel/transformers/__init__.py": "",
    "liger_kernel/transformers/functional.py": LIGER,
    "apex/__init__.py": "",
    "apex/normalization/__init__.py": "from . import fused_layer_norm",
    "apex/normalization/fused_layer_norm.py": APEX,
}
Install = Callable[..., None]


def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Yields what writes them to a folder that modules are found in, a text in them replaced by another if asked."""
    roots = {Path(file).parts[0].removesuffix(".py") for file in FILES}
    before = {name for name in sys.modules if name.partition(".")[0] in roots}
    if before:
        pytest.skip(f"imported already: {', '.join(sorted(before))}")

    def write(old: str = "", new: str = "") -> None:
        for name, text in FILES.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.replace(old, new) if old else text)
        monkeypatch.syspath_prepend(tmp_path)

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] in roots]:
        del sys.modules[name]
