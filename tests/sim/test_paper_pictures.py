"""Pictures of the study: they say where their times come from, and every mark and name in them can be told apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from minimodels.sim import views
from minimodels.sim.paper import categories, flash, sequence, study, targets, temporal
from minimodels.sim.paper.draw import Panel, figure, name_points
from minimodels.sim.paper.report import caption
from minimodels.sim.paper.study import Study
from tests.sim.test_paper import SMALL, TINY
from tests.sim.test_paper_taxonomy import drawn_boxes

TIMED = ("table2", "fig7", "fig8", "fig10", "fig12")
SLOW = ("table2", "fig10")


@pytest.fixture(scope="module")
def small() -> Iterator[Study]:
    """The study on configs that take milliseconds, profiled once for all pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "WORKLOADS", TINY | SMALL)
        patch.setattr(flash, "SETTINGS", {name: () for name in TINY})
        yield study.of_device("a100-80gb")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in TIMED])
def test_a_picture_of_times_says_that_they_are_simulated_and_on_what(name: str, small: Study) -> None:
    assert "simulated on NVIDIA A100-SXM4-80GB" in targets.TARGETS[name](small).figure.get_suptitle()


def test_other_lengths_are_said_below_where_times_come_from(small: Study, tmp_path: Any) -> None:
    from matplotlib.figure import Figure

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, data, **_: said.append(self.get_suptitle()))
        targets.run(["fig12"], Study(small.device, small.profiler, lengths={"frames": 6}), tmp_path)
    assert "simulated on" in said[0] and "Not the study's: frames 6" in said[0]


def test_shares_of_a_stage_add_up_and_a_speed_up_is_the_ratio_of_times(small: Study) -> None:
    pairs = {name: small.pair(name) for name in flash.PUBLISHED}
    rows = categories.rows(pairs)
    assert len({len(row) for row in rows} | {len(categories.HEADER)}) == 1
    sums: dict[tuple[Any, ...], float] = {}
    for row in rows:
        if row[0] in pairs and row[4] != categories.GROUP_NORM:
            sums[row[:4]] = sums.get(row[:4], 0.0) + row[5]
    assert any(key[1] for key in sums), "single stages have rows"
    assert all(total == pytest.approx(1) for total in sums.values())
    of = {row[:5]: row for row in rows}
    for key, row in of.items():
        if key[0] in pairs and key[3] == "flash" and (*key[:3], "baseline", key[4]) in of:
            assert row[7] == pytest.approx(of[*key[:3], "baseline", key[4]][6] / row[6])


def test_a_mean_is_over_the_workloads_it_names(small: Study) -> None:
    of = {row[:5]: row[5] for row in categories.rows({name: small.pair(name) for name in flash.PUBLISHED})}
    names = [name for name in flash.PUBLISHED if name not in ("LLaMA", categories.STAND_IN)]
    for reading in views.READINGS:
        own = [of[name, "", reading, "baseline", "Attention"] for name in names]
        mean = of[f"mean without {categories.STAND_IN}", "", reading, "baseline", "Attention"]
        assert mean == pytest.approx(sum(own) / len(own))


def test_the_legend_of_fig_7_lists_what_a_bar_shows(small: Study) -> None:
    made = flash.fig7(small).figure
    listed = {text.get_text() for text in made.legends[0].get_texts()}
    colours = {name: categories.units.COLOURS[name] for name in listed}
    high = {
        bar.get_facecolor() for axes in made.axes for bar in axes.patches if bar.get_height() >= categories.SEEN  # type: ignore[attr-defined]
    }  # fmt: skip
    from matplotlib.colors import to_rgba

    assert high == {to_rgba(colour) for colour in colours.values()}


def test_every_reading_of_fig_12_has_a_mark_of_its_own(small: Study) -> None:
    pair = small.pair("MakeAVideo")
    batch = temporal.videos(pair[1])
    found = [ratio for name, ops in temporal.ways(pair).items() for ratio in temporal.ratios(ops, name, batch)]
    times = temporal.fig12(small).figure.axes[0]
    marks = [line for line in times.get_lines() if str(line.get_marker()) in "os^"]
    looks = {
        (line.get_marker(), *np.asarray(line.get_ydata())) for line in marks if line.get_markerfacecolor() != "none"
    }
    assert (
        len({(ratio.row, ratio.attention) for ratio in found}) == len(found) == len(looks) == len(marks) - 1
    )  # it has a ring


def test_steps_of_a_growing_loop_are_not_joined(small: Study) -> None:
    axes = {axes.get_title(): axes for axes in sequence.fig8(small).figure.axes}
    for title, panel in axes.items():
        if "bandwidth" in title or "L2 misses" in title:
            assert all((line.get_linewidth() == 0) is title.startswith("Parti") for line in panel.get_lines())


def test_lines_from_names_to_their_points_cross_no_other_name_and_no_line_that_is_to_be_kept_clear() -> None:
    """Points and roof are about those of Fig. 5, where a line once ran through a name."""
    made, (_, axes) = figure(Panel("above"), Panel("below"))
    axes.set(xscale="log", yscale="log", xlim=(0.5, 3000), ylim=(0.35, 630))
    points = {
        "LLaMA": (16, 14.0), "Imagen": (330, 96.0), "StableDiffusion": (238, 78.0), "Muse": (256, 138.0),
        "Parti": (2.4, 2.7), "Prod Image": (460, 135.0), "MakeAVideo": (500, 121.0), "Phenaki": (515, 192.0),
        "LLaMA prefill": (585, 208.0), "LLaMA decode": (1.0, 0.9),
    }  # fmt: skip
    name_points(axes, points, [(x, 312.0) for x in np.geomspace(153, 3000, 60)])
    boxes = dict(zip(points, drawn_boxes(made, axes.texts), strict=True))
    for name, box in boxes.items():
        start = axes.transData.transform(points[name])
        end = np.array([np.clip(start[0], box.x0, box.x1), (box.y0 + box.y1) / 2])
        way = [start + share * (end - start) for share in np.linspace(0, 1, 50)]
        assert all(axes.transData.inverted().transform(spot)[1] < 312 for spot in way), f"{name} lies under the roof"
        crossed = [other for other in boxes if other != name and any(boxes[other].contains(*spot) for spot in way)]
        assert not crossed, name


def test_captions_say_what_the_pictures_show() -> None:
    assert "misses" in caption("fig8") and "batch" not in caption("fig6").partition(";")[0]
