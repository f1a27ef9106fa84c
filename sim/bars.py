"""What the project set out to reach on its shipped table, and whether it does: bars are set, not fitted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from minimodels.sim.split import GPUS
from minimodels.sim.truth_gpus import device_of
from minimodels.sim.validate import Group


@dataclass(frozen=True, slots=True)
class Bar:
    """The most that the median and the 90th percentile of a group of rows may be off, as shares; p90 None: no bar."""

    median: float
    p90: float | None = None


def bar_of(group: Group) -> Bar | None:
    """The bar of a family on a GPU; None where none was set."""
    family, device = group.family, device_of(group.gpu)
    if family.startswith("denoise"):
        return Bar(0.10 if family.endswith("compiled") else 0.15)
    if family.startswith("LLaMA"):
        return {"LLaMA decode": Bar(0.05), "LLaMA prefill": Bar(0.08)}.get(family)
    if family.startswith("peak memory"):
        return Bar(0.05)
    if family.startswith(("gemm", "attention")):
        if family.startswith("gemm") and device == "l40s":
            return Bar(0.12, 0.45)
        return Bar(0.12 if device in GPUS and device != "h200" else 0.08, 0.25)
    kinds = ("conv2d fwd", "conv2d bwd-data", "softmax", "layernorm", "norm", "elementwise", "gelu")
    return Bar(0.15) if family in kinds else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A group beside its bar."""

    group: Group
    bar: Bar

    @property
    def met(self) -> bool:
        """Whether both are reached, as they are written: to a tenth of a per cent, p90 to one per cent."""
        p90 = self.bar.p90 is None or round(self.group.p90, 2) <= self.bar.p90
        return round(self.group.median, 3) <= self.bar.median and p90


def verdicts(groups: Iterable[Group]) -> Iterator[Verdict]:
    """Every group that has a bar, in order."""
    for group in groups:
        bar = bar_of(group)
        if bar is not None:
            yield Verdict(group, bar)
