"""The cases of every operator of ours: `SMALL` are run, `LARGE` are planned on `meta` and compiled."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from minimodels.kernels.operator import OPERATORS, Operator

FILES = sorted(file.stem for file in (Path(__file__).parent / "cases").glob("*.py"))
MODULES: dict[str, Any] = {}
for module in (import_module(f"tests.kernels.cases.{name}") for name in FILES):
    MODULES[module.OPERATOR] = module
SMALL = [(name, case) for name, module in MODULES.items() for case in module.SMALL]
FIRST = {(name, case) for name, module in MODULES.items() for case in list(module.SMALL)[:2]}
SOME = [pytest.param(*one, marks=() if one in FIRST else pytest.mark.slow) for one in SMALL]  # two of a kernel, quickly
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
