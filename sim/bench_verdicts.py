"""The goals of our kernels, and whether what `minibench bench` measured meets them: met, missed, or not measured.

A goal is judged at every size it is set at (`bench_goals.SIZES`) and its verdict is that of the worst one. A size at
which what it compares with cannot do the call does not count; one at which ours is wrong is missed. Whole models are
judged by the profiles that `make gpu` writes beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, log
from pathlib import Path
from statistics import linear_regression
from typing import Any, Literal, NamedTuple

from rich.console import Group

from minimodels.kernels.baselines import CONV1D, REARRANGED
from minimodels.kernels.case import Case
from minimodels.sim import units, views
from minimodels.sim.bench_goals import GOAL, SIZES
from minimodels.sim.cells import table_of
from minimodels.sim.profile import Profile

Word = Literal["met", "missed", "not measured"]
Record = Mapping[str, Any]
FA2 = ("flash", "flash-attn")  # torch's, and the package's
SDPA = ("flash", "efficient", "cudnn", "math")
NEEDED = tuple(REARRANGED + name for name in SDPA)
PROFILES = {name: f"profile-{{model}}-{name}.json" for name in ("eager-sdpa", "compiled-sdpa", "graph-triton")}
NOTHING = "-"
CANNOT = float("nan")  # what is compared with cannot do the call


class Seen(NamedTuple):
    """What was measured of one call: its case, rows by implementation, the ceilings of that run."""

    case: Case
    rows: Record
    ceilings: Record


@dataclass(frozen=True, slots=True)
class Faster:
    """Ours takes at most 1 / `least` of the time of the fastest of `others`, called `than`."""

    least: float
    than: str
    others: tuple[str, ...]

    @property
    def aim(self) -> str:
        return f"≥ {self.least:.4g} x {self.than}"

    def values(self, seen: Sequence[Seen]) -> list[float | None]:
        """By how many times ours is faster, a size each; None if not measured."""
        return [self._value(one.rows) for one in seen]

    def _value(self, rows: Record) -> float | None:
        there = [rows[name] for name in self.others if name in rows]
        times = [row["seconds"] for row in there if row["seconds"] is not None and not row["wrong"]]
        if not times:
            return CANNOT if there else None
        return min(times) / rows["ours"]["seconds"]

    def met(self, value: float) -> bool:
        """Whether it is enough."""
        return value >= self.least

    def written(self, value: float) -> str:
        """The value in words."""
        return units.times(value)


@dataclass(frozen=True, slots=True)
class Reached:
    """Ours reaches a share of what a copy or a matrix product reaches."""

    least: float
    ceiling: Literal["copy", "matmul"]

    @property
    def aim(self) -> str:
        return f"≥ {self.least:.0%} of {self.ceiling}".replace("%", " %")

    def values(self, seen: Sequence[Seen]) -> list[float | None]:
        """The share, a size each."""
        return [self._value(one) for one in seen]

    def _value(self, one: Seen) -> float | None:
        ours = one.rows["ours"]
        if self.ceiling == "copy":
            return ours["bandwidth"] / one.ceilings["copy"]
        rate = one.ceilings["matmul"].get(one.case.dtype)
        return None if rate is None or ours["flops"] is None else ours["flops"] / rate

    def met(self, value: float) -> bool:
        return value >= self.least

    def written(self, value: float) -> str:
        return units.percent(value)


@dataclass(frozen=True, slots=True)
class Within:
    """Ours takes at most so many seconds."""

    most: float

    @property
    def aim(self) -> str:
        return f"≤ {units.seconds(self.most)}"

    def values(self, seen: Sequence[Seen]) -> list[float | None]:
        """Seconds, a size each."""
        return [one.rows["ours"]["seconds"] for one in seen]

    def met(self, value: float) -> bool:
        return value <= self.most

    def written(self, value: float) -> str:
        return units.seconds(value)


@dataclass(frozen=True, slots=True)
class Linear:
    """Time grows with the number of frames to a power of at most `most`, by least squares over the logarithms."""

    most: float

    @property
    def aim(self) -> str:
        return f"frames to a power ≤ {self.most:.4g}"

    def values(self, seen: Sequence[Seen]) -> list[float | None]:
        """The fitted exponent."""
        frames = [log(one.case.views()[0].shape[3]) for one in seen]
        return [linear_regression(frames, [log(one.rows["ours"]["seconds"]) for one in seen]).slope]

    def met(self, value: float) -> bool:
        return value <= self.most

    def written(self, value: float) -> str:
        return f"power {value:.2f}"


Asked = Faster | Reached | Within | Linear


class Goal(NamedTuple):
    """What is asked of a kernel at some sizes."""

    kernel: str
    sizes: tuple[str, ...]
    asked: Asked


class Verdict(NamedTuple):
    """What came of a goal: the worst value in words, over how many of its sizes."""

    kernel: str
    aim: str
    found: str
    word: Word


def _eager(least: float) -> Faster:
    return Faster(least, "eager", ("eager",))


POINTWISE = ("norms", "modulation", "rotary")
GOALS = (
    Goal("temporal attention, 16 frames, d 64", ("temporal",), Reached(0.85, "copy")),
    Goal("temporal attention, 16 frames, d 64", ("temporal",), Faster(5, "the best SDPA kernel", SDPA)),
    Goal("temporal attention, 16 frames, d 64", ("temporal",), Faster(6, "it with rearranges", NEEDED)),
    Goal("temporal attention, 8 to 64 frames", ("frames",), Linear(1.1)),
    Goal("GroupNorm + SiLU, 1x128x20x256x256", ("video norm",), Within(200e-6)),
    Goal("GroupNorm + SiLU, 1x128x20x256x256", ("video norm",), _eager(20)),
    Goal("GroupNorm + SiLU, SD UNet", ("image norms",), _eager(2)),
    Goal("flash forward, d 40, 80, 160", ("flash, odd heads",), Faster(1.3, "FA2", FA2)),
    Goal("flash forward, d 40, 80, 160", ("flash, odd heads",), Faster(1, "cuDNN", ("cudnn",))),
    Goal("flash forward, d 64, 128", ("flash",), Faster(1.15, "FA2", FA2)),
    Goal("temporal conv1d, C ≥ 512", ("temporal conv",), Faster(2, "rearrange + conv1d", (CONV1D,))),
    Goal("temporal conv1d, C ≥ 512", ("temporal conv",), Reached(0.65, "matmul")),
    Goal("upsample + conv", ("upsample + conv",), _eager(1.8)),
    Goal("upsample, channels last", ("upsample",), _eager(8)),
    Goal("bias + residual", ("bias + residual",), _eager(2.5)),
    Goal("norms, rotary, modulation", POINTWISE, _eager(4)),
    Goal("norms, rotary, modulation", POINTWISE, Faster(1, "torch.compile", ("compile",))),
    Goal("norms, rotary, modulation", POINTWISE, Reached(0.85, "copy")),
    Goal("decode, KV ≥ 64 MB", ("decode",), Reached(0.85, "copy")),
    Goal("MaskGIT step", ("maskgit",), _eager(8)),
)
MODELS = (  # what is timed of whole models: title, model, stages (none: all)
    ("SD 1.5, 50 steps", "stable-diffusion-1.5", ()),
    ("Make-A-Video decoder", "make-a-video", ("decoder",)),
)


def judged(records: Iterable[Record], folder: Path | None = None) -> list[Verdict]:
    """All goals, by records of `minibench bench` and, for whole models, by the profiles in `folder`."""
    found: dict[tuple[str, str], tuple[dict[str, Any], Record]] = {}
    for record in records:
        for row in record["rows"]:
            if GOAL in row["where"].split(", "):
                at = found.setdefault((row["operator"], row["case"]), ({}, record["ceilings"]))
                at[0][row["implementation"]] = row
    verdicts = [_judged(goal, found) for goal in GOALS]
    return verdicts + [v for title, model, stages in MODELS for v in _whole(title, model, stages, folder)]


def _judged(goal: Goal, found: Mapping[tuple[str, str], tuple[dict[str, Any], Record]]) -> Verdict:
    asked, labels = goal.asked, (goal.kernel, goal.asked.aim)
    cases = [case for name in goal.sizes for case in SIZES[name]()]
    seen = [Seen(case, *found[at]) for case in cases if (at := (case.operator, case.title())) in found]
    if any(one.rows["ours"]["wrong"] for one in seen):
        return Verdict(*labels, "ours is wrong", "missed")
    seen = [one for one in seen if one.rows["ours"]["seconds"] is not None]
    whole = len(seen) == len(cases)
    if not seen or isinstance(asked, Linear) and not whole:
        return Verdict(*labels, NOTHING, "not measured")
    values = asked.values(seen)
    known = [value for value in values if value is not None and not isnan(value)]
    if not known:
        return Verdict(*labels, NOTHING, "not measured")
    worst = min(known) if isinstance(asked, Faster | Reached) else max(known)
    text = asked.written(worst)
    if len(values) > 1 or not whole:
        text += f", worst of {len(known)}" + ("" if len(known) == len(cases) else f" of {len(cases)}")
    if not asked.met(worst):
        return Verdict(*labels, text, "missed")
    return Verdict(*labels, text, "met" if whole and None not in values else "not measured")


def _whole(title: str, model: str, stages: tuple[str, ...], folder: Path | None) -> list[Verdict]:
    """Our kernels in graph mode beside our own eager `sdpa` and torch.compile of the same model, bf16."""
    times = {name: _seconds(folder, file.format(model=model), stages) for name, file in PROFILES.items()}
    ours, verdicts = times["graph-triton"], []
    for name, than in (("eager-sdpa", "eager sdpa"), ("compiled-sdpa", "torch.compile")):
        theirs = times[name]
        labels = (f"{title}, triton in graphs", f"> 1 x {than}")
        if ours is None or theirs is None:
            verdicts.append(Verdict(*labels, NOTHING, "not measured"))
        else:
            ratio = theirs / ours
            verdicts.append(Verdict(*labels, units.times(ratio), "met" if ratio > 1 else "missed"))
    return verdicts


def _seconds(folder: Path | None, name: str, stages: tuple[str, ...]) -> float | None:
    """Seconds of a measured profile's stages; None where there is none."""
    if folder is None or not (folder / name).exists():
        return None
    profile = Profile.load(folder / name)
    return views.elapsed(profile, *stages) if profile.source == "measured" else None


def report(verdicts: Sequence[Verdict]) -> Group:
    """The goals as a table."""
    table = table_of("Goal, set for an H200", "Asked", "Found", "Verdict")
    for verdict in verdicts:
        table.add_row(*verdict)
    return Group(table)
