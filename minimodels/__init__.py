"""minimodels: text-to-image and text-to-video architectures from scratch, measured or simulated.

    profile = minimodels.simulate(minimodels.load("parti-3b"), device="h100-sxm", attention="flash")

The public names load on first use, so that importing the package costs nothing. docs/python.md has an example of each.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minimodels.kernels.backend import attention_backend as attention_backend
    from minimodels.loader import load as load
    from minimodels.run import Run as Run
    from minimodels.run import build as build
    from minimodels.sim.api import measure as measure
    from minimodels.sim.api import simulate as simulate
    from minimodels.sim.profile import Profile as Profile
    from minimodels.sim.variants import compare as compare
    from minimodels.sim.variants import sweep as sweep
    from minimodels.weights import from_pretrained as from_pretrained

_HOMES = {
    "load": "minimodels.loader",
    "build": "minimodels.run",
    "Run": "minimodels.run",
    "attention_backend": "minimodels.kernels.backend",
    "Profile": "minimodels.sim.profile",
    "simulate": "minimodels.sim.api",
    "measure": "minimodels.sim.api",
    "compare": "minimodels.sim.variants",
    "sweep": "minimodels.sim.variants",
    "from_pretrained": "minimodels.weights",
}
__all__ = [
    "Profile", "Run", "attention_backend", "build", "compare", "from_pretrained", "load", "measure", "simulate",
    "sweep",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'minimodels' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
