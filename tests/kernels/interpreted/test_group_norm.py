"""Group norm by slabs, with a cache so small that there are several, under Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minimodels.kernels import group_norm as module
from tests.kernels.cases.group_norm import arguments

SHAPES = {
    "a row of channels a program": ((2, 6, 5, 37, 61), {"groups": 3}),
    "several channels a program, scale and shift": ((3, 34, 33, 31), {"groups": 2, "told": True}),
}


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("fitting", (1, 2, 4))
def test_slabs_of_groups_give_what_all_groups_at_once_give(
    case: str, fitting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, options = SHAPES[case]
    args = arguments(*shape, **options, mean=3.0, dtype=torch.float32)
    wide: tuple[Any, ...] = tuple(x.double() if isinstance(x, torch.Tensor) else x for x in args)
    exact = module.reference(*wide)
    group = args[0].nbytes // (shape[0] * options["groups"])
    monkeypatch.setattr(module, "cache_bytes", lambda x: 2 * fitting * group)
    expected = -(-shape[0] * options["groups"] // fitting) + 1
    assert len(module.plan(*args)[1]) == expected, "a launch a slab, and one to apply the last"
    found, again = module.group_norm(*args), module.group_norm(*args)
    assert torch.equal(found, again), "two runs are equal to the bit"
    allowed = 2 * (module.eager(*args) - exact).abs().max() + torch.finfo(torch.float32).eps * exact.abs().max()
    assert (found - exact).abs().max() <= allowed
