"""What the terminal shows of profiles: one in full, or several compared, as rich renderables.

Every function returns something for `console().print`. All fit 60 columns, of which no number is cropped; nothing is
said by colour alone, so that a pipe, a log or NO_COLOR loses nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any, Literal

from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from minimodels.sim import attention_table, sentences, units, views
from minimodels.sim.cells import at_least, cells, table_of
from minimodels.sim.error_bar import error_of
from minimodels.sim.profile import Profile
from minimodels.sim.views import Totals

By = Literal["stage", "category", "module", "attention"]
READINGS = "core: the operator itself; module: all inside an attention block is Attention"
BY_KERNEL = "categories by names of kernels, which compiled belong to no block: both are one"
NOT_BY = "--by {}: compiled, kernels belong to no block; --mode eager has blocks"
MOVEMENT = "category Memory: operators that only move data (copies, gathers, concatenations)"
PIPE = 120  # columns of what is no terminal: a file is as wide whoever writes it
NOISY = 0.1  # of the median: an interquartile range that makes a measured time doubtful
LETTERS = dict(zip(units.COLOURS, "ACLNEBMXO", strict=True))


def console(file: IO[str] | None = None) -> Console:
    """The console to print on: stdout unless `file` is given; names are printed as they are.

    It is as wide as the terminal, `PIPE` columns where there is none, and COLUMNS where that is set.
    """
    result = Console(file=file, highlight=False, markup=False, emoji=False)
    if not result.is_terminal and "COLUMNS" not in os.environ:
        result.width = PIPE
    return result


def _by_time(parts: Mapping[str, Totals]) -> dict[str, Totals]:
    return dict(sorted(parts.items(), key=lambda item: -item[1].known_seconds))


def detail(profile: Profile, by: By = "stage") -> Table:
    """Time, share, FLOPs, bytes, FLOPs per byte (and, by stage, peak memory) of each part, and of all."""
    if by == "attention":
        return attention_table.table(profile)
    peaks = views.stage_peaks(profile)
    parts = {
        "stage": lambda: views.by_stage(profile),
        "category": lambda: _by_time(views.by_category(profile)),
        "module": lambda: _by_time(views.by_module(profile)),
    }[by]()
    memory = ["Peak mem"] if by == "stage" else []
    table = table_of(by.capitalize(), "Time", "Share", "FLOPs", "Bytes", "FLOP/B", *memory)
    whole = views.totals(profile.ops)
    for name, part in parts.items():
        peak = ["-" if peaks[name] is None else units.size(peaks[name])] if memory else []
        table.add_row(name, *cells(part, whole), *peak)
    table.add_section()
    table.add_row("all", *cells(whole, whole), *([units.size(profile.memory.peak)] if memory else []))
    return table


def categories(profile: Profile) -> Table:
    """Time and share of each category in both readings, side by side."""
    whole = views.totals(profile.ops)
    core, module = (views.by_category(profile, reading) for reading in views.READINGS)
    table = table_of("Category", "Time, core", "Share, core", "Time, module", "Share, module")
    for name in _by_time(module | core):
        pairs = [cells(reading[name], whole)[:2] if name in reading else ["-", "-"] for reading in (core, module)]
        table.add_row(name, *pairs[0], *pairs[1])
    return table


class Bars:
    """Two bars over the width of the terminal, one per reading, stacked by category, and their legend."""

    def __init__(self, profile: Profile) -> None:
        self.whole = views.totals(profile.ops)
        self.parts = {reading: views.by_category(profile, reading) for reading in views.READINGS}
        self.order = list(_by_time(self.parts["module"] | self.parts["core"]))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.whole.seconds:
            return
        width = min(options.max_width, 120) - len("module ")
        for reading, parts in self.parts.items():
            line, drawn, ends = Text(f"{reading:7}"), 0, 0.0
            for name in self.order:
                ends += parts[name].known_seconds / self.whole.seconds if name in parts else 0.0
                length = max(0, round(ends * width) - drawn)
                line.append(LETTERS[name] * length, style=f"{units.COLOURS[name]} on {units.COLOURS[name]}")
                drawn += length
            yield line
        legend = [Text.assemble((LETTERS[n], f"{units.COLOURS[n]} on {units.COLOURS[n]}"), f" {n}") for n in self.order]
        yield Padding(Columns(legend, padding=(0, 2)), (0, 0, 0, len("module ")))


NO_WORK = ("temperature", "choice_temperature")  # settings that hardly change the work


def _heading(profile: Profile) -> list[str]:
    """What ran, on what, measured or simulated; the settings in force; what a user counts in."""
    where = f"on {profile.device.title}"
    provenance = views.grouped(profile.ops, lambda op: op.provenance or "unknown")
    kinds = " and ".join(_by_time(provenance))
    how = f"SIMULATED {where} (times: {kinds} constants)" if profile.source == "simulated" else f"measured {where}"
    settings = profile.run.model_dump(exclude_none=True)
    settings = {
        key: settings[key] for key in dict.fromkeys(["device", "attention", "dtype", "batch", "mode", *settings])
    }
    if profile.config["kind"] == "module":
        del settings["batch"]  # it is in the inputs
    hidden = (*NO_WORK, "seed", "warmup", "repeats") if profile.source == "simulated" else NO_WORK
    return [f"{units.named(profile)}: {how}", *_settings(profile, settings, hidden), "", ", ".join(_headline(profile))]


def _settings(profile: Profile, settings: Mapping[str, Any], hidden: Sequence[str]) -> list[str]:
    """The settings in force: a line for the run, and one for each stage that has its own."""
    by_stage: dict[str, list[str]] = {}
    for key, value in settings.items():
        stage, _, name = key.rpartition(".")
        if name in hidden or value is False:
            continue
        text = name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}"
        if name == "frames" and (skip := settings.get("frame_skip")):
            text += f", {(value - 1) * skip + 1} after interpolation"
        by_stage.setdefault(stage, []).append(text)
    return [(f"  {stage.replace('_', ' ')}: " if stage else "") + ", ".join(texts) for stage, texts in by_stage.items()]


def _headline(profile: Profile) -> Iterable[str]:
    peak = profile.device.bandwidth
    for quantity in views.headline(profile):
        value = at_least(units.written(quantity.value, quantity.unit), not quantity.at_least)
        if quantity.unit == "B/s" and quantity.value is not None and peak:
            value += f" ({units.percent(quantity.value / peak)} of {units.si(peak, 'B/s')})"
        if quantity.unit not in ("B/s", "1"):
            stage = quantity.label if quantity.label in ("prefill", "decode") else None
            error = error_of(op for op in profile.ops if stage in (None, op.stage))
            value += "" if error is None else f" {error}"
        yield value if quantity.unit.startswith("s/") else f"{quantity.label} {value}"


def fit(profile: Profile) -> str:
    """Whether the run fits the device's memory, and if not, the smallest listed GPU that it fits."""
    need, have = profile.memory.peak, profile.device.memory_bytes
    if profile.memory.fits is None or have is None:
        return f"needs {units.size(need)}; the memory of the device is unknown"
    reserve = profile.memory.reserve
    room = units.size(have) + (f", {units.size(reserve)} of it kept for context and libraries" if reserve else "")
    if profile.memory.fits:
        return f"fits: needs {units.size(need)} of {room}"
    other = views.smallest_device(need + reserve, above=have)
    hint = "no listed GPU holds it"
    if other is not None:
        hint = f"the smallest listed GPU that holds it is {other.title} ({units.size(other.datasheet.memory_bytes)})"
    return f"does not fit: needs {units.size(need)} of {room}; {hint}"


