"""Table I, the taxonomy of four text-to-image models.

It is read off our configs, beside what the study prints and what the original papers say where that differs. Its
grades are derived: on a logarithmic scale from the least to the most of the four models, the lower third is Low, the
middle one Medium, the upper one High.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import log, nan
from typing import Any

from minimodels.config import AutoregressiveImage
from minimodels.diffusion_config import CascadedDiffusion, LatentDiffusion
from minimodels.kinds import Config
from minimodels.run import build, parameters
from minimodels.sim import units, views
from minimodels.sim.paper.draw import Cell, cells
from minimodels.sim.paper.result import Result, Score, numbers
from minimodels.sim.paper.study import Study, config_of, generators, where
from minimodels.sim.profile import Profile
from minimodels.token_config import ParallelImage
from minimodels.unet_config import Level, UNet

FOUR = ("Imagen", "StableDiffusion", "Muse", "Parti")  # as Table I orders them
LDM = "ldm-1.45b"  # the other model that its column for Stable Diffusion mixes in
CLASSES = {
    "cascaded-diffusion": "diffusion, pixels", "latent-diffusion": "diffusion, latents",
    "parallel-image": "transformer, parallel", "autoregressive-image": "transformer, one by one",
}  # fmt: skip
GRADES = ("Low", "Medium", "High")
NEAR = 0.1  # of a number of parameters


@dataclass(frozen=True, slots=True)
class Entry:
    """A cell of Table I, with what is said of the number that the study prints in it."""

    quantity: str
    workload: str
    score: Score


def table1(study: Study) -> Result:
    """The taxonomy from our configs, beside the printed one."""
    imagen, latent, muse, parti = (config_of(name) for name in FOUR)
    assert isinstance(imagen, CascadedDiffusion) and isinstance(latent, LatentDiffusion)
    assert isinstance(muse, ParallelImage) and isinstance(parti, AutoregressiveImage)
    entries = [*_pixels(imagen), *_latents(latent), *_tokens(muse, parti)]
    graded = {number: list(_graded(study, number)) for number in MEASURES}
    scores = [entry.score for entry in entries] + [_agreeing(number, found) for number, found in graded.items()]
    rows: list[tuple[Any, ...]] = []
    for entry in entries:
        row = _printed(entry.score.id), entry.score.ours, _word(entry.score.holds), entry.score.reading, entry.score.why
        rows.append((entry.quantity, entry.workload, *row))
    for number, found in graded.items():
        rows += [
            (MEASURES[number][0], name, grade, ours, _word(grade == ours), reading, f"{value:.4g}")
            for reading, values, grades in found
            for name, grade, ours, value in zip(FOUR, _grades_printed(number), grades, values, strict=True)
        ]
    header = ("quantity", "model", "printed", "ours", "holds", "reading", "original, or value")
    return Result(_table1_figure(entries, graded, where(study.profile(FOUR[0]))), header, rows, scores)


def _printed(number: str) -> str:
    return f"{numbers()[number].published} {numbers()[number].unit}".strip()


def _word(holds: bool | None) -> str:
    return {True: "yes", False: "no", None: "cannot be told"}[holds]


def _compared(number: str, ours: Any, reading: str = "", why: str = "") -> Score:
    """A number or list of Table I against ours; the order of a list says nothing."""
    printed = json.loads(numbers()[number].published)
    same = sorted(printed) == sorted(ours) if isinstance(printed, list) else {printed} == {*_as_list(ours)}
    return Score(number, str(ours), same, reading, None, why)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _count(number: str, config: Config, names: Sequence[str], why: str = "") -> Score:
    """Parameters of networks as built here, beside what the authors state: what is built is held against the study."""
    parts, built = dict(config.parts()), build(config, "meta")
    ours = sum(parameters(built[name]) for name in names)
    total = config.published.params if config.published and config.published.of == list(names) else None
    stated = total or sum(part.published.params for part in map(parts.__getitem__, names) if part.published) or ours
    printed = float(numbers()[number].published) * 1e9
    said = f"{units.params(ours)} built, {units.params(stated)} stated"
    reading = f"{config.title}: {', '.join(name.replace('_', ' ') for name in names)}; holds within 10 %"
    holds = abs(ours / printed - 1) < NEAR
    if not holds:
        why = "; ".join(text for text in (why, f"built here {ours / printed - 1:+.0%}") if text)
    return Score(number, said, holds, reading, (ours - printed) / 1e9, why)


def multipliers(levels: Sequence[Level]) -> list[int | float]:
    """The channels of each level, in those of the first."""
    found = [Fraction(level.channels, levels[0].channels) for level in levels]
    return [int(value) if value.denominator == 1 else float(value) for value in found]


def head_widths(unet: UNet) -> list[int]:
    """Channels per head, without repeats, from high to low resolution."""
    return list(dict.fromkeys(lvl.channels // lvl.attention.num_heads for lvl in unet.levels if lvl.attention))


def attending(unet: UNet) -> list[int]:
    """How many times smaller the side is at each level that attends."""
    return [2**index for index, level in enumerate(unet.levels) if level.attention]


def _pixels(config: CascadedDiffusion) -> Iterator[Entry]:
    unet, name = config.unet, "Imagen"
    assert isinstance(unet, UNet)
    sides = [config.sides[0] // factor for factor in attending(unet)]
    as_printed = unet.model_copy(update={"levels": [*unet.levels[:-2], unet.levels[-1], unet.levels[-1]]})
    other, ours = (units.params(_size(config, part)) for part in (as_printed, unet))
    wide = f"Imagen, appendix F.1; as printed the UNet would have {other}, not {ours}: 2 B are stated"
    heads = head_widths(unet)
    yield Entry("Parameters", name, _count("t1-01", config, config.networks))
    yield Entry("Attention at", name, _compared("t1-09", sides, "pixels, base network"))
    yield Entry("Text attention at", name, _compared("t1-11", sides, "text appended to the keys of each"))
    yield Entry("Channel multipliers", name, _compared("t1-12", multipliers(unet.levels), "base network", wide))
    yield Entry("Residual blocks", name, _compared("t1-14", unet.levels[0].res_blocks, "per level, base network"))
    yield Entry("Channels per head", name, _compared("t1-16", heads if len(heads) > 1 else heads[0]))
    yield Entry("Embedding width", name, _compared("t1-18", unet.levels[0].channels, "channels of the first level"))


def _size(config: CascadedDiffusion, unet: UNet) -> int:
    return parameters(build(config.model_copy(update={"unet": unet}), "meta")["unet"])


def _latents(config: LatentDiffusion) -> Iterator[Entry]:
    unet, name, other = config.unet, "StableDiffusion", config_of(LDM)
    assert isinstance(other, LatentDiffusion)
    whole = units.params(sum(map(parameters, build(config, "meta").values())))
    mixed = f"{other.title}, not {config.title} ({whole} in all): the column mixes both"
    context = f"context width of {config.title}; that of {other.title} is {other.unet.context_dim}"
    level = next(level for level in unet.levels if level.attention)
    heads = f"{level.attention.num_heads} is the number of heads" if level.attention else ""
    factors = attending(unet)
    sides = ", ".join(str(config.latent_size // factor) for factor in factors)
    yield Entry("Parameters", name, _count("t1-02", other, ("text_encoder", "unet"), mixed))
    yield Entry("Attention at", name, _compared("t1-10", factors, f"down-sampling factors: {sides} wide, of latents"))
    yield Entry("Channel multipliers", name, _compared("t1-13", multipliers(unet.levels)))
    yield Entry("Residual blocks", name, _compared("t1-15", unet.levels[0].res_blocks, "per level"))
    yield Entry("Channels per head", name, _compared("t1-17", head_widths(unet), "", heads))
    yield Entry("Embedding width", name, _compared("t1-19", unet.context_dim, context, "the column mixes two models"))


def _tokens(muse: ParallelImage, parti: AutoregressiveImage) -> Iterator[Entry]:
    encoder, decoder = parti.transformer.encoder, parti.transformer.decoder
    layers = f"{encoder.depth} in the encoder, {decoder.depth} in the decoder"
    bidirectional = "base transformer alone; bidirectional, cross-attends to the text: not decoder-only"
    yield Entry("Parameters", "Muse", _count("t1-03", muse, ("transformer",), bidirectional))
    yield Entry("Parameters", "Parti", _count("t1-04", parti, ("transformer",)))
    yield Entry("Layers", "Muse", _compared("t1-05", muse.transformer.stack.depth, "base transformer"))
    yield Entry("Layers", "Parti", _compared("t1-06", encoder.depth + decoder.depth, layers))
    yield Entry("Model width", "Muse", _compared("t1-07", muse.transformer.stack.dim, "base transformer"))
    yield Entry("Model width", "Parti", _compared("t1-08", decoder.dim, "encoder and decoder"))


Measure = Callable[[Profile, Profile], float]  # of the baseline and the flash profile
Reading = tuple[Measure, Callable[[float], str]]  # and how it is written
MEASURES: dict[str, tuple[str, dict[str, Reading]]] = {  # the row of the table, and its readings
    "t1-20": ("Compute", {"FLOPs of an image": (lambda _, p: float(views.totals(p.ops).known_flops), units.flops)}),
    "t1-21": ("Memory", {
        "peak bytes of a run, all networks loaded": (lambda _, p: p.memory.peak, units.size),
        "parameters of the networks that make tokens, latents or pixels": (
            lambda _, p: generators(config_of(p.config["name"])), lambda value: units.params(int(value)),
        ),
    }),
    "t1-22": ("Latency", {
        "seconds of an image, flash": (lambda _, p: views.elapsed(p) or nan, units.seconds),
        "seconds of an image, baseline": (lambda p, _: views.elapsed(p) or nan, units.seconds),
    }),
}  # fmt: skip
Graded = tuple[str, list[float], list[str]]  # a reading, its values and grades, in the order of `FOUR`


def grades(values: Sequence[float]) -> list[str]:
    """Low, Medium or High: thirds of the logarithmic range from the least to the most of the values."""
    low, high = log(min(values)), log(max(values))
    return [GRADES[min(2, int(3 * (log(value) - low) / (high - low)))] if high > low else "Low" for value in values]


def _graded(study: Study, number: str) -> Iterator[Graded]:
    pairs = [study.pair(name) for name in FOUR]
    for reading, (measure, _) in MEASURES[number][1].items():
        values = [measure(*pair) for pair in pairs]
        yield reading, values, grades(values)


def _grades_printed(number: str) -> list[str]:
    return numbers()[number].published.split(", ")


def _agreement(number: str, found: Graded) -> int:
    return sum(a == b for a, b in zip(found[2], _grades_printed(number), strict=True))


def _best(number: str, found: Sequence[Graded]) -> Graded:
    """The reading whose grades agree best with the printed ones."""
    return max(found, key=lambda graded: _agreement(number, graded))


def _agreeing(number: str, found: Sequence[Graded]) -> Score:
    """The grades of the reading that agrees best."""
    best = _best(number, found)
    same = _agreement(number, best)
    values = ", ".join(map(MEASURES[number][1][best[0]][1], best[1]))
    others = "".join(f"; by {graded[0]}: {', '.join(graded[2])}" for graded in found if graded is not best)
    why = "" if same == len(FOUR) else f"{same} of {len(FOUR)} agree; no thresholds are printed{others}"
    reading = f"{best[0]} ({values}); thirds of the logarithmic range"
    return Score(number, ", ".join(best[2]), same == len(FOUR), reading, why=why)


def _table1_figure(entries: Sequence[Entry], graded: dict[str, list[Graded]], source: str) -> Any:
    titles = [config_of(name).title for name in FOUR]
    table = {(entry.quantity, entry.workload): _cell(entry) for entry in entries}
    for name in FOUR:
        table["Architecture", name] = Cell(CLASSES[config_of(name).kind])
    for number, found in graded.items():
        best = _best(number, found)
        row, write = MEASURES[number][0], MEASURES[number][1][best[0]][1]
        for name, ours, value, printed in zip(FOUR, best[2], best[1], _grades_printed(number), strict=True):
            table[row, name] = Cell(f"{ours}: {write(value)}", f"study: {printed}", ours != printed)
    wrong = sum(cell.marked for cell in table.values())
    quantities = ["Architecture", *dict.fromkeys(quantity for quantity, _ in table if quantity != "Architecture")]
    order = ["Architecture", "Parameters", "Layers", "Model width"]
    quantities = order + [quantity for quantity in quantities if quantity not in order]
    notes = [
        f"{entry.quantity}, {entry.workload}: {entry.score.why}." for entry in entries if entry.score.why
    ]  # fmt: skip
    chosen = [f"{MEASURES[number][0]}: {_best(number, found)[0]}" for number, found in graded.items()]
    notes.append("Grades: thirds of the logarithmic range from the least to the most of the four, by the reading that "
                 f"agrees best, {source}. {'; '.join(chosen)}.")  # fmt: skip
    title = (
        f"Table I from our configs: {wrong} of {len(table) - len(FOUR)} entries differ from the printed ones (marked)"
    )
    lines = [[Cell(quantity)] + [table.get((quantity, name), Cell("")) for name in FOUR] for quantity in quantities]
    return cells(title, ["", *titles], lines, notes)


def _cell(entry: Entry) -> Cell:
    return Cell(entry.score.ours, f"study: {_printed(entry.score.id)}", not entry.score.holds)
