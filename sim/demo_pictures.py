"""What the demos generated: a grid of pictures with a row a caption, or of videos that play side by side.

labels (n, 2 or 3); pixels (n, 3, h, w) or (n, 3, f, h, w) in [-1, 1].
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from torch import Tensor

from minimodels.demos.data import DIRECTIONS, caption, is_unseen
from minimodels.sim import figures
from minimodels.sim.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 2  # of captions
DURATION = 160  # milliseconds a frame


def save(labels: Tensor, pixels: Tensor, each: int, folder: Path) -> Path:
    """Write samples.png or samples.gif into `folder`; each: samples of every combination, one round after another.

    Raises:
        ValueError: the file cannot be written.
    """
    strips = rearrange((pixels + 1) / 2, "(k m) ... -> m k ...", k=each)
    labels = labels[: len(strips)]
    if pixels.dim() == 4:
        path = folder / "samples.png"
        figures.save(grid(labels, rearrange(strips, "m k c h w -> m h (k w) c").numpy()), path)
        return path
    path, count = folder / "samples.gif", len(DIRECTIONS)
    whole = rearrange(strips[:, :2], "(p d) k c f h w -> f p h (d k w) c", d=count).numpy()
    write_whole(path, _animated([grid(labels[::count, :2], frame, " ".join(DIRECTIONS)) for frame in whole]))
    return path


def grid(labels: Tensor, strips: np.ndarray, over: str = "") -> Figure:
    """Strips of pictures (m, h, w, c) beside the captions of labels (m, 2); over: what stands above them."""
    from matplotlib.figure import Figure

    rows = -(-len(strips) // COLUMNS)
    figure = Figure(figsize=(8, 0.42 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).T.flatten()
    for axes in panels:
        axes.set_axis_off()
    for axes, label, strip, new in zip(panels, labels, strips, is_unseen(labels), strict=False):
        axes.imshow(strip, interpolation="nearest")
        axes.text(-0.02, 0.5, caption(label), ha="right", va="center", fontsize=7, transform=axes.transAxes,
                  fontweight="bold" if new else "normal")  # fmt: skip
    told = "bold: never seen in training"
    figure.suptitle(f"{told}; from left to right, moving {over.replace(' ', ', ')}" if over else told, fontsize=8)
    return figure


def _animated(frames: list[Figure]) -> bytes:
    """Figures as an animated GIF that plays for ever."""
    from PIL import Image

    pictures = []
    for figure in frames:
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=110)
        pictures.append(Image.open(data).convert("RGB"))
    result = io.BytesIO()
    pictures[0].save(result, "GIF", save_all=True, append_images=pictures[1:], duration=DURATION, loop=0)
    return result.getvalue()
