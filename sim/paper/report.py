"""The study again as one page: every finished target with its caption and its numbers, and the scoreboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from inspect import getdoc
from pathlib import Path
from typing import Any

from minimodels.sim import device as devices
from minimodels.sim.files import read, write_whole
from minimodels.sim.paper import finished, targets
from minimodels.sim.paper.result import by_kind
from minimodels.sim.paper.study import Study, settings
from minimodels.sim.report.page import inline_svg, render
from minimodels.version import VERSION

NAME = "report.html"
ROMAN = {"1": "I", "2": "II", "3": "III"}  # as the study numbers its tables


def title(target: str) -> str:
    """A target as the study names it: "Fig. 7", "Table II"."""
    kind, number = target.rstrip("0123456789"), target.lstrip("tablefig")
    return f"Table {ROMAN[number]}" if kind == "table" else f"Fig. {number}"


def caption(target: str) -> str:
    """What a target shows: the first paragraph of what its function says of itself."""
    return " ".join((getdoc(targets.TARGETS[target]) or "").partition("\n\n")[0].split())


def write(study: Study, rows: Sequence[dict[str, str]], folder: Path) -> Path:
    """Write `report.html` of what is finished in a folder; rows: of the scoreboard, none with other lengths.

    Raises:
        ValueError: a picture cannot be read, or the page cannot be written.
    """
    names = targets.done(folder, finished.key(study))
    where = "measured on this GPU" if study.device == "cuda" else f"simulated on {devices.load(study.device).title}"
    page = render(
        "paper/report.html",
        title="The study again",
        version=VERSION,
        source_of=where,
        different=targets.hypothetical(study),
        targets=[_section(name, rows, folder) for name in names],
        titles={name: title(name) for name in names},
        rows=rows,
        counts=Counter(row["holds"] for row in rows),
        kinds=by_kind(rows),
        settings=settings(study.lengths),
    )
    write_whole(folder / NAME, page.encode())
    return folder / NAME


def _section(name: str, rows: Sequence[dict[str, str]], folder: Path) -> dict[str, Any]:
    own = [row for row in rows if row["target"] == name]
    picture = read(folder / f"{name}.svg").decode()
    return {
        "name": name, "title": title(name), "caption": caption(name), "rows": own,
        "holding": sum(row["holds"] == "yes" for row in own),
        "picture": inline_svg(picture, name, f"{title(name)}: {caption(name)}"),
    }  # fmt: skip
