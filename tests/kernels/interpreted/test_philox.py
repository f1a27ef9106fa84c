"""Numbers drawn inside a kernel are those drawn in plain torch, so tokens are too."""

from __future__ import annotations

import pytest
import torch

from minimodels.kernels.operator import OPERATORS
from tests.kernels.cases import draw_token, unmask_step

SIZES = {
    "odd": {"b": 2, "n": 7, "vocab": 13, "masked": 2},
    "positions together": {"b": 2, "n": 19, "vocab": 200, "masked": 9, "last": False},
    "more than a tile": {"b": 1, "n": 2, "vocab": 8200, "masked": 1, "known": 0.0},
    "all equal": {"b": 1, "n": 37, "vocab": 4, "masked": 11, "known": 0.3, "equal": True, "given": True},
}


@pytest.mark.parametrize("name", SIZES)
def test_tokens_from_a_seed_are_those_of_the_reference(name: str) -> None:
    torch.manual_seed(0)
    args = unmask_step.arguments(**{"given": False, **SIZES[name]}, dtype=torch.float32)
    known = OPERATORS[unmask_step.OPERATOR]
    assert torch.equal(known.call(*args), known.reference(*args))


def test_a_token_from_a_seed_is_that_of_the_reference() -> None:
    torch.manual_seed(0)
    args = draw_token.arguments(3, 4500, given=False, dtype=torch.float32)
    known = OPERATORS[draw_token.OPERATOR]
    assert torch.equal(known.call(*args), known.reference(*args))


@pytest.mark.parametrize("first", (-float("inf"), -500.0))
def test_columns_far_above_the_first_do_not_overflow(first: float) -> None:
    torch.manual_seed(0)
    args = unmask_step.arguments(2, 7, 300, 2, given=False, dtype=torch.float32)
    args[1][..., :256] = first
    known = OPERATORS[unmask_step.OPERATOR]
    found = known.call(*args)
    assert torch.equal(found, known.reference(*args))
    assert (found >= 256).any(), "what has no mass is not drawn"
