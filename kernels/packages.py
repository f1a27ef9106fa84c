"""Packages of others whose kernels ours are compared with: imported where they are installed, only when used.

None is a dependency. A name is what its users call it, a module what they import.
"""

from __future__ import annotations

from importlib import import_module, metadata, util
from types import ModuleType

MODULES = {
    "flash-attn": "flash_attn",  # FlashAttention-2
    "flash-attn-3": "flash_attn_interface",
    "xformers": "xformers",
    "liger-kernel": "liger_kernel",
    "apex": "apex",
}
MISSING = "not installed"


def installed(name: str) -> bool:
    """Whether a package of `MODULES` is there; it is not imported."""
    return util.find_spec(MODULES[name]) is not None


def load(name: str, inside: str = "") -> ModuleType:
    """The module of a package of `MODULES`, or one `inside` it (".ops").

    Raises:
        ValueError: it is not installed, or cannot be imported; the message names it.
    """
    if not installed(name):
        raise ValueError(f"the package {name} is {MISSING} (its module is {MODULES[name]})")
    try:
        return import_module(MODULES[name] + inside)
    except (ImportError, OSError) as error:  # built for another torch or CUDA
        raise ValueError(f"the package {name} is installed, but cannot be imported: {error}") from error


def versions() -> dict[str, str]:
    """What is there of each package: its version, "not installed", or why it cannot be imported."""
    return {name: _version(name) for name in MODULES}


def _version(name: str) -> str:
    if not installed(name):
        return MISSING
    try:
        module = load(name)
    except ValueError as error:
        return str(error)
    for distribution in metadata.packages_distributions().get(MODULES[name], []):
        return metadata.version(distribution)
    return str(getattr(module, "__version__", "of unknown version"))
