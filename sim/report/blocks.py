"""The architecture as it ran, read off the operators of a profile: a block per labelled module, with its true sizes.

So any module can be drawn, not only ours. A block ends where its label does; blocks of one label behind each other are
told apart by the operators that the first begins and the last ends with. Sizes are those that come in, the width is
the features that come out. Equal blocks, or equal rows of blocks, behind each other are one group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from math import prod, sqrt

from minimodels.sim import views
from minimodels.sim.profile import Attention, Op, Profile

LONGEST = 100  # blocks of a row that is looked for again


@dataclass(frozen=True, slots=True)
class Size:
    """What a block works on: tokens or pixels of one frame, their rows and columns where pixels tell, and frames.

    A convolution over space and time is given frames that were kept beside new ones, so that its frames are not said.
    """

    tokens: int
    grid: tuple[int, int] | None = None
    frames: int = 1

    @property
    def side(self) -> float:
        """The side of a square of as many tokens or pixels."""
        return sqrt(self.tokens)

    def __str__(self) -> str:
        tokens = "1 token" if self.tokens == 1 else f"{self.tokens:,} tokens"
        place = f"{self.grid[0]:,} x {self.grid[1]:,}" if self.grid else tokens
        return f"{place}, {self.frames:,} frames" if self.frames > 1 else place


@dataclass(frozen=True, slots=True)
class Block:
    """A module, or one operator outside any: its label, size and features, and what its attention looks at.

    inside: labels of its parts; layers: how often they repeat; parts: seconds by label, of itself and what is inside.
    """

    label: str
    size: Size
    width: int
    attends: str = ""
    inside: tuple[str, ...] = ()
    layers: int = 1
    parts: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Group:
    """Blocks, or groups of them, that run one after the other, as often as `times`."""

    times: int
    items: tuple[Block | Group, ...]

    @property
    def flat(self) -> Iterator[Block]:
        """The blocks in it, each once."""
        for item in self.items:
            yield from (item,) if isinstance(item, Block) else item.flat


def iteration(profile: Profile, stage: str) -> list[Op]:
    """The operators of a stage in order: of a loop those of its first iteration, whatever it is in."""
    ops = [profile.ops[index] for index in profile.calls if profile.ops[index].stage == stage]
    steps = max((op.steps or 1 for op in ops), default=1)
    inside = [op for op in ops if (op.steps or 1) == steps]
    kinds = {key: number for number, key in enumerate(dict.fromkeys((op.scope, op.name) for op in inside))}
    if not inside:
        return []
    return inside[: views.period([kinds[op.scope, op.name] for op in inside])] if steps > 1 else inside


def blocks(profile: Profile, stage: str) -> list[Block]:
    """The blocks of a stage in the order they run; what multiplies no features is part of none, single vectors neither.

    A projection outside any label whose input is one vector, beside blocks of more tokens, is such a vector's: the
    time, a pooled text, the shift and scale of norms.
    """
    grown = _grown(profile, stage)
    found, grid = [], None
    for label, group in groupby(iteration(profile, stage), key=lambda op: op.scope.split("/")[0]):
        for ops in _modules(list(group)) if label else ([op] for op in group):
            grid = next((op.shapes[0][-2:] for op in reversed(ops) if _has_grid(op)), grid)
            block = _block(label, ops, grid, grown)
            if block:
                found.append(block)
    if any(block.size.tokens > 1 for block in found):
        return [block for block in found if block.size.tokens > 1 or block.label not in ("linear", "convolution")]
    return found


def folded(found: Sequence[Block]) -> list[Group]:
    """Blocks with their repetitions, in as few rows as can be."""
    kinds = {block: number for number, block in enumerate(dict.fromkeys(found))}
    groups, start = [], 0
    for length, times in _plan(tuple(kinds[block] for block in found), {})[1]:
        rows = [found[start + turn * length : start + (turn + 1) * length] for turn in range(times)]
        part = [_mean(equal) for equal in zip(*rows, strict=True)]
        inside = folded(part) if length > 1 else [Group(1, tuple(part))]
        groups.append(Group(times, tuple(item for one in inside for item in (one.items if one.times == 1 else [one]))))
        start += length * times
    return groups


Plan = tuple[int, tuple[tuple[int, int], ...]]  # rows that are drawn; of each group its length and how often it runs


def _plan(kinds: tuple[int, ...], known: dict[tuple[int, ...], Plan]) -> Plan:
    """The fewest rows that a sequence can be drawn in; of two ways the one that repeats earlier."""
    if kinds in known:
        return known[kinds]
    best: list[Plan] = [(0, ())]
    for start in reversed(range(len(kinds))):
        rest = best[-1]
        choice = (1 + rest[0], ((1, 1), *rest[1]))
        for length in range(1, min(LONGEST, (len(kinds) - start) // 2) + 1):
            times = 1
            while kinds[start + times * length : start + (times + 1) * length] == kinds[start : start + length]:
                times += 1
            rest = best[len(kinds) - start - length * times]
            if times > 1:
                rows = _plan(kinds[start : start + length], known)[0] + rest[0]
                choice = min(choice, (rows, ((length, times), *rest[1])), key=lambda plan: plan[0])
        best.append(choice)
    known[kinds] = best[-1]
    return best[-1]


def _mean(equal: Sequence[Block]) -> Block:
    """Equal blocks as one, with their mean times."""
    keys = dict.fromkeys(key for block in equal for key in block.parts)
    return replace(equal[0], parts={key: sum(b.parts.get(key, 0.0) for b in equal) / len(equal) for key in keys})


def _modules(ops: list[Op]) -> list[list[Op]]:
    """Operators under one label, cut where a module of it ends and the next begins; each has parts if any has."""
    first, last = _pattern(ops[0]), _pattern(ops[-1])
    ends = [i for i in range(1, len(ops)) if (_pattern(ops[i - 1]), _pattern(ops[i])) == (last, first)]
    cut = [ops[start:stop] for start, stop in pairwise([0, *ends, len(ops)])]
    whole = first == last or len({any(map(_inner, part)) for part in cut}) > 1
    return [ops] if whole else cut


def _pattern(op: Op) -> tuple[object, ...]:
    """What tells an operator from others of its module, however large: a sum of equals from one with a vector."""
    equals = op.category == "Elementwise" and sum(shape == op.shapes[0] for shape in op.shapes) > 1
    return op.scope, op.name, equals


def _has_grid(op: Op) -> bool:
    """Whether an operator's input is pixels, (b, c, h, w) or (b, c, f, h, w)."""
    return bool(op.shapes) and len(op.shapes[0]) >= 4 and (op.category == "Convolution" or "group_norm" in op.name)