def warnings(profile: Profile) -> list[str]:
    """What makes the times of a measured profile doubtful, and what helps."""
    made, found = profile.environment, list[str]()
    if made.converged is False:
        found.append(
            f"WARNING: in {made.warmups} warm-up runs no two in a row agreed, so times may drift: "
            "end other work on the machine, or raise --warmup."
        )
    if made.iqr_seconds and made.median_seconds and made.iqr_seconds > NOISY * made.median_seconds:
        spread = units.percent(made.iqr_seconds / made.median_seconds)
        found.append(
            f"WARNING: the interquartile range is {spread} of the median, so times are noisy: "
            "end other work on the machine, or raise --repeats."
        )
    return found


def _facts(profile: Profile) -> list[str]:
    """Memory, attention backends and what is unknown, a line each; then the sentences."""
    memory = profile.memory
    lines = [f"Memory: {fit(profile)}."]
    if memory.peak_op is not None:
        op = profile.ops[memory.peak_op]
        lines[0] += f" Peak: {op.name} in {views.place(op)}."
    lines.append(f"Weights take {units.size(memory.weights)}, the KV cache {units.size(memory.kv_cache)}.")
    backends = views.attention_backends(profile)
    if backends:
        lines.append(f"Attention calls: {', '.join(f'{units.count(n)} {name}' for name, n in backends.items())}.")
        lines += _attention(profile)
    unknown = {
        "No FLOP formula": views.named(profile.unmodelled()),
        "No time": views.named(op for op in profile.ops if views.op_seconds(op) is None),
    }
    for what, names in unknown.items():
        if names:
            lines.append(f"{what}: {', '.join(f'{name} ({units.count(n)} times)' for name, n in names.items())}.")
    wall, device, made = views.elapsed(profile), views.totals(profile.ops).seconds, profile.environment
    if made.median_seconds is not None:
        runs = f"median {units.seconds(made.median_seconds)} of {made.repeats} runs"
        lines.append(f"Wall clock, unprofiled: {runs}, interquartile range {units.seconds(made.iqr_seconds)}.")
    if wall and device and abs(wall - device) > 0.01 * wall:
        lines.append(f"Wall clock, unprofiled: {units.seconds(wall)}; the operators add up to {units.seconds(device)}.")
    return [*lines, *warnings(profile), "", " ".join(sentences.sentences(profile))]


