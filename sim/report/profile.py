"""Profiles as one page: what the model is, where the time goes and why, memory, and what the numbers rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import BaseModel

from minimodels.kinds import Config
from minimodels.run import Run
from minimodels.sim import comparison_table, explain_table, figures, memory_table, plots, tables, units, views
from minimodels.sim import device as devices
from minimodels.sim.comparison import compare_profiles
from minimodels.sim.error_bar import error_of
from minimodels.sim.explain import Reason, WhatIf, reasons, what_ifs
from minimodels.sim.files import write_whole
from minimodels.sim.profile import CATEGORIES, Profile
from minimodels.sim.progress import Advance, silent
from minimodels.sim.report import drawing, flame
from minimodels.sim.report.page import inline_svg, render
from minimodels.sim.sentences import sentences
from minimodels.sim.simulate import simulate
from minimodels.sim.views import Totals
from minimodels.version import VERSION

OPERATORS = 15  # listed, those that take most time
PICTURES = {
    "breakdown": "Time by category, in both readings.",
    "stages": "Time of the stages by category.",
    "roofline": "Every operator: how fast it computes, by FLOPs per byte moved, under the roofs of the device.",
    "seqlen": "Sequence lengths of attention over the run.",
    "memory": "Bytes in memory over the run.",
}
PARTS = {
    "architecture": "The architecture, as it ran",
    "time": "Where the time goes",
    "operators": "The operators that matter, and why they take so long",
    "changes": "What if",
    "flash": "Attention written out, and as it is here",
    "assumptions": "What the numbers rest on",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A profile of a report; of a named architecture also what would change it, and it with attention written out."""

    profile: Profile
    changes: Sequence[WhatIf] = ()
    baseline: Profile | None = None


def subject(config: Config, run: Run, progress: Advance = silent) -> Subject:
    """An architecture, simulated: as `run` says, with attention written out, and with one thing changed at a time.

    Raises:
        ValueError: as `simulate`.
    """
    changes = what_ifs(config, run, progress)
    written_out = None
    if run.attention != "baseline":
        written_out = simulate(config, run.model_copy(update={"attention": "baseline"}), progress)
    return Subject(simulate(config, run, progress), changes, written_out)


def write(subjects: Sequence[Subject], path: Path) -> None:
    """Write the page.

    Raises:
        ValueError: it cannot be written.
    """
    write_whole(path, page(subjects).encode())


def page(subjects: Sequence[Subject]) -> str:
    """The page as HTML: self-contained, everything from configs and profiles escaped."""
    profiles = [subject.profile for subject in subjects]
    names = [units.named(profiles[0])] if len(profiles) == 1 else units.labels(profiles)
    return render(
        "report/profile.html",
        title=", ".join(dict.fromkeys(units.named(profile) for profile in profiles)),
        version=VERSION,
        sections=[
            _section(str(number), name, subject)
            for number, (name, subject) in enumerate(zip(names, subjects, strict=True), 1)
        ],
        beside=_beside(profiles) if len(profiles) > 1 else None,
        parts=PARTS,
        colours=[(name, units.COLOURS[name]) for name in CATEGORIES],
    )


def _section(anchor: str, name: str, subject: Subject) -> dict[str, Any]:
    profile = subject.profile
    return {
        "id": anchor,
        "name": name,
        "lead": _lead(profile),
        "sentences": sentences(profile),
        "warnings": tables.warnings(profile),
        "drawing": [(name, said, Markup(picture)) for name, said, picture in drawing.pictures(profile)],
        "legend": drawing.legend(profile),
        "pictures": _pictures(profile, anchor),
        "tree": flame.tree(profile),
        "whole": views.totals(profile.ops).known_seconds,
        "operators": [_operator(reason, profile) for reason in reasons(profile.ops, OPERATORS)],
        "note": explain_table.NOTE,
        "changes": _changes(profile, subject.changes),
        "flash": _flash(subject),
        "assumptions": _assumptions(profile),
        "colours": units.COLOURS,
        "seconds": units.seconds,
        "percent": units.percent,
    }


def _lead(profile: Profile) -> list[tuple[str, str]]:
    """What a reader wants first: name and value."""
    how = "SIMULATED" if profile.source == "simulated" else "measured"
    found = [("How", f"{how} on {profile.device.title}"), ("Paper", str(profile.config.get("paper", "")))]
    for quantity in views.headline(profile):
        found.append((quantity.label, units.written(quantity.value, quantity.unit)))
    error = error_of(profile.ops)
    if error is not None:
        found.append(("off by, likely", str(error)))
    found.append(("memory", tables.fit(profile)))
    return [(name, value) for name, value in found if value]


