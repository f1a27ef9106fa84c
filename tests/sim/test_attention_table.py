"""--by attention: what attends to what, and that its rows are all of the cores' time and nothing else's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import pytest

from minimodels import loader
from minimodels.run import Run
from minimodels.sim import attention_table, tables, units, views
from minimodels.sim.simulate import simulate
from minimodels.sim.views import Totals
from tests.sim.test_tables import cells, written


def test_spatial_temporal_and_growing_calls_are_rows_of_their_own() -> None:
    video = simulate(loader.load("make-a-video-tiny"), Run())
    assert {row.role for row in attention_table.rows(video)} == {"self", "spatial", "temporal"}
    temporal = [row for row in attention_table.rows(video) if row.role == "temporal"]
    assert temporal and all(row.queries == row.keys[0] == row.keys[1] for row in temporal)
    decoding = [
        row for row in attention_table.rows(simulate(loader.load("parti-tiny"), Run())) if row.stage == "decode"
    ]
    grown = next(row for row in decoding if row.role == "self")
    assert grown.queries == 1 and grown.keys[0] == 1 < grown.keys[1], "one row for all lengths of the cache"


def close(found: Totals, wanted: Totals) -> bool:
    return found.known_flops == wanted.known_flops and math.isclose(found.known_seconds, wanted.known_seconds)


def together(parts: Iterable[Totals]) -> Totals:
    parts = list(parts)
    seconds, work = math.fsum(part.known_seconds for part in parts), sum(part.known_flops for part in parts)
    return dataclasses.replace(parts[0], known_seconds=seconds, known_flops=work)


@pytest.mark.parametrize("attention", ("sdpa", "baseline"))
@pytest.mark.parametrize("name", ("sdxl-tiny", "parti-tiny", "make-a-video", "modelscope-1.7b"))
def test_rows_and_roles_add_up_to_the_category_and_copies_are_the_rest(name: str, attention: str) -> None:
    profile = simulate(loader.load(name), Run(attention=attention))
    category = views.by_category(profile)["Attention"]
    assert close(together(row.totals for row in attention_table.rows(profile)), category)
    assert close(together(attention_table.cores(profile).values()), category)
    copies = attention_table.copies(profile)
    rest = views.totals(op for op in profile.ops if op.attention is not None and op.category != "Attention")
    assert bool(copies) == (rest.launches > 0)
    if copies:
        assert close(together(copies.values()), rest) and rest.known_flops == 0
        assert set(copies) <= set(attention_table.cores(profile))


def test_table_and_summary_show_cores_and_copies_apart() -> None:
    profile = simulate(loader.load("make-a-video"), Run())
    shown, summary = written(attention_table.table(profile), 100), written(tables.profile_summary(profile), 200)
    category = units.seconds(views.by_category(profile)["Attention"].seconds)
    assert cells(shown, "all cores")[1] == category == cells(summary, "Attention")[1]
    copied = attention_table.copies(profile)["temporal"]
    assert cells(shown, "copies for temporal")[1] == units.seconds(copied.seconds)
    assert f"; copies for them {units.seconds(copied.seconds)}; --by attention" in summary
    alone = simulate(loader.load("llama-tiny"), Run())
    assert "all cores" not in written(attention_table.table(alone)), "one role is all of them"
