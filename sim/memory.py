"""Bytes in use over an inference, from the storages a walk saw born and freed.

Weights are those of the parts in memory: all of them, or with `--resident stage` only those that the running
stage touches. On top come inputs, activations, KV cache and workspaces, rounded as the allocator does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from minimodels.sim.profile import Memory

if TYPE_CHECKING:
    from minimodels.run import Run
    from minimodels.sim.trace import Walk

ROUNDING = 512  # bytes: torch's CUDA allocator rounds every block up to this


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes in use during every call of a walk, weights included."""

    per_call: list[int]
    kv_cache: int

    def finish(self, order: list[int], weights: int, capacity: int) -> Memory:
        """The memory record; `order` maps calls to ops, `capacity` is the device's memory in bytes."""
        peak_call = max(range(len(self.per_call)), key=self.per_call.__getitem__, default=None)
        peak = weights if peak_call is None else self.per_call[peak_call]
        return Memory(
            weights=weights,
            kv_cache=self.kv_cache,
            peak=peak,
            peak_op=None if peak_call is None else order[peak_call],
            fits=peak <= capacity,
            timeline=tuple(_changes(self.per_call)),
        )


def account(walk: Walk, run: Run) -> tuple[Usage, int]:
    """Bytes per call of a finished walk, and the largest bytes of weights held at once."""
    sizes = {name: weight_bytes(part) for name, part in walk.parts.items()}
    held: dict[str, int] = {}
    for call in walk.calls:
        if call.stage not in held:
            used = sizes if run.resident == "all" else walk.part_use.get(call.stage, set())
            held[call.stage] = sum(sizes[name] for name in used)
    per_call = [held[call.stage] + call.live for call in walk.calls]
    return Usage(per_call, walk.storages.cache_peak), max(held.values(), default=0)


def weight_bytes(part: nn.Module) -> int:
    """Bytes that a part's parameters and buffers take on the device."""
    return sum(-(-t.numel() * t.element_size() // ROUNDING) * ROUNDING for t in (*part.parameters(), *part.buffers()))


def _changes(values: list[int]) -> list[tuple[int, int]]:
    """[index, value] wherever the value differs from the one before, and at the end."""
    last = len(values) - 1
    return [(i, v) for i, v in enumerate(values) if i in (0, last) or v != values[i - 1]]
