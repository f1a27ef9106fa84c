"""A sweep that is killed again and again loses, doubles and damages no point."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minimodels import sweep
from minimodels.sim.sweep import ledger

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20
BATCHES = range(1, 701)
KEYS = {"axes", "device", "status", "metrics", "model", "base"}


def start(path: Path, jobs: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "minimodels.cli", "sweep", "llama-tiny", "--out", str(path), "--jobs", str(jobs),
               "--over", f"batch={BATCHES[0]}:{BATCHES[-1]}:1", "--over", "attention=baseline,flash"]  # fmt: skip
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.slow
def test_twenty_random_kills_lose_double_and_damage_no_point(tmp_path: Path) -> None:
    path, dice = tmp_path / "s.jsonl", random.Random(7)
    kept = b""
    for kill in range(KILLS):
        running = start(path, jobs=1 + kill % 2)
        if kill % 4:  # most once it has written, some at any moment of its start
            while size(path) <= len(kept) and running.poll() is None:
                time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.4))
        assert running.poll() is None, "the sweep was over before it could be killed: give it more points"
        running.kill()
        running.wait()
        before, kept = kept, path.read_bytes() if path.exists() else b""
        assert kept.startswith(before[: before.rfind(b"\n") + 1]), "nothing that was finished has changed"
    lines = kept.count(b"\n")
    assert 0 < lines < 2 * len(BATCHES)
    assert start(path, jobs=2).wait() == 0
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(set(record) == KEYS and record["status"] == "ok" for record in records)
    places = [(record["axes"]["batch"], record["axes"]["attention"]) for record in records]
    assert sorted(places) == sorted((batch, kind) for batch in BATCHES for kind in ("baseline", "flash"))
    some = dice.sample(BATCHES, 5)
    fresh = {point.key: point for point in sweep("llama-tiny", {"batch": some, "attention": ["baseline", "flash"]})}
    found = {point.key: point for point in ledger.load(path)}
    assert all(found[key] == point for key, point in fresh.items()) and len(fresh) == 10
