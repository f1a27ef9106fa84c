"""What the demos learn from: drawn shapes with captions, still ("a red circle") or moving ("a red circle moving left").

A sample is its labels (b, 2) of shape and colour, (b, 3) with the direction where it moves; pixels follow from them
and a generator. One colour of every shape is never trained on.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.75, 0.2),
    "blue": (0.15, 0.3, 0.95),
    "yellow": (0.95, 0.85, 0.1),
    "purple": (0.6, 0.15, 0.8),
    "white": (0.95, 0.95, 0.95),
}
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
BACKGROUND = 0.12
UNSEEN = (("circle", "red"), ("square", "green"), ("triangle", "blue"), ("cross", "yellow"))
WORDS = ("", "a", *COLOURS, *SHAPES, "moving", *DIRECTIONS)
RADIUS = (0.24, 0.34)  # of a shape, in sides of the picture
MOVING_RADIUS = (0.2, 0.27)  # of one that moves, which needs room for it
PATH = 0.42  # how far a shape moves, in sides of the picture


def combinations(moving: bool) -> Tensor:
    """All labels (n, 2), or (n, 3) of what moves: every shape in every colour in every direction."""
    axes = [torch.arange(len(SHAPES)), torch.arange(len(COLOURS))]
    return torch.cartesian_prod(*axes, torch.arange(len(DIRECTIONS))) if moving else torch.cartesian_prod(*axes)


def is_unseen(labels: Tensor) -> Tensor:
    """Which of labels (n, 2 or 3) have a pair of shape and colour that is never trained on: (n,)."""
    pairs = [(SHAPES.index(shape), list(COLOURS).index(colour)) for shape, colour in UNSEEN]
    return torch.stack([(labels[:, 0] == shape) & (labels[:, 1] == colour) for shape, colour in pairs]).any(dim=0)


def drawn_labels(count: int, moving: bool, generator: torch.Generator, *, unseen: bool) -> Tensor:
    """Labels (count, 2 or 3) drawn evenly; those of unseen pairs among them or not."""
    allowed = combinations(moving)
    allowed = allowed if unseen else allowed[~is_unseen(allowed)]
    return allowed[torch.randint(len(allowed), (count,), generator=generator)]


def caption(label: Tensor) -> str:
    """The caption of one label (2 or 3,)."""
    shape, colour, *direction = label.tolist()
    still = f"a {list(COLOURS)[colour]} {SHAPES[shape]}"
    return f"{still} moving {list(DIRECTIONS)[direction[0]]}" if direction else still


def tokens(labels: Tensor, length: int) -> Tensor:
    """The captions of labels (b, 2 or 3) as numbers of `WORDS`, zeros behind them: (b, length)."""
    rows = [[WORDS.index(word) for word in caption(label).split()] for label in labels]
    assert max(map(len, rows)) <= length, f"captions are longer than {length} words"
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def draw(labels: Tensor, side: int, frames: int | None, generator: torch.Generator) -> Tensor:
    """Pictures of labels (b, 2) as (b, 3, h, w), or videos of labels (b, 3) as (b, 3, f, h, w), in [-1, 1].

    Sizes and places are random; edges are smooth over a pixel. What moves does so evenly and stays inside.
    """
    count = len(labels)
    low, high = MOVING_RADIUS if frames else RADIUS
    radius = low + (high - low) * torch.rand(count, generator=generator)
    path = PATH if frames else 0.0
    heading = torch.tensor(list(DIRECTIONS.values()))[labels[:, 2]] if frames else torch.zeros(count, 2)
    room = 0.5 - radius[:, None] - heading.abs() * path / 2
    middle = 0.5 + room * (2 * torch.rand(count, 2, generator=generator) - 1)
    times = torch.linspace(-0.5, 0.5, frames) if frames else torch.zeros(1)
    centre = middle[:, None] + path * times[:, None] * heading[:, None]
    covered = _covered(labels[:, 0], rearrange(centre, "b f two -> two b f 1 1"), radius[:, None, None, None], side)
    colour = rearrange(torch.tensor(list(COLOURS.values()))[labels[:, 1]], "b c -> b c 1 1 1")
    pixels = BACKGROUND + (colour - BACKGROUND) * covered[:, None]
    return 2 * (pixels if frames else pixels[:, :, 0]) - 1


def _covered(shape: Tensor, centre: Tensor, radius: Tensor, side: int) -> Tensor:
    """How much of each pixel a shape covers, (b, f, h, w), by the distance to its edge."""
    grid = (torch.arange(side) + 0.5) / side
    x, y = grid - centre[0], grid[:, None] - centre[1]
    wide, tall = torch.broadcast_tensors(x.abs(), y.abs())
    circle = (x.square() + y.square()).sqrt() - radius
    square = torch.maximum(wide, tall) - 0.85 * radius
    slanted = (3**0.5 * wide - y - radius) / 2
    triangle = torch.maximum(slanted, (y - 0.75 * radius).expand_as(slanted))
    arm = 0.32 * radius
    across = torch.maximum(wide - radius, tall - arm)
    cross = torch.minimum(across, torch.maximum(tall - radius, wide - arm))
    distance = torch.stack([circle, square, triangle, cross])[shape, torch.arange(len(shape))]
    return (0.5 - side * distance).clamp(0, 1)
