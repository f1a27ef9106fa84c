"""Every table and figure of the study as a target: run, written, and reused when asked for again.

A target leaves TARGET.png, .svg and .csv in a folder, and rows in scoreboard.csv. It is finished when all are there,
for the same device and version; whatever stops a run leaves what was finished.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from minimodels.sim import figures
from minimodels.sim.files import write_whole
from minimodels.sim.paper import (
    diagrams,
    flash,
    frames,
    phases,
    pipelines,
    quality,
    roofline,
    scaling,
    sequence,
    sizes,
    taxonomy,
    temporal,
)
from minimodels.sim.paper.result import Result, as_csv, score_row, scoreboard
from minimodels.sim.paper.study import Study

Target = Callable[[Study], Result]
TARGETS: dict[str, Target] = {
    "table1": taxonomy.table1,
    "table2": flash.table2,
    "table3": phases.table3,
    "fig1": roofline.fig1,
    "fig2": pipelines.fig2,
    "fig3": diagrams.fig3,
    "fig4": quality.fig4,
    "fig5": roofline.fig5,
    "fig7": flash.fig7,
    "fig8": sequence.fig8,
    "fig9": sizes.fig9,
    "fig10": scaling.fig10,
    "fig11": temporal.fig11,
    "fig12": temporal.fig12,
    "fig14": frames.fig14,
}
SCOREBOARD = "scoreboard.csv"


def chosen(names: Sequence[str]) -> list[str]:
    """The targets that are meant: all for none or "all".

    Raises:
        ValueError: there is no such target.
    """
    unknown = [name for name in names if name not in (*TARGETS, "all")]
    if unknown:
        raise ValueError(f"unknown target {unknown[0]!r}; allowed: all, {', '.join(TARGETS)}")
    return list(TARGETS) if not names or "all" in names else [name for name in TARGETS if name in names]


def run(names: Sequence[str], study: Study, folder: Path, force: bool = False) -> list[dict[str, str]]:
    """Run targets that are not finished, writing each at once; the whole scoreboard.

    Raises:
        ValueError: a target is unknown, or a file cannot be written.
    """
    listed = chosen(names)
    known = _read(folder / SCOREBOARD, study.device)
    for number, name in enumerate(listed):
        study.progress(name, number, len(listed))
        if not force and finished(name, folder, known):
            continue
        result = TARGETS[name](study)
        for extension in (".png", ".svg"):
            figures.save(result.figure, folder / f"{name}{extension}")
        write_whole(folder / f"{name}.csv", result.table().encode())
        rows = [score_row(score, name, study.device) for score in result.scores]
        known = [row for row in known if row["target"] != name] + rows
        write_whole(folder / SCOREBOARD, as_csv(scoreboard(known)).encode())
    return scoreboard(known)


def finished(name: str, folder: Path, known: Sequence[dict[str, str]]) -> bool:
    """Whether all files of a target are there, and its rows of the scoreboard."""
    files = all((folder / f"{name}{extension}").exists() for extension in (".png", ".svg", ".csv"))
    return files and any(row["target"] == name for row in known)


def _read(path: Path, device: str) -> list[dict[str, str]]:
    """The rows of an earlier scoreboard that hold for this device."""
    if not path.exists():
        return []
    rows = csv.DictReader(io.StringIO(path.read_text("utf-8")))
    return [row for row in rows if row.get("device") == device and row.get("target") in TARGETS]
