"""Which kernels run: the one setting of a run that operators read, set by two context managers alone.

`attention_backend(name, target)` chooses how attention runs, `kernel_backend(name)` whether all else that has a
Triton kernel of ours runs as torch's operators ("torch") or in that kernel ("triton"). `target` names the
architecture whose limits decide on `meta` tensors ("sm80", "gfx942", "cpu"); on real tensors their device does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import torch

from minimodels.kernels.packages import MISSING, installed

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton runs its kernels on CPU tensors
BACKENDS = (
    "sdpa", "baseline", "flash", "flash!", "efficient", "efficient!", "cudnn", "cudnn!", "triton", "triton!",
    "flash-attn",
)  # fmt: skip
PACKAGES = ("flash-attn",)  # backends that are packages of that name
KERNELS = ("torch", "triton")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is chosen: the attention backend, the other operators' kernels, and the target on `meta`."""

    attention: str = "sdpa"
    kernels: str = "torch"
    target: str = "cpu"


_choice = Choice()


def choice() -> Choice:
    """What is chosen at present."""
    return _choice


def ours() -> bool:
    """Whether operators other than attention run in Triton kernels of ours."""
    return _choice.kernels == "triton"


@contextmanager
def attention_backend(name: str, target: str | None = None) -> Iterator[None]:
    """Run every `attention()` inside with backend `name`; `target` decides on `meta` tensors, where nothing runs.

    Example: docs/python.md.

    Raises:
        ValueError: there is no such backend, or, without a target, it is a package that is not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown attention backend {name!r}; allowed: {', '.join(BACKENDS)}")
    if name in PACKAGES and target is None and not installed(name):
        raise ValueError(
            f"attention backend {name!r} needs the package {name}, which is {MISSING} here; of torch's own, flash is "
            "the same kernel"
        )
    with _chosen(replace(_choice, attention=name, target=target or _choice.target)):
        yield


@contextmanager
def kernel_backend(name: str) -> Iterator[None]:
    """Run operators other than attention with torch's kernels ("torch") or ours ("triton").

    Raises:
        ValueError: there is no such choice.
    """
    if name not in KERNELS:
        raise ValueError(f"unknown kernels {name!r}; allowed: {', '.join(KERNELS)}")
    with _chosen(replace(_choice, kernels=name)):
        yield


@contextmanager
def _chosen(new: Choice) -> Iterator[None]:
    global _choice
    before, _choice = _choice, new
    try:
        yield
    finally:
        _choice = before


def target_of(x: torch.Tensor) -> str:
    """The architecture whose limits decide for a tensor: that of its device, on `meta` the chosen target."""
    return _choice.target if x.device.type == "meta" else architecture(x.device)


COMPUTE_UNITS = {"sm80": 108, "sm89": 128, "sm90": 132, "sm100": 148, "gfx942": 304}  # of the largest GPU of each


def compute_units(x: torch.Tensor) -> int:
    """Multiprocessors of a tensor's device, on `meta` of the largest GPU with the chosen target; 1 on a CPU."""
    if x.device.type == "cuda":
        return torch.cuda.get_device_properties(x.device).multi_processor_count
    return COMPUTE_UNITS.get(target_of(x), 1)


CACHE_BYTES = {"sm80": 40_000_000, "sm89": 72_000_000, "sm90": 50_000_000, "sm100": 126_000_000, "gfx942": 0}


def cache_bytes(x: torch.Tensor) -> int:
    """Bytes of the L2 cache that all units of a tensor's device share, on `meta` of the chosen target, else as sm90.

    0 on AMD's GPUs, whose chiplets have a cache each.
    """
    if x.device.type == "cuda":
        return 0 if torch.version.hip else torch.cuda.get_device_properties(x.device).L2_cache_size
    return CACHE_BYTES.get(target_of(x), CACHE_BYTES["sm90"])


@cache
def architecture(device: torch.device) -> str:
    """What decides a device's limits: "sm80", "gfx942", "cpu"."""
    if device.type != "cuda":
        return "cpu"
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.partition(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"
