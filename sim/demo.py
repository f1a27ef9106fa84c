"""`minibench demo`: a family trained from scratch into a folder, resumed where it was left, judged and shown.

A folder holds `checkpoint.pt` (everything that training depends on), `samples.png` or `samples.gif`, and `result.json`.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.text import Text

from minimodels.demos.families import FAMILIES, Demo
from minimodels.demos.training import Trainer
from minimodels.sim import demo_pictures, files, units
from minimodels.sim.bench_report import RESULTS
from minimodels.sim.cells import table_of
from minimodels.sim.progress import Advance

QUICK = 0.25  # of the steps
AS_GIVEN = {QUICK: "with --quick: add it", 1.0: "without --quick: leave it out"}
INTERVAL = 20.0  # seconds between checkpoints
CHECKPOINT, RESULT = "checkpoint.pt", "result.json"
SHARES = ("shape", "colour", "direction", "all", "unseen")
NOTE = (
    "Of the generated samples, the share whose shape, colour and motion the classifier reads as the caption says; "
    "all: every one of them; unseen: all, of pairs never trained on; shuffled: all, beside captions of other samples; "
    "judge: the classifier, on newly drawn samples. time: of training, by the clock."
)


def run(demo: Demo, folder: Path, progress: Advance, interval: float = INTERVAL) -> dict[str, Any]:
    """Train a demo, or what is left of it in `folder`, judge it, and write picture and result there.

    interval: seconds between checkpoints.

    Raises:
        ValueError: the folder cannot be written, or holds a run of another family, seed or length.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make {folder}: {error.strerror}") from None
    path, identity = folder / CHECKPOINT, _identity(demo)
    files.check_writable(path)
    trainer = Trainer(demo.trained, demo.stages(), demo.seed)
    if path.exists():
        trainer.resume(_checkpoint(path, identity))
    trainer.run(lambda state: _keep(path, identity | {"state": state}), progress, interval)
    figures, labels, pixels = demo.evaluate(progress)
    record = {
        **identity,
        "title": demo.kind.title,
        "training_seconds": trainer.at.seconds,
        "training_cpu_seconds": trainer.at.cpu_seconds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "stages": [
            {"name": stage.name, "steps": stage.steps, "last_loss": loss}
            for stage, loss in zip(trainer.stages, trainer.at.losses, strict=True)
        ],
        **figures,
    }
    demo_pictures.save(labels, pixels, demo.kind.each, folder)
    files.write_whole(folder / RESULT, json.dumps(record, indent=1).encode())
    return record


def _identity(demo: Demo) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    return {"family": demo.family, "seed": demo.seed, "share": demo.share, "config": demo.config.model_dump()}


def _keep(path: Path, content: Mapping[str, Any]) -> None:
    data = io.BytesIO()
    torch.save(dict(content), data)
    files.write_whole(path, data.getvalue())


def _checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The state that a run like this one left.

    Raises:
        ValueError: it is of another run, or no checkpoint.
    """
    data, none = files.read(path), f"{path} is no checkpoint of a demo; remove it, or give another --out"
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise ValueError(none)
    try:
        content = torch.load(io.BytesIO(data), weights_only=True)
        found = {key: content[key] for key in identity}
    except (RuntimeError, pickle.UnpicklingError, KeyError, TypeError):
        raise ValueError(none) from None
    for key, value in identity.items():
        if key == "share" and found[key] != value and found[key] in AS_GIVEN:
            raise ValueError(f"{path} is of a run {AS_GIVEN[found[key]]} to go on, or give another --out")
        if found[key] != value:
            told = "" if key == "config" else f" ({found[key]}, not {value})"
            raise ValueError(f"{path} is of a run with another {key}{told}; remove it, or give another --out")
    return content["state"]


def shown(folder: Path = RESULTS / "demos") -> RenderableType:
    """The table of all results that `make demos` left."""
    records = [json.loads(files.read(path)) for path in sorted(folder.glob("*.json"))]
    return report(records) if records else Text("demos: none has been run yet")


def report(records: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A row a run, a family's runs together with their mean."""
    table = table_of(
        "Family", "Seed", "Shape", "Colour", "Motion", "All", "Unseen", "Shuffled", "Chance", "Judge", "Time"
    )
    ordered = sorted(records, key=lambda one: (list(FAMILIES).index(one["family"]), one["share"], one["seed"]))
    for (family, share), runs in groupby(ordered, key=lambda one: (one["family"], one["share"])):
        of_family = list(runs)
        table.add_section()
        steps = "" if share == 1 else f", {units.percent(share)} of the steps"
        for index, one in enumerate(of_family):
            table.add_row("" if index else f"{family}{steps}", str(one["seed"]), *_cells([one]))
        if len(of_family) > 1:
            table.add_row("", "mean", *_cells(of_family))
    return Group(table, Text(), Text(NOTE))


def _cells(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The means of some runs of a family."""

    def mean(key: str, name: str) -> str:
        return units.percent(fmean(one[key][name] for one in runs)) if name in runs[0][key] else "-"

    classifier = units.percent(fmean(one["classifier_accuracy"] for one in runs))
    seconds = units.seconds(fmean(one["training_seconds"] for one in runs))
    return [
        *(mean("match", name) for name in SHARES),
        mean("shuffled", "all"),
        mean("chance", "all"),
        classifier,
        seconds,
    ]
