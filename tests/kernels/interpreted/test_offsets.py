"""Attention reads, and a cache is written, beyond 2^31 elements: tensors of a few rows, far apart in one storage.

The storage is never filled: of its 4 GB only the pages of those rows exist.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.all_cases import operator

END = 1 << 31  # elements that 32 bits number
ROWS, FEATURES = 3, 16


def _far(*shape: int) -> Tensor:
    """(3, *shape), the third of which begins at element 2^31."""
    storage = torch.empty(END + (1 << 10), dtype=torch.float16)
    return storage.as_strided((ROWS, *shape), (END // 2, *torch.empty(shape, device="meta").stride())).normal_()


def _positions() -> tuple[Tensor, ...]:
    return tuple(_far(2, 5, FEATURES)[None] for _ in range(3))


@pytest.mark.parametrize(("position", "taken"), [(40, 7), (-5, 0)])
def test_a_position_outside_the_cache_writes_inside_it(position: int, taken: int) -> None:
    """What lies before and behind the caches stays as it is: the largest position is `pos`, the smallest 0."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 2, FEATURES)
    results = []
    for at in (position, taken):
        torch.manual_seed(1)
        around = torch.randn(2, 80 * FEATURES)
        caches = (x[10 * FEATURES :].as_strided((1, 2, 9, FEATURES), (0, 9 * FEATURES, FEATURES, 1)) for x in around)
        call = (q, k, v, *caches, None, torch.tensor([at]), 7, 0.25)
        results.append((operator("minimodels::decode_attention").call(*call), around))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


CALLS: dict[str, Any] = {
    "temporal_attention": lambda: (*_positions(), None, None, None, True, 0.25),
    "flash_attention": lambda: (*_positions(), None, True, 0.25),
    "cross_attention": lambda: (*_positions(), 0.25),
    "decode_attention": lambda: (*torch.randn(3, ROWS, 2, 1, FEATURES).half(), _far(2, 9, FEATURES),
                                 _far(2, 9, FEATURES), None, None, 7, 0.25),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_the_last_of_three_beyond_2_to_the_31_is_read_and_written(name: str) -> None:
    torch.manual_seed(0)
    known, args = operator(f"minimodels::{name}"), CALLS[name]()
    near = tuple(x.clone() if isinstance(x, Tensor) else x for x in args)
    expected, found = known.reference(*near), known.call(*args)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)  # float16 rounds weights and results
    for x, y in zip(args, near, strict=True):  # the cache, too, which is written
        assert not isinstance(x, Tensor) or torch.equal(x, y)
