"""Where the time goes, module inside module: a tree of bars for a page, each laid under the part it is a part of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from minimodels.sim import views
from minimodels.sim.profile import Op, Profile

LEAST = 0.001  # of the whole: what is shorter stands with its neighbours under one line, that can be opened


@dataclass(slots=True)
class Node:
    """A stage, a label or an operator: seconds, where its bar starts, and what is inside; both from 0 to 1."""

    name: str
    seconds: float = 0.0
    category: str | None = None
    start: float = 0.0
    share: float = 0.0
    inside: dict[str, Node] = field(default_factory=dict)

    @property
    def children(self) -> list[Node]:
        """What is inside, in the order it runs first; what is summed up is last."""
        return list(self.inside.values())


def tree(profile: Profile) -> Node:
    """The whole run; an operator's time stands under its stage and labels. Every stage has a line of its own."""
    root = Node("all")
    for op in profile.ops:
        seconds = views.op_seconds(op) or 0.0
        node = root
        node.seconds += seconds
        for name in _path(op):
            node = node.inside.setdefault(name, Node(name))
            node.seconds += seconds
        node.category = op.category
    _place(root, 0.0, root.seconds or 1.0)
    return root


def _path(op: Op) -> Iterable[str]:
    labels = (part for part in op.scope.split("/") if part)
    return (op.stage.replace("_", " "), *labels, op.name.removeprefix("aten::"))


def _place(node: Node, start: float, whole: float, depth: int = 0) -> None:
    """Bars of what is inside lie side by side under the bar; what is too short, but no stage, is summed up."""
    node.start, node.share = start, node.seconds / whole
    short = [child for child in node.inside.values() if child.seconds < LEAST * whole]
    if depth and 1 < len(short) < len(node.inside):
        for child in short:
            del node.inside[child.name]
        rest = Node(f"{len(short)} more", sum(child.seconds for child in short))
        rest.inside = {child.name: child for child in short}
        node.inside[rest.name] = rest
    for child in node.children:
        _place(child, start, whole, depth + 1)
        start += child.share
