"""Keeps torch's shape rules from importing Dynamo, which takes 2 s and 130 MB that a walk has no use for.

torch wraps many rules of the `meta` device so that Dynamo never compiles them, and imports Dynamo to do so,
on their first call. Nothing is compiled during a walk. While one runs, a stand-in for `torch._dynamo` answers
that one request by leaving the rule as it is; asked for anything else it makes way for the real module. On
leaving, every rule it touched is as before.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


class _StandIn(ModuleType):
    def __init__(self) -> None:
        super().__init__(NAME)
        self.rules: list[Callable[..., Any]] = []

    def disable(self, fn: Callable[..., Any], recursive: bool = True, **_: Any) -> Callable[..., Any]:
        self.rules.append(fn)
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _make_way(self)
        return getattr(importlib.import_module(NAME), name)


def _make_way(stand_in: _StandIn) -> None:
    if sys.modules.get(NAME) is stand_in:
        del sys.modules[NAME]
    for rule in stand_in.rules:
        vars(rule).pop("__dynamo_disable", None)
    stand_in.rules.clear()


@contextmanager
def no_dynamo() -> Iterator[None]:
    """Inside, nothing imports Dynamo for want of disabling it; does nothing where it is imported already."""
    if NAME in sys.modules:
        yield
        return
    stand_in = sys.modules[NAME] = _StandIn()
    try:
        yield
    finally:
        _make_way(stand_in)