def _pictures(profile: Profile, name: str) -> list[tuple[str, str, Markup]]:
    found = []
    for kind, said in PICTURES.items():
        if kind == "seqlen" and not views.attention_calls(profile):
            continue
        drawn = figures.drawn(plots.KINDS[kind]([profile], figures.NARROW), "svg").decode()
        found.append((kind, said, inline_svg(drawn, f"{name}-{kind}", said, themed=True)))
    return found


def _operator(reason: Reason, profile: Profile) -> dict[str, str]:
    whole = views.totals(profile.ops).known_seconds
    return {
        "Share": units.percent(reason.seconds / whole) if whole else "-",
        "Time": units.seconds(reason.seconds),
        "±": "-" if reason.op.error is None else units.percent(reason.op.error),
        "Operator": explain_table.what(reason),
        "Why": explain_table.why(reason),
    }


def _changes(profile: Profile, changes: Sequence[WhatIf]) -> list[tuple[str, str, str]]:
    now = views.totals(profile.ops).known_seconds
    known = sorted((one for one in changes if one.seconds), key=lambda one: one.seconds or 0.0)
    rows = [(one.change, units.seconds(one.seconds), units.times(now / (one.seconds or 1.0))) for one in known]
    return rows + [(one.change, "-", one.note) for one in changes if not one.seconds]


def _flash(subject: Subject) -> list[tuple[str, str, str, str]]:
    """Time of each stage and of attention with attention written out, as it is, and how many times as fast that is."""
    before, after = subject.baseline, subject.profile
    if before is None:
        return []
    pairs = [(stage.replace("_", " "), (a, b)) for stage, a, b in _joined(*map(views.by_stage, (before, after)))]
    for reading in views.READINGS:
        found = _joined(*(views.by_category(profile, reading) for profile in (before, after)))
        pairs += [(f"attention, {reading}", (a, b)) for category, a, b in found if category == "Attention"]
    pairs.append(("all", (views.totals(before.ops), views.totals(after.ops))))
    return [
        (name, units.seconds(a.known_seconds), units.seconds(b.known_seconds), _ratio(a.known_seconds, b.known_seconds))
        for name, (a, b) in pairs
    ]


def _joined(before: Mapping[str, Totals], after: Mapping[str, Totals]) -> list[tuple[str, Totals, Totals]]:
    return [(name, part, after[name]) for name, part in before.items() if name in after]


def _ratio(before: float, after: float) -> str:
    return units.times(before / after) if after else "-"


def _assumptions(profile: Profile) -> list[tuple[str, str]]:
    """What the numbers rest on: options of the run, constants of the device, what has no formula."""
    found = [("run", _listed(profile.run)), ("made with", _listed(profile.environment))]
    if profile.source == "simulated":
        whole, kinds = views.totals(profile.ops), views.grouped(profile.ops, lambda op: op.provenance or "unknown")
        shares = [f"{name} {units.percent(views.share(part, whole))} of the time" for name, part in kinds.items()]
        found.append(("constants", ", ".join(shares)))
        if profile.device.name in devices.names():
            found.append(("source of the constants", devices.load(profile.device.name).constants.source))
        found.append(("weights and inputs", "random; only sizes and dtypes matter to a simulation"))
    contents = memory_table.contents(profile)
    found.append(("memory at the peak", ", ".join(f"{name} {units.size(size)}" for name, size in contents.items())))
    unknown = views.named(profile.unmodelled())
    if unknown:
        found.append(("no FLOP formula", ", ".join(f"{name} ({units.count(n)} times)" for name, n in unknown.items())))
    for name, part in profile.config.items():
        published = part.get("published") if isinstance(part, dict) else None
        if isinstance(published, dict):
            said = f"{units.params(published['params'])} parameters: {published['source']}"
            found.append((f"published size of {name}", said))
    return found


def _listed(record: BaseModel) -> str:
    """The facts of a record that are known, in words."""
    facts = record.model_dump(exclude_none=True).items()
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts if value is not False)


def _beside(profiles: Sequence[Profile]) -> dict[str, Any]:
    """What differs between the profiles, and what that does: the rows of `minibench compare`."""
    found = compare_profiles(profiles)
    differences = [
        (f"run: {one.key}" if one.where == "run" else one.key, [comparison_table.written(v) for v in one.values])
        for one in found.differences
    ]
    sections = [
        (title, [(row.name, comparison_table.cells(row)) for row in rows])
        for title, rows in comparison_table.sections(found)
    ]
    return {"names": found.names, "differences": differences, "sections": sections}
