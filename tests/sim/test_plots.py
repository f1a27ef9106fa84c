"""The plots: what is drawn is what the profiles hold, and files are whole or not there."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from minimodels.sim import figures, plots, units
from minimodels.sim.profile import Profile
from tests.sim.profiles import image, language, on


def bars(figure: Figure) -> list[Rectangle]:
    """The segments of all bars, in drawing order."""
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


def legend(figure: Figure) -> list[str]:
    """The texts of the figure's legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def texts(figure: Figure) -> list[str]:
    """The texts inside the first panel."""
    return [text.get_text() for text in figure.axes[0].texts]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts, anywhere in the figure, that lie on each other."""
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible() and text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    inside = [(text, box) for text, box in boxes if figure.bbox.overlaps(box)]
    return [(a, b) for i, (a, x) in enumerate(inside) for b, y in inside[i + 1 :] if x.overlaps(y)]


def named(name: str, profile: Profile) -> Profile:
    """`profile` under another name."""
    return profile.model_copy(update={"config": {**profile.config, "name": name}})


def slower(profile: Profile, ratio: float) -> Profile:
    """`profile` with all times multiplied by `ratio`."""
    times = ("device_seconds", "gap_seconds")
    ops = (op.model_copy(update={key: ratio * (getattr(op, key) or 0.0) for key in times}) for op in profile.ops)
    return profile.model_copy(update={"ops": tuple(ops)})


def cascades(*names: str) -> list[Profile]:
    """Profiles that differ in more settings than a line has room for; each is 30 times as long as the one before."""
    settings: list[dict[str, Any]] = [
        {f"super_resolution_{k}.guidance_scale": i + k for k in range(7)} for i in range(len(names))
    ]
    runs = zip(names, settings, strict=True)
    return [slower(named(name, image(**setting)), 30.0**i) for i, (name, setting) in enumerate(runs)]


def test_breakdown_stacks_the_seconds_of_both_readings() -> None:
    figure = plots.breakdown([image()])
    assert [round(bar.get_width(), 6) for bar in bars(figure)] == [17, 4, 56, 1.5, 0.5, 52, 4, 21, 1.5, 0.5]
    assert figure.axes[0].get_xlabel() == "time (ms)"
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["core", "module"]
    assert texts(figure) == ["parti-toy", "22 %", "71 %", "79.0 ms", "66 %", "27 %", "79.0 ms"]


def test_measured_and_simulated_share_colours_and_differ_in_hatch() -> None:
    figure = plots.breakdown([image(), image("measured")])
    half = len(bars(figure)) // 2
    for simulated, measured in zip(bars(figure)[:half], bars(figure)[half:], strict=True):
        assert simulated.get_facecolor() == measured.get_facecolor()
        assert simulated.get_hatch() and not measured.get_hatch()
    assert legend(figure) == ["Attention", "Convolution", "Linear", "Norm", "Embedding", "measured", "simulated"]
    assert bars(figure)[0].get_facecolor()[:3] == to_rgb(units.COLOURS["Attention"])


def test_stages_have_a_bar_each() -> None:
    figure = plots.stages([image()])
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["text encoder", "decode", "detokenize"]
    assert [text for text in texts(figure) if text.endswith("ms")] == ["3.50 ms", "70.0 ms", "5.50 ms"]


def test_unknown_times_are_named_not_drawn() -> None:
    ops = (image().ops[0].model_copy(update={"device_seconds": None}), *image().ops[1:])
    figure = plots.breakdown([image().model_copy(update={"ops": ops})])
    assert "parti-toy (1 of 9 operators have no time and are not drawn)" in texts(figure)
    assert "≥ 78.5 ms" in texts(figure)


def test_roofline_puts_operators_where_their_numbers_say() -> None:
    figure = plots.roofline([image()])
    (points,) = figure.axes[0].collections
    # the output layer: 264 FLOPs over 200 bytes in 3 ms; rounding to 1 % of a decade
    places = np.asarray(points.get_offsets())
    assert np.isclose(places, (264 / 200, 264 / 3e-3), rtol=0.02).all(axis=1).any()
    (roof,) = figure.axes[0].get_lines()
    assert roof.get_label() == "Toy GPU: 2.00 MFLOP/s, 1.00 MB/s, ridge at 2.00 FLOP/B"
    assert np.asarray(roof.get_ydata())[1:].tolist() == [2e6, 2e6]


def test_roofline_needs_a_roof() -> None:
    with pytest.raises(ValueError, match="peak FLOP/s or bandwidth of Toy GPU is unknown"):
        plots.roofline([on(image(), bandwidth=None)])


def test_memory_shows_weights_and_capacity_where_they_are() -> None:
    axes = plots.memory([image()]).axes[0]
    lines = {line.get_label(): np.asarray(line.get_ydata())[0] for line in axes.get_lines()}
    assert lines == {"weights, 800 B": 0.8, "Toy GPU, 4 kB": 4.0}
    assert axes.get_ylabel() == "memory in use (kB)"
    assert axes.get_title(loc="left") == "parti-toy: peak 1.89 kB"
    assert len(axes.collections) == 3


def test_capacity_far_above_the_peak_is_off_the_axis_and_says_so() -> None:
    axes = plots.memory([on(image(), memory_bytes=80_000_000_000)]).axes[0]
    assert "Toy GPU, 80 GB (off the axis)" in [line.get_label() for line in axes.get_lines()]
    assert axes.get_ylim()[1] < 2.1


def test_sequence_lengths_of_a_growing_loop_are_a_line() -> None:
    axes = plots.seqlen([image()]).axes[0]
    keys, queries = ([y for y in np.asarray(line.get_ydata()) if not np.isnan(y)] for line in axes.get_lines())
    assert keys[:2] == [5, 5] and queries[:2] == [5, 5]
    assert keys[2] == 2 and keys[-1] == 5 and keys == keys[:2] + sorted(keys[2:])
    assert set(queries[2:]) == {1}
    assert axes.get_xlabel() == "attention call, in order (5 listed, 15 in the whole run)"


def test_a_loop_sampled_from_its_first_step_on_is_a_line_as_well() -> None:
    """Where the first step stands for itself alone, as of a loop that was visited at five of 1,024 steps."""
    profile = image()
    first = profile.ops[4].model_copy(update={"weight": 2.0})
    later = profile.ops[6].model_copy(update={"weight": 12.0})
    ops = tuple(first if op is profile.ops[4] else later if op is profile.ops[6] else op for op in profile.ops)
    line = plots.seqlen([profile.model_copy(update={"ops": ops})]).axes[0].get_lines()[0]
    places, keys = (np.asarray(values, float)[3:-1] for values in (line.get_xdata(), line.get_ydata()))
    assert keys == pytest.approx(2 + 3 * (places - 1) / 4), "keys grow from 2 to 5 over the four calls listed"


def test_a_long_run_is_drawn_without_pixels_and_keeps_its_highest_and_lowest_bytes() -> None:
    profile = image()
    count = 20011
    sizes = [900 + 7 * (call % 13) for call in range(count)]
    sizes[7777], sizes[15001] = 1890, 11
    memory = profile.memory.model_copy(update={"timeline": tuple(enumerate(sizes))})
    long = profile.model_copy(update={"calls": (3,) * count, "memory": memory})
    figure = plots.memory([long])
    (shape,) = figure.axes[0].collections
    heights = np.asarray(shape.get_paths()[0].vertices)[:, 1] * 1000
    assert heights.max() == pytest.approx(1890) and 11 in heights.round(6)
    drawn = figures.drawn(figure, "svg")
    assert b"<image" not in drawn and len(drawn) < 500_000


def test_sequence_lengths_need_attention() -> None:
    with pytest.raises(ValueError, match="llama-toy calls no attention"):
        plots.seqlen([language()])


@pytest.mark.parametrize("kind", plots.KINDS)
@pytest.mark.parametrize("profiles", [[image()], [image(), image("measured", attention="baseline", batch=3)]])
def test_labels_do_not_overlap(kind: str, profiles: list[Profile]) -> None:
    assert overlaps(plots.KINDS[kind](profiles)) == []


@pytest.mark.parametrize("kind", plots.KINDS)
def test_a_narrow_plot_keeps_its_labels_apart_and_inside(kind: str) -> None:
    figure = plots.KINDS[kind]([image()], figures.NARROW)
    assert overlaps(figure) == []
    boxes = [text.get_window_extent() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]
    inside = [box for box in boxes if figure.bbox.overlaps(box)]
    assert min(box.x0 for box in inside) >= 0 and max(box.x1 for box in inside) <= figure.bbox.x1


@pytest.mark.parametrize("kind", plots.KINDS)
@pytest.mark.parametrize(
    "names", [("one", "two", "three"), ("one", "one", "one"), ("o\x07ne", "two\n", "\x1b"), ("$\\frac$", "$", "$x$ $y")]
)
def test_many_different_settings_fit_the_page_without_a_warning(kind: str, names: tuple[str, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.KINDS[kind](cascades(*names))
        assert overlaps(figure) == []
        shown = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text().strip()]
        boxes = [text.get_window_extent() for text in shown if text.get_visible()]
    inside = [box for box in boxes if figure.bbox.overlaps(box)]
    assert min(box.x0 for box in inside) >= 0 and max(box.x1 for box in inside) <= figure.bbox.x1


def test_unique_names_are_labels_by_themselves_where_all_ran_alike() -> None:
    assert units.labels(cascades("one", "two", "three")) == ["one", "two", "three"]
    runs = [named("one", image(batch=batch)) for batch in (1, 3)]
    assert units.labels([*runs, named("two", image(batch=5))]) == ["one, batch 1", "one, batch 3", "two, batch 5"]


def test_control_characters_are_not_in_labels() -> None:
    assert units.labels([named("par\x07ti\n\x1btoy", image()), named("\x00", image())]) == ["parti toy", "unnamed"]


def test_times_far_apart_are_drawn_as_shares() -> None:
    figure = plots.breakdown(cascades("one", "two"))
    assert figure.axes[0].get_xlabel() == "share of the time of each profile (%)"
    assert np.isclose([sum(bar.get_width() for bar in bars(figure)[i : i + 5]) for i in (0, 5, 10, 15)], 100).all()
    assert [text for text in texts(figure) if text.endswith("s")] == ["79.0 ms", "79.0 ms", "2.37 s", "2.37 s"]


def test_each_of_six_stages_has_its_own_shade_and_hatch() -> None:
    profile = image()
    names = ("a", "b", "c", *(stage.name for stage in profile.stages))
    six = [profile.stages[0].model_copy(update={"name": name}) for name in names]
    axes = plots.memory([profile.model_copy(update={"stages": tuple(six)})]).axes[0]
    frame = axes.get_legend()
    assert frame is not None
    patches = [patch for patch in frame.get_patches() if patch.get_label() != "_nolegend_"]
    greys = sorted(to_rgb(patch.get_facecolor())[0] for patch in patches)
    assert len(greys) == 6 and min(b - a for a, b in itertools.pairwise(greys)) > 0.05
    assert len({patch.get_hatch() for patch in patches}) == 6


@pytest.mark.parametrize("extension", figures.EXTENSIONS)
def test_the_same_plot_is_the_same_file(extension: str, tmp_path: Path) -> None:
    for name in ("first", "second"):
        figures.save(plots.breakdown([image()]), tmp_path / f"{name}{extension}")
    first, second = ((tmp_path / f"{name}{extension}").read_bytes() for name in ("first", "second"))
    assert first == second
    assert first.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[extension])


@pytest.mark.parametrize("name", ["plot.jpg", "plot", "plot.png.txt"])
def test_unknown_extensions_are_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.png, \.svg, \.pdf"):
        figures.check_extension(tmp_path / name)
    with pytest.raises(ValueError, match="must end in"):
        figures.save(Figure(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_plot_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot write"):
        figures.save(plots.breakdown([image()]), tmp_path / "missing" / "plot.png")
    assert list(tmp_path.iterdir()) == []


def test_importing_plots_does_not_import_matplotlib() -> None:
    code = "import sys, minimodels.sim.plots; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
