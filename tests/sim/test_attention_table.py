"""--by attention: what attends to what, and that its rows are all of the cores' time."""

from __future__ import annotations

import math

from minimodels import loader
from minimodels.run import Run
from minimodels.sim import attention_table, views
from minimodels.sim.simulate import simulate


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


def test_rows_and_roles_add_up_to_the_operators_in_cores() -> None:
    for name in ("sdxl-tiny", "parti-tiny"):
        profile = simulate(loader.load(name), Run())
        cores = views.totals(op for op in profile.ops if op.attention is not None)
        for parts in ([row.totals for row in attention_table.rows(profile)], attention_table.by_role(profile).values()):
            assert math.isclose(math.fsum(part.known_seconds for part in parts), cores.known_seconds)
            assert sum(part.known_flops for part in parts) == cores.known_flops
