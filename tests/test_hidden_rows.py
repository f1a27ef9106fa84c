"""A query from which a bias hides every key: its result is zero and its gradient is, whichever backend runs it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minimodels.kernels.attention import attention, attention_with_cache
from minimodels.kernels.backend import attention_backend
from minimodels.sim.trace import Walk

BACKENDS = ("sdpa", "flash", "baseline", "triton")
NONE = float("-inf")


def rows_of(*shape: int, hidden: tuple[int, ...]) -> Tensor:
    """A bias drawn at random, -inf in whole rows."""
    bias = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    bias[..., hidden, :] = NONE
    return bias


def first_key(n: int, m: int) -> Tensor:
    """A bias that hides the first key: nothing is left to the first query of a causal square."""
    return torch.zeros(n, m).index_fill(1, torch.tensor([0]), NONE)


CALLS = {
    "short": ((2, 3, 5, 8), 5, rows_of(5, 5, hidden=(2,)), False, (2,)),
    "heads": ((2, 3, 5, 8), 7, rows_of(1, 3, 5, 7, hidden=(0, 4)), False, (0, 4)),
    "long": ((1, 2, 131, 8), 150, rows_of(131, 150, hidden=(0, 64, 130)), False, (0, 64, 130)),
    "causal": ((1, 2, 5, 8), 5, first_key(5, 5), True, (0,)),
    "all keys of all queries": ((1, 2, 3, 8), 7, torch.full((7,), NONE), False, (0, 1, 2)),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CALLS)
def test_a_query_that_sees_no_key_has_zero_as_result_and_gradient(name: str, backend: str) -> None:
    (*batch, n, d), m, bias, causal, hidden = CALLS[name]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(*batch, rows, d, generator=generator, requires_grad=True) for rows in (n, m, m))
    with attention_backend(backend):
        out = attention(q, k, v, bias=bias, causal=causal)
    gradients = torch.autograd.grad(out.sum(), (q, k, v))
    assert out.isfinite().all() and all(x.isfinite().all() for x in gradients)
    blind = torch.zeros(n, dtype=torch.bool)
    blind[list(hidden)] = True
    assert (out[..., blind, :] == 0).all() and (gradients[0][..., blind, :] == 0).all()
    assert (out[..., ~blind, :] != 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_token_that_sees_nothing_of_its_cache_has_zero_as_result(backend: str) -> None:
    q, (k, v), cache = torch.randn(1, 2, 1, 8), torch.randn(2, 1, 2, 1, 8), torch.randn(2, 1, 2, 9, 8)
    with attention_backend(backend):
        out = attention_with_cache(q, k, v, cache[0], cache[1], 5, bias=torch.full((1, 6), NONE))
    assert (out == 0).all() and torch.equal(cache[0][:, :, 5], k[:, :, 0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_keys_the_result_is_zero(backend: str) -> None:
    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 0, 8)
    for bias in (None, torch.zeros(5, 0)):
        with attention_backend(backend):
            out = attention(q, k, k, bias=bias)
        assert out.shape == q.shape and (out == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("empty", [(0, 3, 5, 8), (2, 3, 0, 8)], ids=("no samples", "no queries"))
def test_nothing_to_attend_with_is_nothing(empty: tuple[int, ...], backend: str) -> None:
    q, k = torch.randn(empty), torch.randn(empty[0], 3, 7, 8)
    with attention_backend(backend):
        assert attention(q, k, k, bias=torch.zeros(1, 7)).shape == empty


def test_baseline_passes_over_the_matrix_no_more_often_with_a_bias_that_hides_keys() -> None:
    """What finds and zeroes such queries reads the bias and the result."""
    q, bias = torch.empty(2, 3, 50, 8, device="meta"), torch.empty(50, device="meta")
    with torch.inference_mode(), attention_backend("baseline"), Walk() as walk:
        attention(q, q, q, bias=bias)
    matrix = 2 * 3 * 50 * 50 * q.element_size()
    passes = [call.name for call in walk.calls if call.work.bytes_written == matrix]
    assert passes == ["bmm", "mul", "add", "softmax"]
