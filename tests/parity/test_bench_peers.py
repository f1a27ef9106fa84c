"""The order in which the benchmark runs ours and theirs; its times are not judged here."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")
from tests.parity import bench_peers

pytestmark = pytest.mark.parity


def test_each_is_first_in_every_other_pair_and_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    cost = {"ours": 2.0, "theirs": 3.0}
    monkeypatch.setattr(bench_peers, "seconds", lambda run: cost[run()])

    def network(name: str) -> str:
        ran.append(name)
        return name

    pairs = bench_peers.turn_about(lambda: network("ours"), lambda: network("theirs"))
    assert pairs == [(2.0, 3.0)] * bench_peers.PAIRS
    assert ran == ["ours", "theirs", "theirs", "ours"] * (bench_peers.PAIRS // 2)
