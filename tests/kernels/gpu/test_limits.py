"""Where other attention kernels end: 65,535 sequences, 2^31 elements. Ours go on; what torch's do is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from minimodels.kernels.attention import KERNELS, attention
from minimodels.kernels.backend import attention_backend
from minimodels.kernels.temporal_attention import reference, temporal_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FRAMES, HEAD_DIM = 16, 64
SEQUENCES = (65_535, 65_536, 131_072)


def _tensors(positions: int, heads: int = 1, frames: int = FRAMES, dim: int = HEAD_DIM) -> list[Tensor]:
    """q, k, v as views of projections (1, f, p, heads d)."""
    return [
        torch.randn(1, frames, positions, heads * dim, device="cuda", dtype=torch.bfloat16)
        .unflatten(-1, (heads, dim))
        .permute(0, 2, 3, 1, 4)
        for _ in range(3)
    ]


def _call(q: Tensor, k: Tensor, v: Tensor) -> Any:
    return q, k, v, None, None, None, False, q.shape[-1] ** -0.5


@pytest.mark.parametrize("positions", SEQUENCES)
@torch.no_grad()
def test_any_number_of_sequences_is_attended(positions: int) -> None:
    q, k, v = _tensors(positions)
    found = temporal_attention(*_call(q, k, v))
    for at in (slice(0, 3), slice(positions - 3, positions)):
        exact = reference(*_call(*(x[:, at].double() for x in (q, k, v))))
        assert (found[:, at].double() - exact).abs().max() < 0.02  # bfloat16 of values of order one


@torch.no_grad()
def test_offsets_beyond_32_bits_reach_the_last_position() -> None:
    positions, heads = 1 << 18, 8  # 2^31 elements of each of q, k, v and the result
    need = 4 * 2 * (positions + 1) * heads * FRAMES * HEAD_DIM
    if torch.cuda.mem_get_info()[0] < 1.1 * need:
        pytest.skip(f"needs {need / 1e9:.0f} GB")
    q, k, v = _tensors(positions + 1, heads)
    found = temporal_attention(*_call(q, k, v))
    exact = reference(*_call(*(x[:, -2:].double() for x in (q, k, v))))
    assert (found[:, -2:].double() - exact).abs().max() < 0.02


@pytest.mark.parametrize("backend", ("efficient!", "cudnn!", "sdpa", "baseline", "triton!"))
@torch.no_grad()
def test_a_float32_bias_of_half_precision_queries_is_added(backend: str) -> None:
    q, k, v = (x[0] for x in _tensors(7))
    bias = torch.randn(FRAMES, FRAMES, device="cuda")
    with attention_backend(backend):
        try:
            found = attention(q, k, v, bias=bias)
        except ValueError as error:
            pytest.skip(str(error))  # cuDNN is not on every GPU
    wide = [x[None].double() for x in (q, k, v)]
    exact = reference(wide[0], wide[1], wide[2], bias.double(), None, None, False, HEAD_DIM**-0.5)[0]
    assert (found.double() - exact).abs().max() < 0.05  # the bias rounded to bfloat16, too


def test_what_torch_does_at_the_limits_is_recorded(tmp_path: Path, record_property: Any) -> None:
    """Passes whatever they do: what each of torch's kernels says of so many sequences is kept with the results."""
    said: dict[str, dict[str, str]] = {}
    for name, backend in KERNELS.items():
        if name == "math":
            continue
        for count in SEQUENCES:
            q, k, v = (x[0] for x in _tensors(count))
            with torch.no_grad(), sdpa_kernel(backend):
                try:
                    out = F.scaled_dot_product_attention(q, k, v)
                    torch.cuda.synchronize()
                except RuntimeError as error:
                    said.setdefault(name, {})[str(count)] = f"fails: {str(error).partition(chr(10))[0]}"
                    continue
            exact = reference(*_call(*(x[None, -2:].double() for x in (q, k, v))))
            right = (out[-2:].double() - exact[0]).abs().max().item() < 0.02
            said.setdefault(name, {})[str(count)] = "right" if right else "WRONG at the last sequence"
    record_property("sdpa_limits", json.dumps(said))
    assert set(said) == {"flash", "efficient", "cudnn"}
