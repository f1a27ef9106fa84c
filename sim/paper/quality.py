"""Fig. 4: quality against parameters of the published models, text to image and text to video.

`quality.csv` holds what was published, with its source and how far it can be trusted. Its traps, and what is done:
- samples picked by a re-ranker (`best_of`) have a lower FID than plain ones: drawn hollow, and a front of their own;
- models trained or fine-tuned on COCO are another metric ("FID COCO finetuned"): drawn where there is no other figure;
- figures copied wrongly (DALL-E's Inception Score as its FID) have a low confidence and are left out;
- several figures of one model: the best that can be trusted most, of the largest model of the reference.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise, product
from typing import Any

from minimodels.sim import units
from minimodels.sim.paper.draw import Panel, figure, name_points
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.study import Study

ZERO_SHOT, TRAINED = "FID-30K zero-shot COCO", "FID COCO finetuned"
VIDEO = ("FVD UCF-101 zero-shot", "FID-vid MSR-VTT")
REFERENCES = {"17": "Stable Diffusion", "19": "Parti", "21": "Muse", "25": "Imagen"}  # those that the suite has
STUDIED = 2023  # the year of the study
COLOURS = {
    "pixel diffusion": "#009E73", "latent diffusion": "#0072B2", "discrete diffusion": "#56B4E9",
    "autoregressive": "#D55E00", "masked": "#CC79A7", "other": "#BBBBBB",
}  # fmt: skip
TRUST = ("high", "medium")


@dataclass(frozen=True, slots=True)
class Published:
    """A published figure of a model. params: how many; best_of: samples per prompt, of which the best counts."""

    model: str
    task: str
    architecture: str
    year: int
    params: int | None
    reference: str
    best_of: int
    metric: str
    value: float
    open_weights: bool
    confidence: str
    source: str

    @property
    def diffusion(self) -> bool:
        """Whether the model denoises; a mixture of both kinds, and a GAN, does not count."""
        return "diffusion" in self.architecture

    @property
    def transformer(self) -> bool:
        """Whether the model generates tokens."""
        return self.architecture in ("autoregressive", "masked")


@cache
def published() -> tuple[Published, ...]:
    """Every published figure, in the order of the file."""
    text = (resources.files("minimodels.sim.paper") / "quality.csv").read_text("utf-8")
    return tuple(
        Published(
            row["model"], row["task"], row["architecture"], int(row["year"]),
            int(row["params"]) if row["params"] else None, row["reference"], int(row["best_of"] or 1), row["metric"],
            float(row["value"]), row["open_weights"] == "yes", row["confidence"], row["source"],
        )
        for row in csv.DictReader(io.StringIO(text))
    )  # fmt: skip


def chosen(rows: Iterable[Published]) -> Published | None:
    """The one figure of several that stands for them: of the largest model, most trusted, best; None if none can be."""
    trusted = [row for row in rows if row.confidence in TRUST and row.params]
    return min(trusted, key=lambda row: (-(row.params or 0), TRUST.index(row.confidence), row.value), default=None)


def points(plain: bool = False) -> dict[str, Published]:
    """A figure for each reference of the study's Fig. 4: zero-shot, or of a model trained on COCO if that is all.

    plain: only of samples that were not re-ranked, and zero-shot.
    """
    rows = [row for row in published() if row.task == "tti" and row.reference]
    found = {}
    for reference in sorted({row.reference for row in rows}):
        own = [row for row in rows if row.reference == reference and (not plain or row.best_of == 1)]
        point = chosen(row for row in own if row.metric == ZERO_SHOT)
        if point is None and not plain:
            point = chosen(row for row in own if row.metric == TRAINED)
        if point is not None:
            found[reference] = point
    return found


def others() -> list[Published]:
    """Models that the study does not plot: text to image, zero-shot, one figure each."""
    rows = [row for row in published() if row.metric == ZERO_SHOT and not row.reference]
    picked = [chosen(row for row in rows if row.model == model) for model in dict.fromkeys(row.model for row in rows)]
    return [row for row in picked if row is not None]


def videos(metric: str) -> list[Published]:
    """Text-to-video models with a size, up to the year of the study, one figure each."""
    rows = [row for row in published() if row.task == "ttv" and row.metric == metric and row.year <= STUDIED]
    picked = [chosen(row for row in rows if row.model == model) for model in dict.fromkeys(row.model for row in rows)]
    return [row for row in picked if row is not None]


def front(rows: Iterable[Published]) -> list[Published]:
    """Those that no other beats in both size and value, from the smallest to the largest."""
    kept: list[Published] = []
    for row in sorted(rows, key=lambda row: (row.params or 0, row.value)):
        if not kept or row.value < kept[-1].value:
            kept.append(row)
    return kept


def fig4(study: Study) -> Result:
    """Quality against parameters with the front computed; the study's 15 models, newer ones, and models of video."""
    ours, plain = points(), points(plain=True)
    zero_shot = [row for row in ours.values() if row.metric == ZERO_SHOT]
    fronts = {
        "zero-shot": front(zero_shot),
        "with models trained on COCO": front(ours.values()),
        "plain samples": front(plain.values()),
    }
    groups = {
        "study": list(ours.values()), "study, plain samples": list(plain.values()), "others": others(),
        **{metric: videos(metric) for metric in VIDEO},
    }  # fmt: skip
    on = {name: {row.model for row in front(rows)} for name, rows in groups.items()}
    on["study"] = {row.model for row in fronts["zero-shot"]}
    rows = [
        (name, row.model, row.reference, row.architecture, row.year, row.params, row.metric, row.value, row.best_of,
         "yes" if row.open_weights else "no", "yes" if row.model in on[name] else "no", row.confidence, row.source)
        for name, group in groups.items()
        for row in group
    ]  # fmt: skip
    header = ("group", "model", "reference", "architecture", "year", "parameters", "metric", "value", "best of",
              "open weights", "on the front", "confidence", "source")  # fmt: skip
    return Result(_picture(ours, fronts), header, rows, list(_scores(ours, fronts)))