def _attention(profile: Profile) -> list[str]:
    """The times of cores by role, where there are several, and of the copies made for them, where there are any."""
    cores, copies = attention_table.cores(profile), attention_table.copies(profile).values()
    times = ", ".join(f"{role} {units.seconds(part.seconds)}" for role, part in cores.items())
    moved = None if any(part.untimed for part in copies) else sum(part.known_seconds for part in copies)
    if len(cores) < 2 and not copies:
        return []
    made = f"; copies for them {units.seconds(moved)}" if copies else ""
    return [f"Attention cores: {times}{made}; --by attention lists their lengths."]


def _filters(profile: Profile) -> list[str]:
    """The time of convolutions by the size of their filters, where there are several sizes."""
    found, all_of_them = views.by_filter(profile), views.by_category(profile).get("Convolution")
    shares = [(size, all_of_them and views.share(part, all_of_them)) for size, part in found.items()]
    if len(found) < 2 or any(share is None for _, share in shares):
        return []
    written = ", ".join(f"{size} {units.percent(share)}" for size, share in shares if share is not None)
    return [f"category Convolution, by filter: {written} of its time"]


def profile_summary(profile: Profile, by: By = "stage") -> Group:
    """All that `minibench profile` prints; `by` selects the first table."""
    heading, facts, space = Text("\n".join(_heading(profile))), Text("\n".join(_facts(profile))), Text()
    heading.highlight_regex(r"\A.*", "bold")
    compiled = profile.source == "measured" and profile.run.mode == "compiled"
    lines = [BY_KERNEL if compiled else READINGS, MOVEMENT]
    readings = Text("\n".join([*lines, *_filters(profile)]))
    first = Text(NOT_BY.format(by)) if compiled and by in ("module", "attention") else detail(profile, by)
    parts = (first, categories(profile), Group(readings, space, Bars(profile)), facts)
    return Group(heading, *(piece for part in parts for piece in (space, part)))
