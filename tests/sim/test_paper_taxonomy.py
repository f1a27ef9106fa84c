"""Sections I to III of the study again: what its tables and figures are made of, each held against another source."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from minimodels import loader
from minimodels.diffusion_config import CascadedDiffusion, LatentDiffusion
from minimodels.run import build, parameters
from minimodels.sim import views
from minimodels.sim.paper import diagrams, phases, pipelines, quality, roofline, study, targets, taxonomy
from minimodels.sim.paper.draw import Cell, Panel, cells, figure, name_points
from minimodels.sim.paper.result import Score, numbers
from minimodels.sim.paper.study import of_device
from minimodels.unet import UNet
from minimodels.unet_attention import TransformerBlock
from minimodels.unet_blocks import ResBlock
from tests.sim import profiles

OURS = ("table1", "table3", "fig1", "fig2", "fig3", "fig4", "fig5")
BELONG = ("abs-01", "abs-02", "f1-", "int-01", "int-02", "int-03", "int-04", "int-05", "int-06", "int-07", "int-15",
          "int-16", "s2-", "s2a-", "s2c-", "f4-", "f5-", "t1-", "t3-", "s3-", "s4b-03", "s4b-04")  # fmt: skip
ELSEWHERE = {"s3-10", "s3-11"}  # the nodes and scales of training, of Fig. 6
TINY = {
    "LLaMA": "llama-tiny", "Imagen": "imagen-tiny", "StableDiffusion": "stable-diffusion-tiny", "Muse": "muse-tiny",
    "Parti": "parti-tiny", "Prod Image": "sdxl-tiny", "MakeAVideo": "make-a-video-tiny", "Phenaki": "phenaki-tiny",
}  # fmt: skip
SMALL = {"ldm-1.45b": "stable-diffusion-tiny"} | dict.fromkeys(roofline.LLMS, "llama-tiny")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study on configs that take milliseconds."""
    monkeypatch.setattr(study, "WORKLOADS", TINY | SMALL)


def scored(score: Score) -> tuple[str, bool | None]:
    return score.ours, score.holds


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_every_number_of_sections_1_to_3_is_scored_once_and_says_why_where_it_does_not_hold() -> None:
    made = of_device("a100-80gb")
    scores = [score for name in OURS for score in targets.TARGETS[name](made).scores]
    assert set(Counter(score.id for score in scores).values()) == {1}
    assert {score.id for score in scores} == {name for name in numbers() if name.startswith(BELONG)} - ELSEWHERE
    assert all(score.why for score in scores if score.holds is None and not score.reading)


def test_table_1_is_read_off_the_configs() -> None:
    imagen, latent = loader.load("imagen"), loader.load("stable-diffusion-1.5")
    assert isinstance(imagen, CascadedDiffusion) and isinstance(latent, LatentDiffusion)
    found = {entry.score.id: entry.score for entry in (*taxonomy._pixels(imagen), *taxonomy._latents(latent))}
    assert scored(found["t1-09"]) == ("[32, 16, 8]", True)
    assert scored(found["t1-12"]) == ("[1, 2, 3, 4]", False) and "2.72 B" in found["t1-12"].why
    assert scored(found["t1-10"]) == ("[1, 2, 4]", True) and scored(found["t1-13"]) == ("[1, 2, 4, 4]", True)
    assert scored(found["t1-17"]) == ("[40, 80, 160]", False) and scored(found["t1-16"]) == ("64", True)
    assert scored(found["t1-01"]) == ("3.44 B built, 3 B stated", False) and "+15%" in found["t1-01"].why
    assert found["t1-01"].difference == pytest.approx(0.44, abs=0.005), "what is built less what is printed"
    changed = loader.load("imagen", ("unet.levels.2.res_blocks=2", "unet.levels.0.channels=256"))
    assert isinstance(changed, CascadedDiffusion)
    other = {entry.score.id: entry.score for entry in taxonomy._pixels(changed)}
    assert scored(other["t1-12"]) == ("[1, 4, 6, 8]", False) and not other["t1-18"].holds


def test_grades_are_thirds_of_the_logarithmic_range() -> None:
    assert taxonomy.grades([1, 9, 11, 1000]) == ["Low", "Low", "Medium", "High"]
    assert taxonomy.grades([99, 1, 101, 1000]) == ["Medium", "Low", "High", "High"]
    assert taxonomy.grades([5, 5]) == ["Low", "Low"]


def test_phases_are_the_lengths_of_queries() -> None:
    found = phases.self_attention(profiles.image())
    assert [(calls.stage, calls.queries, calls.keys, calls.phase) for calls in found] == [
        ("text_encoder", 5, (5, 5), "prefill"), ("decode", 1, (2, 5), "decode"),
    ]  # fmt: skip
    assert [calls.executions for calls in found] == [1, 14] and {calls.width for calls in found} == {6}
    assert phases.said(found, "decode") == "1 against 2 to 5 keys (decode)"
    assert phases.said(found[:1], "decode") == "N/A"


def test_cross_attention_is_no_phase() -> None:
    profile = profiles.image()
    ops = tuple(
        op.model_copy(update={"attention": op.attention.model_copy(update={"role": "cross"})}) if op.attention else op
        for op in profile.ops
    )
    assert not phases.self_attention(profile.model_copy(update={"ops": ops}))


@pytest.mark.usefixtures("tiny")
def test_only_models_that_go_token_by_token_decode() -> None:
    rows = phases.table3(of_device("a100-80gb")).rows
    assert {row[0] for row in rows if row[-1] == "decode"} == {"LLaMA", "Parti"}


