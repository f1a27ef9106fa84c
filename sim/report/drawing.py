"""The architecture as it ran, drawn to scale: a picture per stage, read from the top down as it runs.

A bar is a block: as wide as the side of the square of its tokens or pixels (of one frame), as high as its features,
both to one scale in a stage; what repeats is drawn once, in a bracket. A bar is divided by the time of what is inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from minimodels.sim import units, views
from minimodels.sim.plots import ROLES
from minimodels.sim.profile import Profile
from minimodels.sim.report.blocks import Block, Group, blocks, folded

WIDE, SHAPE, MARGIN = 384.0, 92.0, 58.0  # pixels: of a picture, of its widest bar, left of the bars for brackets
HIGH, LEAST, PITCH, LINE = 34.0, 1.5, 17.0, 13.0  # of the highest bar, of any, of a text of one line, of another
FITS = 36  # characters of a line
NEST = 27.0  # between a bracket and one inside it
MOST = 90  # blocks of a picture; a longer one says how many more there are
NAMES = {"linear": "projection", "attention.self": "self-attention", "attention.cross": "cross-attention"}
KINDS = {  # labels that have a colour of their own; a role of attention has the one it has in the sequence lengths
    **{f"attention.{role}": colour for role, colour in ROLES.items()},
    "feed_forward": "#F0E442",
    "res_block": "#56B4E9",
    "resample": "#7A6FB0",
    "convolution": "#9C7A54",
    "linear": "#A9A9A9",
    "transformer": "#777777",
}
OTHER = "#C4B7A6"


def pictures(profile: Profile) -> list[tuple[str, str, str]]:
    """Of each stage that can be drawn: its name, what a reader should know of it, and its picture as SVG text."""
    found = []
    whole = views.by_stage(profile)
    for stage in profile.stages:
        groups = folded(blocks(profile, stage.name))
        if groups:
            name = stage.name.replace("_", " ")
            said = [f"one of {stage.steps:,} iterations"] if stage.steps and stage.steps > 1 else []
            said.append(f"{units.seconds(whole[stage.name].known_seconds)} in all")
            found.append((name, ", ".join(said), _svg(name, groups)))
    return found


def legend(profile: Profile) -> list[tuple[str, str]]:
    """The kinds of blocks in the pictures of a profile, and their colours."""
    labels = {label for stage in profile.stages for block in blocks(profile, stage.name) for label in block.parts}
    known = [(named(label), colour) for label, colour in KINDS.items() if label in labels]
    return known + ([("other", OTHER)] if labels - set(KINDS) else [])


def named(label: str) -> str:
    """A label in words."""
    kind, _, role = label.partition(".")
    return NAMES.get(label) or f"{role} {kind}".strip().replace("_", " ")


def described(block: Block) -> str:
    """A block in words: what it works on, what its tokens look at, the features that come out."""
    looks = block.attends if block.attends.startswith("to ") else f", {block.attends}"
    return f"{block.size}{' ' * block.attends.startswith('to ')}{looks if block.attends else ''}, {block.width:,} wide"


def _name(block: Block) -> str:
    return named(block.label) + (f", {block.layers} layers" if block.layers > 1 else "")


def _summary(items: Sequence[Block | Group]) -> str:
    """The blocks in words, for those who cannot see them."""
    said = []
    for item in items:
        if isinstance(item, Block):
            said.append(f"{_name(item)} {described(item)}")
        else:
            inside = _summary(item.items)
            said.append(inside if item.times == 1 else f"{item.times} times ({inside})")
    return "; ".join(said)


def _svg(name: str, groups: Sequence[Group]) -> str:
    shown, count = [], 0
    for group in groups:
        count += len(list(group.flat))
        if count <= MOST:
            shown.append(group)
    all_blocks = [block for group in groups for block in group.flat]
    scale = SHAPE / max(block.size.side for block in all_blocks), HIGH / max(block.width for block in all_blocks)
    parts: list[str] = []
    bottom = 2.0
    for group in shown:
        bottom = _draw(group, bottom, scale, 0, parts)
    left_out = len(all_blocks) - sum(len(list(group.flat)) for group in shown)
    if left_out:
        parts.append(_text(MARGIN + SHAPE + 10, bottom + 12, f"and {left_out:,} blocks more"))
        bottom += PITCH
    label = escape(f"{name}: {_summary(groups)}")
    return f'<svg viewBox="0 0 {WIDE:g} {bottom + 2:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _draw(item: Block | Group, top: float, scale: tuple[float, float], depth: int, parts: list[str]) -> float:
    """Draw a block or a group from `top` on; where it ends."""
    if isinstance(item, Block):
        height = max(LEAST, item.width * scale[1])
        pitch = max(PITCH + LINE * (len(_lines(item)) - 1), height + 3)
        parts += _bar(item, top + pitch / 2, (max(LEAST, item.size.side * scale[0]), height))
        return top + pitch
    bottom, repeated = top, item.times > 1
    for one in item.items:
        bottom = _draw(one, bottom, scale, depth + repeated, parts)
    if repeated:
        x, middle = MARGIN - 6 - NEST * (1 - min(depth, 1)), (top + bottom) / 2
        x = x + NEST if depth == 0 and not any(isinstance(one, Group) for one in item.items) else x
        line = f"M{x + 4:g} {top + 2:g}h-4V{bottom - 2:g}h4"
        parts.append(f'<path class="bracket" d="{line}"/>{_text(x - 3, middle + 4, f"{item.times} x", "end")}')
    return bottom


def _bar(block: Block, middle: float, size: tuple[float, float]) -> Iterator[str]:
    """The bar of a block, divided by the time of its parts, and its name beside it."""
    width, height = size
    left = MARGIN + (SHAPE - width) / 2
    told = f"{_name(block)}: {described(block)}; {units.seconds(block.seconds)}"
    yield f"<g><title>{escape(told)}</title>"
    whole = block.seconds
    for label, seconds in block.parts.items():
        share = width * (seconds / whole if whole else 1 / len(block.parts))
        place = f'x="{left:.2f}" y="{middle - height / 2:.2f}" width="{share:.2f}" height="{height:.2f}"'
        yield f'<rect {place} fill="{KINDS.get(label, OTHER)}"/>'
        left += share
    x, lines = MARGIN + SHAPE + 8, _lines(block)
    y = middle + 4 - LINE * (len(lines) - 1) / 2
    yield f'<text x="{x:g}" y="{y:.1f}">{lines[0]}'
    yield from (f'<tspan x="{x:g}" dy="{LINE:g}">{line}</tspan>' for line in lines[1:])
    yield "</text></g>"


def _lines(block: Block) -> list[str]:
    """The name of a block and what it works on, in one line where there is room for both."""
    name, said = _name(block), described(block)
    soft = f'<tspan class="soft">{escape(said)}</tspan>'
    return [f"{escape(name)} {soft}"] if len(name) + len(said) < FITS else [escape(name), soft]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
