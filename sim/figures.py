"""How figures of profiles are made, named and written: sizes, legends, titles, files.

matplotlib is imported when a figure is made, not before.
"""

from __future__ import annotations

import io
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
WIDTH = 72  # characters of a line that a figure has room for


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


def new_figure(height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure 8 inches wide with `rows` panels under each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    panels = figure.subplots(rows, 1, squeeze=False)[:, 0].tolist()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def legend(figure: Figure, handles: Sequence[Any], columns: int = 5) -> None:
    """A legend under the panels, its texts wrapped to their share of the width; their further lines add height."""
    texts = [textwrap.fill(handle.get_label(), WIDTH // columns) for handle in handles]
    figure.set_figheight(figure.get_figheight() + 0.2 * sum(text.count("\n") for text in texts))
    look: dict[str, Any] = {"ncols": min(columns, len(handles)), "frameon": False}
    figure.legend(handles=handles, labels=texts, loc="outside lower center", **look)


def patch(name: str, colour: str, hatch: str = "", edge: str = "white") -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor=edge, hatch=hatch, label=name)


def title_of(what: str, profiles: Sequence[Profile]) -> str:
    """`what`, and the source and the device where all profiles share them."""
    sources = {profile.source for profile in profiles}
    places = {plain(profile.device.title) for profile in profiles}
    shared = [*(sources if len(sources) == 1 else ()), *(f"on {place}" for place in places if len(places) == 1)]
    return textwrap.fill(f"{what}, {' '.join(shared)}" if shared else what, WIDTH)


def name_panel(axes: Axes, text: str) -> None:
    """`text`, a profile's name, above its panel."""
    axes.set_title(textwrap.fill(text, WIDTH), fontsize=10, fontweight="bold", loc="left")
