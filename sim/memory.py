"""Bytes in use over an inference, from the storages a walk saw born and freed.

Weights are all of them, or with `--resident stage` only those that an operator of the running stage reads. On top
come inputs, activations, KV cache and workspaces, rounded as the allocator does. What the allocator never sees,
the runtime's context, is kept free on a GPU: `RESERVE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from minimodels.sim.profile import Memory

if TYPE_CHECKING:
    from torch import Tensor

    from minimodels.run import Run
    from minimodels.sim.trace import Walk

ROUNDING = 512  # bytes: torch's CUDA allocator rounds every block up to this
# Bytes: a context with torch's kernels takes 426 MiB on an RTX 6000 Ada (unslothai/unsloth-zoo pull 1053) and 616 MiB
# on a server GPU (LMCache/LMCache issue 4019); cuBLAS adds 8 MiB (pytorch/pytorch issue 95668), 32 MiB on Hopper.
RESERVE = 700_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes in use during every call of a walk, weights included."""

    per_call: list[int]
    kv_cache: int

    def finish(self, order: list[int], weights: int, capacity: int, reserve: int) -> Memory:
        """The memory record; `order` maps calls to ops, `capacity` and `reserve` are the device's, in bytes."""
        peak_call = max(range(len(self.per_call)), key=self.per_call.__getitem__, default=None)
        peak = weights if peak_call is None else self.per_call[peak_call]
        return Memory(
            weights=weights,
            kv_cache=self.kv_cache,
            peak=peak,
            peak_op=None if peak_call is None else order[peak_call],
            reserve=reserve,
            fits=peak + reserve <= capacity,
            timeline=tuple(_changes(self.per_call)),
        )


def account(walk: Walk, run: Run) -> tuple[Usage, int]:
    """Bytes per call of a finished walk, and the largest bytes of weights held at once."""
    parts = walk.parts
    sizes = {name: allocated(weight) for name, weight in (*parts.named_parameters(), *parts.named_buffers())}
    held: dict[str, int] = {}
    for call in walk.calls:
        if call.stage not in held:
            used = sizes if run.resident == "all" else walk.weight_use.get(call.stage, set())
            held[call.stage] = sum(sizes[name] for name in used)
    per_call = [held[call.stage] + call.live for call in walk.calls]
    return Usage(per_call, walk.storages.cache_peak), max(held.values(), default=0)


def allocated(weight: Tensor) -> int:
    """Bytes that a parameter or buffer takes on the device."""
    return -(-weight.numel() * weight.element_size() // ROUNDING) * ROUNDING


def _changes(values: list[int]) -> list[tuple[int, int]]:
    """[index, value] wherever the value differs from the one before, and at the end."""
    last = len(values) - 1
    return [(i, v) for i, v in enumerate(values) if i in (0, last) or v != values[i - 1]]