def test_both_readings_of_intensity() -> None:
    profile = profiles.image()
    whole = views.totals(profile.ops)
    assert roofline.intensity(profile, "capacity") == float(whole.known_flops) / 800
    assert roofline.intensity(profile, "moved") == float(whole.known_flops) / float(whole.bytes)
    decode = 14 * 144 + 8 * 48 + 7 * 264 + 6 * 120
    assert roofline.intensity(profile, "capacity", "decode") == decode / 800
    assert roofline.attained(profile, "decode") == pytest.approx(decode / 70e-3)


@pytest.mark.usefixtures("tiny")
def test_another_device_has_another_ridge_and_other_points() -> None:
    first, other = (roofline.fig5(of_device(name)).rows for name in ("a100-80gb", "h100-sxm"))
    assert [row[:3] for row in first] == [row[:3] for row in other], "intensity is the model's"
    assert all(a[3] < b[3] for a, b in zip(first, other, strict=True) if a[0] != "LLaMA decode")


def test_published_figures_are_complete() -> None:
    for row in quality.published():
        assert row.source and row.confidence in ("high", "medium", "low") and row.value > 0
        assert row.architecture in quality.COLOURS and row.task in ("tti", "ttv")
    assert sorted(map(int, quality.points())) == [17, 18, 19, 21, *range(25, 36)]


def test_the_traps_of_published_figures_are_kept_out() -> None:
    points, plain = quality.points(), quality.points(plain=True)
    assert points["18"].value == 27.5 and plain["18"].value == 34.6, "not 17.89, an Inception Score"
    assert points["19"].best_of == 16 and "19" not in plain, "Parti has no plain figure"
    assert {key for key, row in points.items() if row.metric == quality.TRAINED} == {"31", "35"}
    assert points["26"].value == 11.84, "zero-shot, not 7.55 after training on COCO"
    assert (points["32"].value, plain["32"].value) == (6.75, 7.23)


@pytest.mark.parametrize("metric", quality.VIDEO)
def test_the_front_is_what_no_other_beats(metric: str) -> None:
    for rows in (list(quality.points().values()), quality.videos(metric), quality.others()):
        kept = quality.front(rows)
        for row in rows:
            beaten = any(
                (other.params or 0) <= (row.params or 0) and other.value <= row.value and other != row for other in rows
            )
            assert (row in kept) != beaten, row.model


def test_a_diagram_of_a_unet_has_the_blocks_of_the_network() -> None:
    config = loader.load("stable-diffusion-1.5")
    assert isinstance(config, LatentDiffusion)
    found = diagrams.unet_units(config.unet, 64)
    built = build(config, "meta")["unet"]
    assert isinstance(built, UNet)
    kinds = Counter(unit.kind for unit in found)
    assert kinds["res block"] == sum(isinstance(module, ResBlock) for module in built.modules()) == 22
    transformers = sum(isinstance(module, TransformerBlock) for module in built.modules())
    assert kinds["self-attention"] == kinds["cross-attention"] == transformers == 16
    assert [side for side, _ in itertools.groupby(unit.side for unit in found)] == [64, 32, 16, 8, 16, 32, 64]


def test_layers_of_the_transformers_hold_their_parameters() -> None:
    by_name = {stack.name: stack for stack in diagrams.stacks()}
    decoder, muse = by_name["Parti decoder"], by_name["Muse"]
    assert (decoder.depth, decoder.dim, muse.depth, muse.dim) == (64, 4096, 48, 2048)
    assert list(decoder.sublayers) == ["self_attention", "cross_attention", "feed_forward"]
    assert decoder.sublayers["feed_forward"] == 2 * 4096 * 16384 and muse.sublayers["self_attention"] == 4 * 2048**2


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", pipelines.FOUR)
def test_blocks_of_a_pipeline_are_its_stages_and_all_its_parameters(name: str) -> None:
    made, config = of_device("a100-80gb").profile(name), study.config_of(name)
    blocks = pipelines.blocks(config)
    assert [block.stage for block in blocks] == [stage.name for stage in made.stages]
    assert sum(pipelines.sizes(config).values()) == sum(map(parameters, build(config, "meta").values()))


def test_image_sides_are_those_of_the_papers() -> None:
    sides = {name: study.image_side(study.config_of(name)) for name in study.IMAGES}
    assert sides == {"Imagen": 1024, "StableDiffusion": 512, "Muse": 512, "Parti": 1024, "Prod Image": 1024}


def drawn_boxes(made: Any, texts: Any) -> list[Any]:
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    return [Text.get_window_extent(text, canvas.get_renderer()) for text in texts]  # without the line to the point


def test_names_beside_crowded_points_do_not_overlap() -> None:
    made, (axes,) = figure(Panel("crowded"))
    axes.set(xscale="log", yscale="log", xlim=(1, 1e4), ylim=(1, 1e3))
    points = {f"workload {i}": (300 * 1.12**i, 100 * (1 + 0.05 * math.sin(i))) for i in range(7)}
    name_points(axes, points)
    assert [text.get_text() for text in axes.texts] == list(points)
    for a, b in itertools.combinations(drawn_boxes(made, axes.texts), 2):
        assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0


def test_cells_that_differ_are_marked_by_more_than_colour() -> None:
    made = cells("title", ["", "model"], [[Cell("row"), Cell("3", "study: 4", True)]], ["a note"])
    texts = [text.get_text() for text in made.get_axes()[0].texts]
    assert "\N{NOT EQUAL TO} study: 4" in texts and "3" in texts
