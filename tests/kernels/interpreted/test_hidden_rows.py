"""A query from which a bias hides every key, or that has none: kernels say zero, as the reference and torch do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.all_cases import operator
from tests.kernels.cases import decode_attention, flash_attention, temporal_attention

DTYPES = (torch.float32, torch.float16)


def _agree(name: str, args: tuple[Any, ...], hidden: tuple[int, ...]) -> None:
    """The kernel says what the reference does, and zero for hidden queries (the last dimension but one)."""
    truth = operator(name).reference(*(x.clone() if isinstance(x, Tensor) else x for x in args))
    found = operator(name).call(*args)
    tolerance = 1e-5 if found.dtype == torch.float32 else 5e-3  # float16 rounds weights and results, 2**-11 each
    torch.testing.assert_close(found, truth, rtol=tolerance, atol=tolerance)
    assert (found[..., hidden, :] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize(("n", "d"), [(7, 24), (70, 40)])
def test_short_and_long_attention(n: int, d: int, causal: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    bias = torch.randn(1, 2, n, n).to(dtype)
    bias[..., (2, n - 1), :] = float("-inf")
    bias[..., 0] = float("-inf")  # all that the first query of a causal square sees
    hidden = (0, 2, n - 1) if causal else (2, n - 1)
    for module in (temporal_attention, flash_attention):
        q, k, v, _, *rest = module.arguments(1, 2, 2, n, d, causal=causal, dtype=dtype)
        _agree(module.OPERATOR, (q, k, v, bias, *rest), hidden)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pos", (7, 270))
def test_decoding_in_one_share_and_in_several(pos: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v, cache_k, cache_v, _, position, _, scale = decode_attention.arguments(
        1, 4, 40, pos, 300, n=3, kv_heads=2, dtype=dtype
    )
    bias = torch.randn(1, 4, 3, pos + 3).to(dtype)
    bias[:, :, 1] = float("-inf")
    _agree(decode_attention.OPERATOR, (q, k, v, cache_k, cache_v, bias, position, pos, scale), (1,))


@pytest.mark.parametrize("name", ("temporal", "flash"))
def test_without_keys_the_result_is_zero(name: str) -> None:
    q, _, _, bias, cos, sin, causal, scale = temporal_attention.arguments(1, 2, 2, 5, 24, dtype=torch.float32)
    k = q[..., :0, :]
    rest = {"temporal": (bias, cos, sin, causal, scale), "flash": (bias, causal, scale)}[name]
    _agree(f"minimodels::{name}_attention", (q, k, k, *rest), (0, 1, 2, 3, 4))