def _picture(ours: dict[str, Published], fronts: dict[str, list[Published]]) -> Any:
    names = ", ".join(short(row) for row in fronts["zero-shot"])
    newer, shown = others(), videos(VIDEO[0])
    moving = ", ".join(short(row) for row in front(shown))
    made, (images, videos_) = figure(
        Panel(f"Text to image. Zero-shot front: {names}", "COCO FID (lower is better)", "parameters, billions"),
        Panel(
            f"Text to video, to {STUDIED}. Front: {moving}",
            "FVD on UCF-101, zero-shot (lower is better)",
            "parameters, billions",
        ),
        height=4.2,
    )
    grey = [(row.value, (row.params or 0) / 1e9) for row in newer]
    images.scatter(*zip(*grey, strict=True), s=12, color="#BBBBBB", zorder=1)
    _plot(images, ours.values(), fronts["zero-shot"], grey)
    _plot(videos_, shown, front(shown))
    _legend(made, [*ours.values(), *shown])
    return made


def short(row: Published) -> str:
    """The name of a model as it is drawn: by what the study calls it, where it is in the suite."""
    return REFERENCES.get(row.reference, row.model.split(" (")[0])


def _plot(
    axes: Any, rows: Iterable[Published], best: Sequence[Published], avoid: Sequence[tuple[float, float]] = ()
) -> None:
    """Points by kind: diffusion round, the others square; re-ranked hollow, trained on COCO crossed."""
    rows = list(rows)
    for row in rows:
        colour = COLOURS[row.architecture]
        look = {"marker": "o" if row.diffusion else "s", "s": 70 if row.reference in REFERENCES else 34, "zorder": 3}
        face = "white" if row.best_of > 1 else colour
        axes.scatter([row.value], [(row.params or 0) / 1e9], facecolor=face, edgecolor=colour, linewidth=1.6, **look)
        if row.metric == TRAINED:
            axes.scatter([row.value], [(row.params or 0) / 1e9], marker="x", s=60, color="black", linewidth=1, zorder=4)
    steps = [(row.value, (row.params or 0) / 1e9) for row in best]
    axes.plot(*zip(*steps, strict=True), color="black", linewidth=1, linestyle="--", zorder=2)
    axes.set_yscale("log")
    axes.set_xlim(0, None)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color="#EEEEEE")
    names = [short(row) for row in rows]
    spots = {
        name if names.count(name) == 1 else row.model: (row.value, (row.params or 0) / 1e9)
        for name, row in zip(names, rows, strict=True)
    }
    name_points(axes, spots, [*avoid, *_along(steps)], 7.5)


