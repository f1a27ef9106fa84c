"""The architecture as it ran, drawn to scale: a row per stage, a block per module, in the order of one iteration.

A block's height is the side of the square of tokens or pixels that it works on (the root of their number, per frame of
a video), its width the features or channels that come in. Both scales are one for a row; its colour says where its
time goes. Modules of one label behind each other are one block. Read off the operators of a profile, so that any module
can be drawn, not only ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby, takewhile
from math import prod, sqrt

from minimodels.sim import units, views
from minimodels.sim.profile import Op, Profile

WIDE, HIGH, LEAST = 860.0, 150.0, 1.5  # pixels: of a row, of its highest block, of any block
LABELS = 16.0  # pixels under a row
MOST = 600  # blocks of a row; those of a longer one are drawn together


@dataclass(frozen=True, slots=True)
class Block:
    """Operators under one label: tokens or pixels, features of each as they come in, the time of one iteration."""

    label: str
    tokens: int
    width: int
    seconds: float
    category: str

    @property
    def side(self) -> float:
        """The side of a square of so many tokens."""
        return sqrt(self.tokens)


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
    """The blocks of a stage, in the order they run; operators that work on no features are part of none."""
    found = []
    for scope, group in groupby(iteration(profile, stage), key=_outermost):
        ops = list(group)
        sizes = [size for op in ops if (size := _size(op))]
        if sizes:
            tokens, width = sizes[0]  # what comes into the block
            seconds = {name: part.known_seconds for name, part in views.grouped(ops, lambda op: op.category).items()}
            spent = sum((op.device_seconds or 0.0) + (op.gap_seconds or 0.0) for op in ops)
            found.append(Block(scope or stage, tokens, width, spent, max(seconds, key=seconds.__getitem__)))
    return found


def _outermost(op: Op) -> str:
    return op.scope.split("/")[0]


def _size(op: Op) -> tuple[int, int] | None:
    """Tokens per sequence, or pixels per frame, and features of what an operator multiplies; None if it does not."""
    if op.category not in ("Linear", "Convolution") or not op.shapes:
        return None
    x = op.shapes[0]
    if op.category == "Convolution" and len(x) >= 3:
        return prod(x[-2:]) if len(x) >= 4 else x[-1], x[1]
    if op.category == "Linear" and len(x) >= 2:
        return x[-2], x[-1]
    return None


def svg(profile: Profile) -> str:
    """The drawing as SVG text, its own colours for text left to the page; empty where nothing can be drawn."""
    rows = [(stage.name, found) for stage in profile.stages if (found := blocks(profile, stage.name))]
    if not rows:
        return ""
    pitch = HIGH + 2 * LABELS + 30
    label = escape(f"Architecture of {units.named(profile)}, stage by stage")
    parts = [f'<svg viewBox="0 0 {WIDE:g} {pitch * len(rows):g}" role="img" aria-label="{label}">']
    for number, (stage, found) in enumerate(rows):
        parts += _row(profile, stage, found, number * pitch)
    return "".join([*parts, "</svg>"])


def _row(profile: Profile, stage: str, found: Sequence[Block], top: float) -> Iterator[str]:
    steps = next(one.steps for one in profile.stages if one.name == stage)
    said = stage.replace("_", " ") + (f", one of {steps:,} iterations" if steps and steps > 1 else "")
    widest, highest = max(block.width for block in found), max(block.side for block in found)
    said += f": up to {widest:,} wide, {_sized(highest**2)}"
    yield f'<text class="drawn" x="0" y="{top + 14:g}">{escape(said)}</text>'
    drawn = _fewer(found)
    gap = 1.0 if len(drawn) < MOST / 4 else 0.0
    whole = sum(block.width for block in drawn)
    scale, left, last = max(0.0, WIDE - gap * len(drawn)) / whole, 0.0, 0.0
    middle = top + 22 + HIGH / 2
    for block in drawn:
        width, height = max(LEAST, block.width * scale), max(LEAST, HIGH * block.side / highest)
        told = f"{block.label}: {_sized(block.tokens)}, {block.width:,} wide, {units.seconds(block.seconds)}"
        yield (
            f'<rect x="{left:.2f}" y="{middle - height / 2:.2f}" width="{width:.2f}" height="{height:.2f}" '
            f'fill="{units.COLOURS[block.category]}"><title>{escape(told)}</title></rect>'
        )
        if block.side != last and _room(drawn, block, scale, gap):
            yield f'<text class="drawn small" x="{left:.2f}" y="{middle + HIGH / 2 + LABELS:g}">{_short(block)}</text>'
        last = block.side
        left += width + gap


def _fewer(found: Sequence[Block]) -> Sequence[Block]:
    """At most `MOST` blocks: every so many of a long row of equal layers stand for the others."""
    return found[:: len(found) // MOST + 1]


def _room(drawn: Sequence[Block], block: Block, scale: float, gap: float) -> bool:
    """Whether a label has room before the next resolution begins."""
    start = next(index for index, one in enumerate(drawn) if one is block)
    run = takewhile(lambda one: one.side == block.side, drawn[start:])
    return sum(max(LEAST, one.width * scale) + gap for one in run) > 7.0 * len(_short(block))


def _short(block: Block) -> str:
    side = round(block.side)
    return f"{side:,}²" if side * side == block.tokens and side > 1 else f"{block.tokens:,}"


def _sized(tokens: float) -> str:
    side = round(sqrt(tokens))
    return f"{side:,} x {side:,}" if side > 1 and side * side == round(tokens) else f"{round(tokens):,} in a row"
