"""What `minibench tour` shows: the stages in order with shapes, cost and the figures of the study, then the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from minimodels.sim import units, views
from minimodels.sim.cells import table_of
from minimodels.sim.places import Shape, Visit
from minimodels.sim.profile import Profile
from minimodels.sim.sentences import sentences
from minimodels.sim.tour import Number, Tour


def report(tour: Tour) -> Group:
    """Text and tables for the terminal."""
    profile = tour.profile
    whole = views.totals(profile.ops)
    title = f"{profile.config['title']}: one inference, SIMULATED on {profile.device.title}"
    lines = [Text(title, style="bold"), Text(str(profile.config["paper"])), Text()]
    for number, (name, part) in enumerate(views.by_stage(profile).items(), 1):
        lines += [Text(line) for line in _stage(tour, number, name, part, whole)] + [Text()]
    lines += [Text(sentence) for sentence in sentences(profile)]
    for section, numbers in tour.numbers.items():
        if numbers:
            lines += [Text(), _numbers(section, numbers)]
    return Group(*lines)


def as_json(tour: Tour) -> dict[str, Any]:
    """The same as a record."""
    profile = tour.profile
    stages = [
        {
            "name": name,
            "seconds": part.seconds,
            "flops": None if part.flops is None else float(part.flops),
            "bytes": float(part.bytes),
            "networks": [_visit(visit) for visit in tour.visits if visit.stage == name],
            "figures": list(figures(profile, name)),
        }
        for name, part in views.by_stage(profile).items()
    ]
    numbers = {
        section: [{"key": n.key, "value": n.value, "meaning": n.meaning, "place": n.place} for n in listed]
        for section, listed in tour.numbers.items()
    }
    return {"name": profile.config["name"], "device": profile.device.name, "stages": stages, "numbers": numbers}


def _visit(visit: Visit) -> dict[str, Any]:
    return {
        "path": visit.path, "kind": visit.kind, "params": visit.params, "executions": visit.executions,
        "inputs": [{"name": name, "shape": list(shape)} for name, shape in visit.inputs],
        "outputs": [list(shape) for shape in visit.outputs],
    }  # fmt: skip


def _stage(tour: Tour, number: int, name: str, part: views.Totals, whole: views.Totals) -> Iterator[str]:
    fraction = views.share(part, whole)
    cost = [units.seconds(part.seconds), units.flops(part.flops), f"{units.size(part.bytes)} moved"]
    share = "" if fraction is None else f", {units.percent(fraction)} of the time"
    yield f"{number}. {name.replace('_', ' ')}: {', '.join(cost)}{share}"
    for visit in tour.visits:
        if visit.stage == name:
            often = "once" if visit.executions == 1 else f"{units.count(visit.executions)} times"
            yield f"   {visit.path} ({visit.kind}, {units.params(visit.params)} parameters), {often}"
            taken = ", ".join(f"{what} {shaped(shape)}" for what, shape in _distinct(visit.inputs))
            yield f"      {taken or 'nothing'} -> {', '.join(map(shaped, dict.fromkeys(visit.outputs)))}"
    for figure in figures(tour.profile, name):
        yield f"   {figure}"


def _distinct(inputs: Sequence[tuple[str, Shape]]) -> list[tuple[str, Shape]]:
    """Inputs without repetitions: a cache of many layers is named once for each shape."""
    return list(dict.fromkeys(inputs))


def shaped(shape: Shape) -> str:
    """A shape as Python writes it, thousands told apart."""
    return f"({', '.join(f'{size:,}' for size in shape)})"


def figures(profile: Profile, stage: str) -> Iterator[str]:
    """What of the study a stage shows, by what ran in it."""
    calls = [call.facts for call in views.attention_calls(profile) if call.stage == stage]
    own = [facts for facts in calls if facts.role in ("self", "spatial", "joint")]
    queries, keys = ({getattr(facts, name) for facts in own} for name in ("query_length", "key_length"))
    causal = {facts.query_length for facts in own if facts.causal}
    convolves = any(op.stage == stage and op.module == "res_block" for op in profile.ops)
    steps = next((found.steps for found in profile.stages if found.name == stage), None) or 1
    if queries == {1} and len(keys) > 1:
        low, high = min(keys), max(keys)
        yield f"Table III and Fig. 8: decoding, one query meets ever more keys, {low:,} to {high:,}"
    elif len(queries) > 1 and steps > 1 and convolves:
        low, high = min(queries), max(queries)
        yield f"Fig. 8: every step goes down from {high:,} tokens to {low:,} and up again, as the levels of a UNet do"
    elif queries and steps > 1:
        counts = " and ".join(f"{count:,}" for count in sorted(queries))
        yield f"Table III and Fig. 8: {counts} tokens attend to each other in every step, as in a prefill"
    elif causal:
        yield f"Table III: {max(causal):,} tokens at once, each attending to those before it, as in a prefill"
    if any(facts.role == "temporal" for facts in calls):
        frames = max(facts.query_length for facts in calls if facts.role == "temporal")
        yield f"Figs. 11 to 13: temporal attention, each pixel over {frames:,} frames"
    parts = views.by_category(profile, "core", stage)
    known = {name: part.known_seconds for name, part in parts.items()}
    largest = max(known, key=known.__getitem__, default=None)
    if largest and sum(known.values()):
        taken = units.percent(known[largest] / sum(known.values()))
        where = "Figs. 7 and 10" if largest == "Convolution" else "Fig. 7"
        yield f"{where}: {taken} of its time is {largest}"


def _numbers(section: str, numbers: Sequence[Number]) -> Any:
    table = table_of(f"[{section}]", "Value")
    table.add_column("What it is", overflow="fold")
    table.add_column("Where it is", overflow="fold")
    for number in numbers:
        value = f"{number.value:,}" if isinstance(number.value, int) else f"{number.value:g}"
        table.add_row(number.key, value, number.meaning, number.place)
    return table
