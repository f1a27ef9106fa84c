"""How figures of profiles are made, named and written: sizes, legends, titles, files.

matplotlib is imported when a figure is made, not before.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimodels.sim import units
from minimodels.sim.files import write_whole
from minimodels.sim.profile import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXTENSIONS = (".png", ".svg", ".pdf")
WIDE, NARROW = 8.0, 4.4  # inches: of a figure by itself, of one that can be read on a phone
WIDTH = 72  # characters of a line that a wide figure has room for


def plain(text: str) -> str:
    """`text` as it is drawn: on one line, and its dollars are not the borders of formulas."""
    return units.printable(text).replace("$", r"\$")


def check_extension(path: Path) -> None:
    """Say now, before any work, whether a plot can be written as `path`.

    Raises:
        ValueError: the extension is none of a known picture format.
    """
    if Path(path).suffix.lower() not in EXTENSIONS:
        raise ValueError(f"cannot write a plot as {Path(path).name!r}: the name must end in {', '.join(EXTENSIONS)}")


def save(figure: Figure, path: Path) -> None:
    """Write `figure` to `path` whole or not at all; the same figure gives the same bytes.

    Raises:
        ValueError: the extension is unknown, or the file cannot be written.
    """
    check_extension(path)
    write_whole(path, drawn(figure, Path(path).suffix.lower().removeprefix(".")))


def drawn(figure: Figure, kind: str) -> bytes:
    """`figure` as png, svg or pdf; the same figure gives the same bytes."""
    import matplotlib

    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "minimodels"}):
        figure.savefig(data, format=kind, dpi=160, metadata=dates)
    return data.getvalue()


def letters(width: float) -> int:
    """Characters of a line that a figure of `width` inches has room for."""
    return int(WIDTH * width / WIDE)


def new_figure(height: float, rows: int = 1, width: float = WIDE) -> tuple[Figure, list[Axes]]:
    """A figure with `rows` panels under each other, height and width in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, 1, squeeze=False)[:, 0].tolist()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def legend(figure: Figure, handles: Sequence[Any], columns: int = 5) -> None:
    """A legend under the panels, its texts wrapped to their share of the width; their further lines add height.

    columns: of a wide figure; a narrow one has as many as fit, at least two.
    """
    width = figure.get_figwidth()
    fit = max(2, int(columns * width / WIDE))
    texts = [textwrap.fill(handle.get_label(), letters(width) // fit) for handle in handles]
    more = math.ceil(len(handles) / fit) - math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * more)
    figure.set_figheight(figure.get_figheight() + 0.2 * sum(text.count("\n") for text in texts))
    look: dict[str, Any] = {"ncols": min(fit, len(handles)), "frameon": False}
    figure.legend(handles=handles, labels=texts, loc="outside lower center", **look)


def patch(name: str, colour: str, hatch: str = "", edge: str = "white") -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor=edge, hatch=hatch, label=name)


def title_of(what: str, profiles: Sequence[Profile], width: float = WIDE) -> str:
    """`what`, and the source and the device where all profiles share them, in lines of a figure of `width` inches."""
    sources = {profile.source for profile in profiles}
    places = {plain(profile.device.title) for profile in profiles}
    shared = [*(sources if len(sources) == 1 else ()), *(f"on {place}" for place in places if len(places) == 1)]
    return textwrap.fill(f"{what}, {' '.join(shared)}" if shared else what, letters(width))


def name_panel(axes: Axes, text: str) -> None:
    """`text`, a profile's name, above its panel."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes are of a figure"
    axes.set_title(textwrap.fill(text, letters(figure.get_figwidth())), fontsize=10, fontweight="bold", loc="left")
