"""What Nsight Compute counted, from its raw page as CSV: a row a kernel, a column a metric, units in the second row.

Lines of `ncu` itself and of the program it ran may stand before the header. Counters of the L2 cache of an A100 take
data in its other half for a miss.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from minimodels.sim import units
from minimodels.sim.cache.gpu import LATENCIES, Counts
from minimodels.sim.cells import table_of
from minimodels.sim.counters import COPIES, FOUND, INSTRUCTIONS, LOADS, MEMORY, METRICS, MISSED, TIME

NAME, CAPABILITY = "Kernel Name", "CC"
RANGES = "Push/Pop_Range"  # in the name of the column with the ranges a kernel was launched in
A100 = "8.0"  # compute capability whose latencies are known
FAMILIES = (  # of kernels, by what their names hold; the first that fits
    ("softmax", "softmax"), ("gemm", "gemm|gemv|cutlass|xmma|cijk"), ("copies", "copy|CatArray"),
    ("elementwise", "elementwise|vectorized"),
)  # fmt: skip
PREFIXES = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
UNITS = r"(?P<prefix>[numKMGT]?)(?P<unit>second|sector|byte|inst|s)"
LABEL = re.compile(r'"(?:[^":]*):([^":]+):[^"]*"')  # "domain:message:..."


@dataclass(frozen=True, slots=True)
class Counted:
    """A kernel as it was counted: base units; path: labels of the ranges around it, the outermost first."""

    kernel: str
    path: tuple[str, ...]
    capability: str
    values: dict[str, float]

    @property
    def scope(self) -> str:
        """The stage and the attention block it ran in."""
        kept = [part for part in self.path if part.startswith(("stage.", "attention."))]
        return "/".join(part.removeprefix("stage.") for part in kept) or "(outside any)"

    @property
    def family(self) -> str:
        """The family of kernels it belongs to, by its name."""
        return next((name for name, said in FAMILIES if re.search(said, self.kernel, re.IGNORECASE)), "other")


@dataclass(slots=True)
class Sum:
    """Counters of the kernels of one family in one scope."""

    scope: str
    family: str
    counts: Counts
    launches: int = 0
    seconds: float = 0.0
    memory_bytes: float = 0.0
    known: bool = True  # latencies are those of the GPU

    def row(self) -> dict[str, float | str | None]:
        """As a record: misses per thousand instructions, clocks, bytes a second; None where it cannot be told."""
        counts = self.counts
        return {
            "scope": self.scope,
            "kernels": self.family,
            "launches": self.launches,
            "instructions": counts.instructions,
            "l1_mpki": counts.l1_mpki if counts.instructions else None,
            "l2_mpki": counts.l2_mpki if counts.instructions else None,
            "access_time": counts.access_time(LATENCIES[0]) if self.known and counts.loads else None,
            "bandwidth": self.memory_bytes / self.seconds if self.seconds else None,
        }


def read(text: str, origin: str) -> Iterator[Counted]:
    """The kernels of a CSV file that `ncu --csv --page raw` wrote; `origin` names it in errors.

    Raises:
        ValueError: there is no such table in it, a metric is missing, or a value or unit cannot be read.
    """
    lines = text.splitlines(keepends=True)
    begin = next((place for place, line in enumerate(lines) if line.startswith('"ID"')), None)
    if begin is None:
        raise ValueError(f'{origin} holds no table of ncu: no line begins with "ID"; write it with --csv --page raw')
    rows = list(csv.reader(io.StringIO("".join(line for line in lines[begin:] if not line.startswith("==")))))
    header, named = rows[0], rows[1] if len(rows) > 1 else []
    missing = [name for name in (NAME, *METRICS) if name not in header]
    if missing:
        wide = "" if "Metric Name" not in header else "; that is the details page, --page raw is needed"
        raise ValueError(f"{origin} lacks {', '.join(missing)}{wide}; `minibench counters NAME` prints the command")
    if len(named) != len(header) or named[0]:
        raise ValueError(f"{origin} has no row of units behind its header")
    ranges = next((place for place, name in enumerate(header) if RANGES in name), None)
    for number, row in enumerate(rows[2:], begin + 3):
        if len(row) != len(header):
            raise ValueError(f"{origin}, line {number}: {len(row)} columns, the header has {len(header)}")
        cells = dict(zip(header, row, strict=True))
        of = dict(zip(header, named, strict=True))
        where = f"{origin}, line {number}"
        values = {name: _number(cells[name], of[name], f"{where}, {name}") for name in METRICS}
        path = tuple(LABEL.findall(row[ranges])) if ranges is not None else ()
        yield Counted(cells[NAME], path, cells.get(CAPABILITY, ""), values)


def _number(value: str, unit: str, where: str) -> float:
    """A value in its base unit: seconds, bytes, sectors, instructions."""
    found = re.fullmatch(UNITS, unit) if unit else None
    try:
        number = float(value.replace(",", ""))
    except ValueError:
        raise ValueError(f"{where}: {value!r} is no number; was the metric counted on this GPU?") from None
    if unit and found is None:
        raise ValueError(f"{where}: unknown unit {unit!r}; --print-units base writes ns, byte, sector and inst")
    return number * PREFIXES[found["prefix"]] if found else number


def sums(kernels: Sequence[Counted]) -> list[Sum]:
    """The sums by scope and family, in order of first appearance."""
    found: dict[tuple[str, str], Sum] = {}
    for kernel in kernels:
        own = found.setdefault((kernel.scope, kernel.family), Sum(kernel.scope, kernel.family, Counts()))
        values = kernel.values
        below = values[FOUND] + values[MISSED]
        loads = max(values[LOADS] + values[COPIES], below)
        own.counts.add(Counts(values[INSTRUCTIONS], loads, below, values[MISSED]))
        own.launches += 1
        own.seconds += values[TIME]
        own.memory_bytes += values[MEMORY]
        own.known = own.known and kernel.capability == A100
    return list(found.values())


def report(listed: Sequence[Sum], origin: str) -> Group:
    """A table of the sums."""
    table = table_of("Scope and kernels", "Launches", "Instructions", "L1 MPKI", "L2 MPKI", "Access time", "Bandwidth")
    for one in listed:
        row = one.row()
        rates = [units.UNKNOWN if (x := row[key]) is None else units.digits(float(x)) for key in ("l1_mpki", "l2_mpki")]
        clocks = row["access_time"]
        table.add_row(
            f"{one.scope} {one.family}", units.count(one.launches), units.count(round(one.counts.instructions)), *rates,
            units.UNKNOWN if clocks is None else f"{float(clocks):.0f} clocks",
            units.si(None if row["bandwidth"] is None else float(row["bandwidth"]), "B/s"),
        )  # fmt: skip
    latencies = f"latencies of an A100: {LATENCIES[0].source}" if any(one.known for one in listed) else (
        "access time is told for an A100 alone, whose latencies are known"
    )  # fmt: skip
    return Group(
        Text(f"counted by Nsight Compute ({origin}): every step that ran counts once"), Text(), table, Text(),
        Text(f"MPKI: sectors of 32 B that a cache did not have, per 1,000 warp instructions; {latencies}"),
    )  # fmt: skip


def as_json(listed: Sequence[Sum]) -> list[dict[str, float | str | None]]:
    """The sums as records."""
    return [one.row() for one in listed]
