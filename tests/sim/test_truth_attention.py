"""The kernels that a row of a truth table stands for are those that torch runs when the benchmark is run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minimodels.sim.formulas import work_of
from minimodels.sim.truth_attention import attention_calls

BATCH, LENGTH, HEADS, HEAD_DIM = 2, 24, 5, 8


def unfused(qkv: Tensor, causal: bool) -> Tensor:
    """What benchmarks/benchmark_flash_attention.py of flash-attention times as PyTorch: (b, n, 3, heads, d)."""
    heads, length = qkv.shape[3], qkv.shape[1]
    queries, keys, values = qkv.unbind(dim=2)
    queries, keys = rearrange(queries, "b n h d -> (b h) n d"), rearrange(keys, "b n h d -> (b h) d n")
    scores = torch.empty(len(queries), length, length, dtype=qkv.dtype)
    scores = torch.baddbmm(scores, queries, keys, beta=0, alpha=HEAD_DIM**-0.5)
    scores = rearrange(scores, "(b h) n m -> b h n m", h=heads)
    if causal:
        scores = scores + torch.triu(torch.full((length, length), -1e4), 1).to(scores.dtype)
    return torch.einsum("bhnm,bmhd->bnhd", F.dropout(torch.softmax(scores, dim=-1), 0.0), values)


class Kernels(TorchDispatchMode):
    """What torch runs beneath autograd, as the formulas read it: kernel, bytes read and written, strided."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int, int, bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        view = func.is_view or func is torch.ops.aten._unsafe_view.default
        if not view and func not in (torch.ops.aten.empty.memory_format, torch.ops.aten.detach.default):
            work = work_of(func, args, kwargs or {}, (out,))
            self.seen.append((work.kernel, work.bytes_read, work.bytes_written, work.strided))
        return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_the_unfused_attention_of_the_benchmarks_is_what_torch_runs(causal: bool, backward: bool) -> None:
    qkv = torch.randn(BATCH, LENGTH, 3, HEADS, HEAD_DIM, dtype=torch.float16, requires_grad=True)
    gradient = torch.ones(BATCH, HEADS, LENGTH, HEAD_DIM, dtype=torch.float16).transpose(1, 2)  # as the output lies
    with Kernels() as kernels:
        out = unfused(qkv, causal)
        if backward:
            out.backward(gradient)
    shape, phase = (BATCH, HEADS, HEADS, LENGTH, LENGTH, HEAD_DIM), f"attention fwd{'+bwd' * backward}"
    works = [call.work for call in attention_calls(shape, causal, "float16", "PyTorch", phase)]
    predicted = [(work.kernel, work.bytes_read, work.bytes_written, work.strided) for work in works]
    assert predicted == kernels.seen
