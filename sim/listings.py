"""What the terminal shows of what there is: GPUs, architectures, and one architecture's parts and modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from minimodels.sim import units
from minimodels.sim.cells import table_of

if TYPE_CHECKING:
    from minimodels.sim.device import Device


def device_list(listed: Iterable[Device]) -> Table:
    """The GPUs that can be simulated, smallest memory first."""
    table = table_of("Device", "Memory", "Bandwidth", "bfloat16", "float32", "Constants")
    for d in sorted(listed, key=lambda d: (d.datasheet.memory_bytes, d.name)):
        sheet = d.datasheet
        memory = [units.size(sheet.memory_bytes), units.si(sheet.bandwidth, "B/s")]
        peaks = [units.si(sheet.flops.get("bfloat16"), "FLOP/s"), units.si(sheet.flops.get("float32"), "FLOP/s")]
        table.add_row(d.name, *memory, *peaks, d.constants.provenance)
    return table


def calibration(rows: Iterable[Sequence[str]]) -> Table:
    """What a fit did: (family, constants, rows fitted to, rows kept out, their error before and after)."""
    table = table_of("Fit of", "Constants", "Rows", "Kept out", "Error before", "After")
    for row in rows:
        table.add_row(*row)
    return table


def model_list(models: Iterable[Mapping[str, Any]]) -> Group:
    """The named architectures: rows of {name, family, params, paper}, a section per family.

    A paper stands beside the first of the models it describes.
    """
    table = table_of("Model", "Parameters")
    table.add_column("Paper", overflow="fold")
    for family, members in groupby(models, key=lambda model: model["family"]):
        table.add_section()
        table.add_row(Text(family, style="bold"))
        above = None
        for model in members:
            paper = model["paper"]
            table.add_row(f"  {model['name']}", units.params(model["params"]), "" if paper == above else paper)
            above = paper
    note = "Parameters are those of all networks that run at inference: text encoders, decoders, enlargements."
    return Group(table, Text(), Text(note))


def model(record: Mapping[str, Any], trees: Mapping[str, Sequence[Mapping[str, Any]]], depth: int) -> Group:
    """The parts of an architecture beside the published counts, then the tree of each part's modules.

    record: {name, title, paper, parts: [{name, params, published, source}], total_params, published_total}; trees: by
    part, the modules inside as [{name, kind, shape, params, repeat, children}], equal neighbours being one with a
    repeat; depth: how many modules deep a tree is shown, lists of modules not counted.
    """
    table = table_of("Part", "Parameters", "Published", "Off by")
    table.add_column("Source", overflow="fold")
    for part in record["parts"]:
        table.add_row(part["name"], *_beside(part), part["source"])
    table.add_section()
    total = record["published_total"]
    if total and total["of"] == [part["name"] for part in record["parts"]]:
        table.add_row("all", *_beside(total), total["source"])
    else:
        if total:
            table.add_row(" + ".join(total["of"]), *_beside(total), total["source"])
        table.add_row("all", f"{record['total_params']:,}")
    heading = f"{record['title']} ({record['name']}). {record['paper']}"
    parts: list[RenderableType] = [Text(heading), Text(), table]
    for name, children in trees.items():
        tree = Tree(name, guide_style="dim")
        _grow(tree, children, depth)
        parts += [Text(), tree]
    return Group(*parts)


def _beside(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """A count, the published one, and how far off it is."""
    params, published = row["params"], row["published"]
    off = f"{100 * (params / published - 1):+.2f} %" if published else "-"
    return f"{params:,}", units.params(published) if published else "-", off


def _grow(tree: Tree, nodes: Sequence[Mapping[str, Any]], depth: int) -> None:
    """Hang `nodes` and those below them on `tree`, `depth` modules deep; what has no parameters is left out."""
    for node in nodes:
        if not node["params"]:
            continue
        shape = f" {' x '.join(map(str, node['shape']))}" if node["shape"] else ""
        repeat = f"{node['repeat']} x " if node["repeat"] > 1 else ""
        text = Text(f"{repeat}{node['name']}  {node['kind']}{shape}  {units.params(node['params'])}")
        left = depth - (node["kind"] != "ModuleList")
        if node["children"] and not left:
            text.append(" ...")
        branch = tree.add(text)
        if left:
            _grow(branch, node["children"], left)