def _along(steps: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points of the line through `steps`, straight on a logarithmic axis of the second coordinate."""
    shares = [step / 20 for step in range(1, 20)]
    return [(a[0] + s * (b[0] - a[0]), a[1] * (b[1] / a[1]) ** s) for a, b in pairwise(steps) for s in shares]


def _legend(made: Any, rows: Sequence[Published]) -> None:
    from matplotlib.lines import Line2D

    def mark(label: str, shape: str, **look: Any) -> Line2D:
        return Line2D([], [], linestyle="", marker=shape, label=label, **look)

    kinds = {row.architecture: "o" if row.diffusion else "s" for row in rows}
    handles = [mark(kind, kinds[kind], color=COLOURS[kind]) for kind in COLOURS if kind in kinds]
    handles += [
        mark("best of several samples", "o", color="#555555", markerfacecolor="white"),
        mark("trained on COCO", "x", color="black"),
        mark("not in the study", ".", color="#BBBBBB"),
        Line2D([], [], color="black", linestyle="--", linewidth=1, label="front, computed"),
    ]
    made.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _scores(ours: dict[str, Published], fronts: dict[str, list[Published]]) -> Iterator[Score]:
    count = len(ours)
    yield Score("f4-01", str(count), count == 15, "one figure for each reference", count - 15)
    trained = ", ".join(short(row) for row in ours.values() if row.metric == TRAINED)
    yield Score("f4-02", "COCO FID, parameters", True, "drawn so", why=f"zero-shot; {trained}: trained on COCO")
    named = {"Imagen", "Stable Diffusion", "Parti"}
    on = {name: [short(row) for row in rows] for name, rows in fronts.items()}
    said = "; ".join(f"{name}: {', '.join(models)}" for name, models in on.items())
    yield Score("f4-03", said, named <= set(on["zero-shot"]), "zero-shot, as published", why=_front_why(fronts))
    parti = ours["19"]
    ratios = {short(row): (parti.params or 0) / (row.params or 1) for row in fronts["zero-shot"] if row.diffusion}
    glide = (parti.params or 0) / (ours["33"].params or 1)
    said = ", ".join(f"{name} {units.times(value)}" for name, value in ratios.items())
    yield Score("f4-04", said, any(3.5 <= value < 4.5 for value in ratios.values()), "Parti over those of the front",
                why=f"GLIDE, off the front: {units.times(glide)}")  # fmt: skip
    yield _equal_sizes()
    released = [short(row) for row in ours.values() if row.open_weights]
    yield Score("f4-06", f"{len(released)} of {count} have public weights", len(released) == count,
                "released weights", why=f"only {', '.join(released)}; the others are plotted all the same")  # fmt: skip
    suite = [REFERENCES[key] for key, row in ours.items() if key in REFERENCES and row.open_weights]
    yield Score("s3-02", f"{len(REFERENCES)} models, {len(suite)} with public weights", len(suite) == 4,
                "released weights", why=f"only {', '.join(suite)}")  # fmt: skip
    yield _video_score()


def _front_why(fronts: dict[str, list[Published]]) -> str:
    ranked = [f"{short(row)} by the best of {row.best_of}" for row in fronts["zero-shot"] if row.best_of > 1]
    return f"on it {', '.join(ranked)}" if ranked else ""


def _equal_sizes(near: float = 1.5) -> Score:
    """Diffusion against transformers of sizes within a factor of `near`, one figure for each size of each reference."""
    rows = [row for row in published() if row.metric == ZERO_SHOT and row.reference and row.params]
    groups = dict.fromkeys((row.reference, row.params) for row in rows)
    best = [chosen(row for row in rows if (row.reference, row.params) == group) for group in groups]
    kinds = [[row for row in best if row and getattr(row, kind)] for kind in ("diffusion", "transformer")]
    pairs = [(a, b) for a, b in product(*kinds) if 1 / near <= (a.params or 0) / (b.params or 1) <= near]
    better = [pair for pair in pairs if pair[0].value < pair[1].value]
    lost = ", ".join(f"{a.model} {a.value:g} against {b.model} {b.value:g}" for a, b in pairs if a.value >= b.value)
    return Score(
        "f4-05", f"better in {len(better)} of {len(pairs)} pairs", 2 * len(better) > len(pairs),
        f"zero-shot FID, sizes within a factor of {near}", why=f"not: {lost}" if lost else "",
    )  # fmt: skip


def _video_score() -> Score:
    """Whether the smallest and the best model are diffusion models, by the set that most models are measured on."""
    said, others = [], []
    for metric in VIDEO:
        rows = videos(metric)
        smallest, best = min(rows, key=lambda row: row.params or 0), min(rows, key=lambda row: row.value)
        said.append(f"{metric}: smallest {smallest.model}, best {best.model}")
        others.append([f"{row.model} is {row.architecture}" for row in (smallest, best) if not row.diffusion])
    why = f"by {VIDEO[1]}, {', '.join(others[1])}" if others[1] else ""
    return Score("f4-07", "; ".join(said), not others[0], f"{VIDEO[0]}, to {STUDIED}", why=why)
