"""What there is: the architectures by name, their parts and parameters beside the published counts."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import nn

from minimodels import loader
from minimodels.config import Part
from minimodels.kinds import Config
from minimodels.parts import make
from minimodels.run import NoInitialisation, build, parameters
from minimodels.sim.progress import Advance, silent

Row = dict[str, Any]
STUDY = ("llama", "imagen", "stable-diffusion", "muse", "parti", "prod-image", "make-a-video", "phenaki")


def models(progress: Advance = silent) -> list[Row]:
    """A row per named architecture: name, family, params, paper; the study's families first, by size, tiny ones last.

    progress: told of every architecture.
    """
    rows: list[Row] = []
    names = loader.names()
    for done, name in enumerate(names):
        progress("counted", done, len(names))
        config = loader.load(name)
        params = sum(counted(config).values())
        rows.append({"name": name, "family": config.family, "params": params, "paper": config.paper})
    families = [*STUDY, *sorted({row["family"] for row in rows} - set(STUDY))]
    return sorted(
        rows, key=lambda row: (families.index(row["family"]), row["name"].endswith("-tiny"), row["params"], row["name"])
    )


def counted(config: Config) -> dict[str, int]:
    """The parameters of each part of an architecture."""
    return {name: _count(type(part), part.model_dump_json(exclude={"published"})) for name, part in config.parts()}


def parts(config: Config) -> tuple[Row, dict[str, list[Row]]]:
    """The parts of an architecture with their counts, and the tree of modules inside each.

    Returns ({name, parts: [{name, params, published, source}], total_params, published_total}, trees by part name);
    published_total is {of, params, published, source}, what the authors count of several parts, or None; a tree is a
    list of {name, kind, shape, params, repeat, children} in which equal neighbours are one node.
    """
    built = build(config, "meta")
    rows: list[Row] = []
    for name, part in config.parts():
        published = part.published
        rows.append(
            {
                "name": name,
                "params": parameters(built[name]),
                "published": published.params if published else None,
                "source": published.source if published else None,
            }
        )
    record = {
        "name": config.name,
        "title": config.title,
        "paper": config.paper,
        "parts": rows,
        "total_params": sum(row["params"] for row in rows),
        "published_total": _total(config, rows),
    }
    return record, {name: _tree(module) for name, module in built.items()}


def _total(config: Config, rows: list[Row]) -> Row | None:
    """The count that authors state of parts together, beside that of ours."""
    if config.published is None:
        return None
    of = config.published.of or [row["name"] for row in rows]
    params = sum(row["params"] for row in rows if row["name"] in of)
    return {"of": of, "params": params, "published": config.published.params, "source": config.published.source}


@lru_cache(maxsize=1024)  # many architectures, and most points of a sweep, share a text encoder or a decoder
def _count(kind: type[Part], sizes: str) -> int:
    with torch.device("meta"), NoInitialisation():
        return parameters(make(kind.model_validate_json(sizes)))


def _tree(module: nn.Module) -> list[Row]:
    nodes: list[Row] = []
    for name, child in module.named_children():
        node = {
            "name": name,
            "kind": type(child).__name__,
            "shape": [list(p.shape) for n, p in child.named_parameters(recurse=False) if n == "weight"][:1],
            "params": parameters(child),
            "repeat": 1,
            "children": _tree(child),
        }
        node["shape"] = node["shape"][0] if node["shape"] else []
        last = nodes[-1] if nodes else None
        if last and name.isdecimal() and all(last[key] == node[key] for key in ("kind", "params", "children")):
            last["repeat"] += 1
            last["name"] = f"{last['name'].partition('-')[0]}-{name}"
        else:
            nodes.append(node)
    return nodes
