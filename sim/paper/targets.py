"""Every table and figure of the study as a target: run, written, and reused when asked for again.

A target leaves TARGET.png, .svg and .csv in a folder, and rows in scoreboard.csv. It is finished when all are there and
nothing has changed that it depends on (`finished`); whatever stops a run leaves what was finished.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from minimodels.sim import figures
from minimodels.sim.files import read, write_whole
from minimodels.sim.paper import (
    caches,
    diagrams,
    finished,
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
    training,
)
from minimodels.sim.paper.result import Result, as_csv, score_row, scoreboard
from minimodels.sim.paper.study import Study, settings

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
    "fig6": training.fig6,
    "fig7": flash.fig7,
    "fig8": sequence.fig8,
    "fig9": sizes.fig9,
    "fig10": scaling.fig10,
    "fig11": temporal.fig11,
    "fig12": temporal.fig12,
    "fig13": caches.fig13,
    "fig14": frames.fig14,
}
SCOREBOARD, SETTINGS = "scoreboard.csv", "settings.csv"
LARGER = ("fig7", "fig8", "fig12")  # that are also made with other lengths than the study's


def chosen(names: Sequence[str], lengths: Mapping[str, int] | None = None) -> list[str]:
    """The targets that are meant: all for none or "all"; with other lengths those that can be made so.

    Raises:
        ValueError: there is no such target, or it is made with the study's own lengths alone.
    """
    allowed = LARGER if lengths else tuple(TARGETS)
    for name in names:
        if name not in (*TARGETS, "all"):
            raise ValueError(f"unknown target {name!r}; allowed: all, {', '.join(TARGETS)}")
        if name not in (*allowed, "all"):
            raise ValueError(f"{name} has the study's own lengths; with others there are {', '.join(LARGER)}")
    return list(allowed) if not names or "all" in names else [name for name in allowed if name in names]


def folder_of(folder: Path, lengths: Mapping[str, int]) -> Path:
    """Where results go: with other lengths than the study's a folder of their own, named after them."""
    return folder / "_".join(f"{name.replace('_', '-')}-{value}" for name, value in lengths.items())


def run(names: Sequence[str], study: Study, folder: Path, force: bool = False) -> list[dict[str, str]]:
    """Run targets that are not finished, writing each at once; the whole scoreboard.

    With other lengths than the study's there is none: `settings.csv` says what was changed instead.

    Raises:
        ValueError: a target is unknown, the folder holds what was made for another device, or a file cannot be
            read or written.
    """
    listed, wanted = chosen(names, study.lengths), finished.key(study)
    finished.claim(folder, study.device)
    known = [row for row in _read(folder / SCOREBOARD) if row["target"] in done(folder, wanted)]
    if study.lengths:
        write_whole(folder / SETTINGS, _settings(study).encode())
    for number, name in enumerate(listed):
        study.progress(name, number, len(listed))
        scored = study.lengths or any(row["target"] == name for row in known)
        if not force and scored and name in done(folder, wanted):
            continue
        finished.mark(folder, name, None)
        result = TARGETS[name](study)
        if study.lengths:
            said = result.figure.get_suptitle(), textwrap.fill(hypothetical(study), 100)
            result.figure.suptitle("\n".join(filter(None, said)), fontsize=10)
        for extension in (".png", ".svg"):
            figures.save(result.figure, folder / f"{name}{extension}")
        write_whole(folder / f"{name}.csv", result.table().encode())
        if not study.lengths:
            rows = [score_row(score, name, result.device or study.device) for score in result.scores]
            known = [row for row in known if row["target"] != name] + rows
            write_whole(folder / SCOREBOARD, as_csv(scoreboard(known)).encode())
        finished.mark(folder, name, wanted)
    return [] if study.lengths else scoreboard(known)


def done(folder: Path, wanted: str) -> list[str]:
    """The targets that are finished in a folder under a key, and whose files are all there."""
    marked = finished.finished(folder, wanted)
    return [
        name
        for name in TARGETS
        if name in marked and all((folder / f"{name}{extension}").exists() for extension in (".png", ".svg", ".csv"))
    ]


def hypothetical(study: Study) -> str:
    """What differs from the study, in words; empty where nothing does."""
    if not study.lengths:
        return ""
    said = []
    for length, value in study.lengths.items():
        names = [one.workload for one in settings(study.lengths) if one.length == length and one.changed]
        said.append(f"{length.replace('_', ' ')} {value:,} ({', '.join(names)})")
    return f"Not the study's: {'; '.join(said)}"


def _settings(study: Study) -> str:
    rows = [asdict(setting) for setting in settings(study.lengths)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _read(path: Path) -> list[dict[str, str]]:
    """The rows of an earlier scoreboard.

    Raises:
        ValueError: it cannot be read.
    """
    if not path.exists():
        return []
    try:
        text = read(path).decode()
    except UnicodeDecodeError:
        raise ValueError(f"cannot read {path}: it is not UTF-8; remove it, or give --out another folder") from None
    rows = csv.DictReader(io.StringIO(text))
    return [row for row in rows if row.get("target") in TARGETS]
