"""The cases of every operator of ours: `SMALL` are run, `LARGE` are planned on `meta` and compiled."""

from __future__ import annotations

from typing import Any

import torch

from minimodels.kernels.operator import OPERATORS, Operator
from tests.kernels.cases import (
    add_layer_norm,
    draw_token,
    glu,
    group_norm,
    guided_step,
    layer_norm,
    rotary,
    temporal_attention,
    unmask_step,
)

MODULES = {
    module.OPERATOR: module
    for module in (
        add_layer_norm,
        draw_token,
        glu,
        group_norm,
        guided_step,
        layer_norm,
        rotary,
        temporal_attention,
        unmask_step,
    )
}
SMALL = [(name, case) for name, module in MODULES.items() for case in module.SMALL]
LARGE = [(name, case) for name, module in MODULES.items() for case in module.LARGE]


def operator(name: str) -> Operator:
    """What is known of an operator."""
    return OPERATORS[name]


def small(name: str, case: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of a small case, the same at every call."""
    torch.manual_seed(0)
    return MODULES[name].small(case, dtype)


def large(name: str, case: str) -> tuple[Any, ...]:
    """The arguments of a large case, on `meta`."""
    return MODULES[name].LARGE[case]