def _block(label: str, ops: list[Op], grid: tuple[int, ...] | None, grown: dict[str, set[int]]) -> Block | None:
    sizes = [size for op in ops if (size := _size(op))]
    if not sizes:
        return None
    size, attends, inside = _largest(ops, sizes), "", [name for name, _ in groupby(map(_inner, ops)) if name]
    facts = next((op.attention for op in ops if op.attention is not None), None)
    if facts is not None and not inside:
        size = _attending(sizes[-1][0], facts)
        attends = _looks_at(size, facts, grown.get(next(op.scope for op in ops if op.attention), set()))
    elif label.startswith("attention") and not inside:
        attends = "keys, values"
    if grid and size.grid is None and size.tokens == prod(grid):
        size = replace(size, grid=(grid[0], grid[1]))
    parts: dict[str, float] = {}
    for op in ops:
        name = _inner(op) or label or op.category.lower()
        parts[name] = parts.get(name, 0.0) + (op.device_seconds or 0.0) + (op.gap_seconds or 0.0)
    found, width = label or ops[0].category.lower(), sizes[-1][1]
    return Block(found, size, width, attends, tuple(dict.fromkeys(inside)), _layers(inside), parts)


def _largest(ops: Sequence[Op], sizes: Sequence[tuple[Size, int]]) -> Size:
    """The most that a block works on: pixels, where it works on any, since texts may have more tokens."""
    grids = [size.grid for size, _ in sizes if size.grid] or [op.shapes[0][-2:] for op in ops if _has_grid(op)]
    if not grids:
        return max((size for size, _ in sizes), key=lambda size: size.tokens)
    rows, columns = max(grids, key=prod)
    videos = [op.shapes for op in ops if op.category == "Convolution" and len(op.shapes[0]) == 5]
    frames = {x[2] for x, *_ in videos}
    padded = any(weight[2] > 1 and prod(weight[3:]) > 1 for _, weight, *_ in videos)
    return Size(rows * columns, (rows, columns), 1 if padded or len(frames) != 1 else frames.pop())


def _inner(op: Op) -> str:
    """The innermost label of an operator inside its outermost; empty where there is none."""
    labels = [label for label in op.scope.split("/")[1:] if not label.startswith("core")]
    return labels[-1] if labels and labels[-1] != op.scope.split("/")[0] else ""


def _layers(inside: list[str]) -> int:
    """How often the labels inside a block repeat as a whole."""
    return len(inside) // views.period([list(dict.fromkeys(inside)).index(name) for name in inside]) if inside else 1


def _attending(size: Size, facts: Attention) -> Size:
    """What a block of attention works on: to another text that is its queries, else all tokens together."""
    if facts.role == "cross" or facts.query_length > size.tokens * size.frames:
        return Size(facts.query_length)
    return size  # of its last projection: those of keys and values may be of a text


def _looks_at(size: Size, facts: Attention, keys: set[int]) -> str:
    """What each token of a block of attention looks at, where that is not all of its tokens."""
    if len(keys) > 1:
        return f"to {min(keys):,}–{max(keys):,}"
    if facts.role == "temporal" and facts.query_length == facts.key_length == size.frames:
        return ""
    if facts.role != "cross" and facts.query_length < size.tokens:
        return f"{facts.query_length:,} at a time"
    return f"to {facts.key_length:,}" if facts.key_length != facts.query_length else ""


def _grown(profile: Profile, stage: str) -> dict[str, set[int]]:
    """The key lengths of attention of single queries over a stage, by scope: of a loop that grows there are several."""
    found: dict[str, set[int]] = {}
    for op in profile.ops:
        if op.stage == stage and op.attention is not None and op.attention.query_length == 1:
            found.setdefault(op.scope, set()).add(op.attention.key_length)
    return found


def _size(op: Op) -> tuple[Size, int] | None:
    """Tokens or pixels that an operator multiplies, and the features that it makes of each; None if it does not."""
    shapes = [shape for shape in op.shapes if len(shape) >= 2]
    if op.category not in ("Linear", "Convolution") or len(shapes) < 2:
        return None
    x, weight = shapes[:2]
    if op.category == "Linear":
        out = weight[0] if weight[-1] == x[-1] else weight[-1]
        frames = x[-3] if len(x) >= 4 else 1
        return Size(x[-2] if len(x) >= 3 else 1, frames=frames), out
    if len(x) < 4:
        return Size(x[-1]), weight[0]
    return Size(prod(x[-2:]), (x[-2], x[-1])), weight[0]
