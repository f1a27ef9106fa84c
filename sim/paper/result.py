"""What comes of a target: a figure, a table, and what is said of the numbers of the study.

`numbers.csv` lists every number of the study's text, tables and captions, with where it stands, what to compute and
where the study contradicts itself. A `Score` says what we find for one of them, by which reading.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("measured", "derived", "definition", "fleet data")  # of numbers
COLUMNS = (
    "id",
    "where",
    "quantity",
    "kind",
    "published",
    "ours",
    "reading",
    "difference",
    "holds",
    "why",
    "target",
    "device",
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number of the study: where it says it, what it is, and how to come to it or why that cannot be.

    kind: "measured" on a GPU, "derived" by counting, a "definition" or setting, or "fleet data" of a company.
    """

    id: str
    where: str
    quantity: str
    published: str
    unit: str
    kind: str
    reproducible: str  # yes, partly, no
    how: str
    note: str


@dataclass(frozen=True, slots=True)
class Score:
    """What we find for a number. difference: ours less the published value; holds: None where that cannot be told."""

    id: str
    ours: str
    holds: bool | None
    reading: str = ""
    difference: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A target done: its picture, its table (a header and rows), its scores.

    device: the one that stood in where the study's cannot tell; none: it is the study's.
    """

    figure: Figure
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    scores: Sequence[Score]
    device: str | None = None

    def table(self) -> str:
        """The table as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([f"{x:.6g}" if isinstance(x, float) else x for x in row] for row in self.rows)
        return text.getvalue()


@cache
def numbers() -> dict[str, Number]:
    """Every number of the study, by id, in the order of its text."""
    text = (resources.files("minimodels.sim.paper") / "numbers.csv").read_text("utf-8")
    return {
        row["id"]: Number(
            row["id"], row["where"], row["quantity"], row["published_value"], row["unit"], row["kind"],
            row["reproducible"], row["how_or_why"], row["note"],
        )
        for row in csv.DictReader(io.StringIO(text))
    }  # fmt: skip


def score_row(score: Score, target: str, device: str) -> dict[str, str]:
    """A score as a row of the scoreboard."""
    number = numbers()[score.id]
    return {
        "id": score.id,
        "where": number.where,
        "quantity": number.quantity,
        "kind": number.kind,
        "published": f"{number.published} {number.unit}".strip(),
        "ours": score.ours,
        "reading": score.reading,
        "difference": "" if score.difference is None else f"{score.difference:+.3g}",
        "holds": {True: "yes", False: "no", None: "cannot be told"}[score.holds],
        "why": score.why,
        "target": target,
        "device": device,
    }


def scoreboard(rows: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """A row for every number of the study: those given, and why there is none for the others."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(row)
    board = []
    for name, number in numbers().items():
        board += found.get(name) or [score_row(_missing(number), "", "")]
    return board


def _missing(number: Number) -> Score:
    if number.reproducible == "no":
        return Score(number.id, "not reproduced", None, why=number.how)
    return Score(number.id, "not computed", None, why="its target was not run")


def by_kind(rows: Iterable[dict[str, str]]) -> dict[str, Counter[str]]:
    """How many rows of the scoreboard hold, by kind of number: what is measured says more than a definition."""
    found: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for row in rows:
        found[row["kind"]][row["holds"]] += 1
    return found


def as_csv(rows: Iterable[dict[str, str]]) -> str:
    """Rows of the scoreboard as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
