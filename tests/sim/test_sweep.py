"""Sweeps: the grid, what a point is, and the file that loses, doubles and damages none."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimodels import load, simulate, sweep
from minimodels.sim import device, inventory
from minimodels.sim import simulate as simulation
from minimodels.sim.sweep import grid, ledger, listing, metrics, pictures, point, runner
from minimodels.sim.sweep.ledger import Ledger, Point

TINY = "stable-diffusion-tiny"
OPTIONS = {"attention": "flash", "batch": 1, "dtype": "bfloat16", "kernels": "torch", "layout": "contiguous",
           "mode": "eager", "resident": "all", "full": False}  # fmt: skip


def base(name: str = TINY, **options: Any) -> grid.Base:
    return grid.Base.of_config(load(name), OPTIONS | options)


def at(value: int, **more: Any) -> Point:
    """A finished point that nothing was simulated for."""
    fields = {"axes": {"x": value}, "device": "h200", "status": "ok", "model": "toy", "base": "b", **more}
    return Point.model_validate(fields)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("image_size=256:1024:128", (256, 384, 512, 640, 768, 896, 1024)),
        ("x.y=0.1:0.5:0.2", (0.1, 0.3, 0.5)),
        ("x.y=7:1:-3", (7, 4, 1)),
        ("x.y=1:6:2", (1, 3, 5)),
        ("x.y=3:3:1", (3,)),
        ("attention=baseline,flash!", ("baseline", "flash!")),
        ("unet.levels.3.res_blocks=1,2,3", (1, 2, 3)),
        ("decoder.channels=[16, 8],[8, 8]", ([16, 8], [8, 8])),
        ("x.y=true,word,1.5", (True, "word", 1.5)),
        ("x=none,{b = 1, c = 2}", ("none", {"b": 1, "c": 2})),
    ],
)
def test_an_axis_has_the_values_written(text: str, values: tuple[Any, ...]) -> None:
    found = grid.axis(text)
    assert found.values == values and list(map(type, found.values)) == list(map(type, values))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image_size", "write it as KEY"), ("=1,2", "write it as KEY"), ("x=", "write it as KEY"),
        ("x=1:9:0", "no step of 0"), ("x=1:9:-1", "leads from 1 to 9"), ("x=0:1:0.000001", "at most 100,000"),
        ("x=2:4", "a range is start:stop:step"), ("x=2:", "a range is start:stop:step"),
        ("x=1,2,1", "given twice"), ("x=nan,1", "no number"), ("x=2020-01-01,1", "no number"),
    ],
)  # fmt: skip
def test_what_is_no_axis_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        grid.axis(text)


@given(st.integers(-50, 50), st.integers(0, 30), st.integers(1, 7))
def test_a_range_includes_its_stop(start: int, count: int, step: int) -> None:
    assert grid.axis(f"x={start}:{start + count * step}:{step}").values == tuple(
        range(start, start + count * step + 1, step)
    )


def test_a_grid_has_every_combination_once() -> None:
    axes = [grid.axis("a=1,2,3"), grid.axis("b=x,y")]
    found = list(grid.points(axes))
    assert len(found) == 6 and found[1] == {"a": 1, "b": "y"}
    with pytest.raises(ValueError, match="--over a: given twice"):
        list(grid.points([axes[0], axes[0]]))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("gen_len", "no such length"), ("unet.level.0.channels", "did you mean levels"), ("unet", "a number inside it"),
        ("unet.levels.9.channels", "items 0 to 2"), ("device", "behind --device"), ("attentoin", "no such length"),
    ],
)  # fmt: skip
def test_a_key_that_there_is_not_is_said_before_anything_runs(key: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        runner.run(base(), [grid.Axis(key, (1, 2))], ["h200"])


def test_a_point_is_what_profile_says_of_it() -> None:
    axes = {"image_size": 40, "attention": "baseline", "unet.levels.0.res_blocks": 2}
    (found,) = point.evaluate(base(), axes, ["h100-sxm"])
    config = load(TINY, ["unet.levels.0.res_blocks=2"], {"image_size": 40})
    profile = simulate(config, device="h100-sxm", attention="baseline")
    parameters = inventory.parts(config)[0]["total_params"]
    assert found.status == "ok" and found.metrics == metrics.of_profile(profile, parameters)
    assert found.metrics["parameters"] == parameters and found.metrics["peak_memory"] == profile.memory.peak
    shares = [value for name, value in found.metrics.items() if name.startswith("core.")]
    assert sum(shares) == pytest.approx(1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [TINY, "parti-tiny"])
def test_devices_that_share_a_walk_are_priced_as_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[str] = []
    walk = simulation.walk_job

    def noted(job: Any, run: Any, target: device.Device, *more: Any, **options: Any) -> Any:
        walked.append(target.name)
        return walk(job, run, target, *more, **options)

    monkeypatch.setattr(simulation, "walk_job", noted)
    names = ["a100-40gb", "a100-80gb", "h100-sxm", "h200"]
    together = point.evaluate(base(name), {"batch": 3}, names)
    shared = ["a100-40gb", "h100-sxm"] if name == TINY else names  # a growing loop asks for the times of its device
    assert walked == shared
    assert together == [one for each in names for one in point.evaluate(base(name), {"batch": 3}, [each])]


def test_points_that_cannot_be_are_reported_and_the_rest_finish(tmp_path: Path) -> None:
    over = {"unet.levels.0.channels": [24, 25, 36], "attention": ["flash", "quick"]}
    found = sweep(TINY, over, device=["h200", "v100-32gb"], out=tmp_path / "s.jsonl")
    good = [p for p in found if p.status == "ok"]
    assert len(found) == 12 and {p.axes["unet.levels.0.channels"] for p in good} == {24, 36}
    failed = {(p.axes["unet.levels.0.channels"], p.axes["attention"]): p.error for p in found if p.status == "failed"}
    assert "num_heads 3" in (failed[25, "flash"] or "") and "flash" in (failed[24, "quick"] or "")
    assert all(p.metrics == {} for p in found if p.status == "failed")
    assert {p.device for p in good} == {"h200"}, "a V100 has no bfloat16"
    lines = (tmp_path / "s.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) - {"error", "model", "base"} for line in lines] == [
        {"axes", "device", "status", "metrics"}
    ] * 12


def test_a_file_goes_on_where_it_was_and_another_run_is_another_base(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    first = sweep(TINY, {"batch": [1, 2]}, out=path)
    before = path.read_bytes()
    assert sweep(TINY, {"batch": [2, 1]}, out=path) == first[::-1] and path.read_bytes() == before
    sweep(TINY, {"batch": [1, 2, 3]}, out=path)
    assert path.read_bytes().startswith(before) and len(ledger.load(path)) == 3
    sweep(TINY, {"batch": [1, 2]}, out=path, attention="baseline")
    sweep(load(TINY, ["run.steps=5"]), {"batch": [1, 2]}, out=path)
    kept = ledger.load(path)
    assert len(kept) == 7 and len({p.key for p in kept}) == 7 and len({p.base for p in kept}) == 3


@pytest.mark.slow
def test_processes_find_what_one_process_finds(tmp_path: Path) -> None:
    over = {"batch": [1, 2], "attention": ["baseline", "flash"]}
    apart = sweep(TINY, over, device=["h200", "a100-80gb"], out=tmp_path / "s.jsonl", jobs=2)
    assert apart == sweep(TINY, over, device=["h200", "a100-80gb"])
    assert {p.key for p in ledger.load(tmp_path / "s.jsonl")} == {p.key for p in apart}
    assert not multiprocessing.active_children()


def test_a_torn_line_is_dropped_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    whole, last = at(1).line() + at(2).line(), at(3).line()
    for end in range(len(last)):
        path.write_bytes(whole + last[:end])
        assert [p.axes["x"] for p in ledger.load(path)] == [1, 2]
        Ledger(path).append(at(4))
        assert path.read_bytes() == whole + at(4).line(), end


@pytest.mark.parametrize("text", ["hello", "hello\n", '{"a": 1}\n', '{"axes": {}}\n', "\n", '{"axes": {}, "x\n{"axes"'])
def test_a_file_that_is_no_sweep_is_refused_and_left(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine.jsonl is not the file of a sweep: line \d is no point"):
        Ledger(path)
    assert path.read_text() == text


def test_a_point_that_another_sweep_has_appended_is_not_doubled(tmp_path: Path) -> None:
    ours, theirs = Ledger(tmp_path / "s.jsonl"), Ledger(tmp_path / "s.jsonl")
    theirs.append(at(1))
    ours.append(at(1))
    ours.append(at(2))
    assert [p.axes["x"] for p in ledger.load(tmp_path / "s.jsonl")] == [1, 2]


WRITER = """
import sys
from pathlib import Path
from minimodels.sim.sweep.ledger import Ledger, Point
kept = Ledger(Path(sys.argv[1]))
for x in range(int(sys.argv[2]), 300, 2):
    for n in (x, x + 1):  # half of them are the other's too
        kept.append(Point(axes={"x": n, "pad": "p" * (97 * n % 5000)}, device="h200", status="ok", model="m", base="b"))
"""


def test_two_sweeps_into_one_file_do_not_damage_it(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, str(i)]) for i in (0, 1)]
    assert [writer.wait() for writer in writers] == [0, 0]
    found = [p.axes["x"] for p in ledger.load(path)]
    assert sorted(found) == list(range(301))


def test_a_full_disk_is_reported_and_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    kept = Ledger(path)
    kept.append(at(1))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))  # the first 20 bytes of the line go in
    try:
        with pytest.raises(ValueError, match=r"cannot write .*s.jsonl: File too large; the 1 points in it are whole"):
            kept.append(at(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    kept.append(at(2))
    assert [p.axes["x"] for p in ledger.load(path)] == [1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_device_without_room_is_one_message() -> None:
    with pytest.raises(ValueError, match="cannot write /dev/full"):
        Ledger(Path("/dev/full")).append(at(1))


def costs(time: float, parameters: int, name: str = "h200") -> Point:
    return at(parameters, device=name, metrics={"time": time, "parameters": parameters, "fits": True})


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_front_holds_what_no_other_beats(pairs: list[tuple[int, int]]) -> None:
    points = [costs(time, size) for time, size in pairs]
    best = {(p.metrics["time"], p.metrics["parameters"]) for p in listing.front(points, "time", "parameters")}
    beaten = {a for a in pairs if any(b != a and b[0] <= a[0] and b[1] >= a[1] for b in pairs)}
    assert best == set(pairs) - beaten


def test_pictures_have_a_line_per_further_axis_and_say_what_is_missing() -> None:
    points = [
        at(x, axes={"x": x, "attention": a}, device=d, metrics={"time": x * len(a + d), "parameters": x, "fits": x < 5})
        for x in (1, 3, 7) for a in ("baseline", "flash") for d in ("h200", "a100-80gb")
    ]  # fmt: skip
    points.append(at(9, axes={"x": 9, "attention": "flash"}, status="failed", error="no"))
    figure = pictures.over(points, "time", "x")
    (axes,) = figure.axes
    drawn = [line for line in axes.get_lines() if line.get_linestyle() != "None"]
    assert len(drawn) == 4 and len({(line.get_color(), line.get_linestyle()) for line in drawn}) == 4
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "3", "7"]
    assert "1 of 13 points failed" in axes.get_title()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["baseline", "flash", "h200", "a100-80gb", "does not fit the memory"]
    front = pictures.pareto(points, "time", "parameters").axes[0]
    assert front.get_xlabel() == "time (s)" and "more is better" in front.get_title()
    ends = [len(line.get_xdata()) for line in front.get_lines() if line.get_linestyle() != "None"]  # type: ignore
    listed = listing.front_lines(points, ("time", "parameters"))
    assert [line.startswith("  ") for line in listed].count(True) == sum(ends) == 6, "3 on each device"
    with pytest.raises(ValueError, match="no such axis; it has x, attention"):
        pictures.over(points, "time", "y")
    with pytest.raises(ValueError, match="8 values of x cannot be told apart"):
        pictures.over([at(i, axes={"x": i, "y": 1}, metrics={"time": 1}) for i in range(8)], "time", "y")


def test_an_unknown_metric_is_said() -> None:
    with pytest.raises(ValueError, match="unknown metric 'tme'; allowed: time, "):
        metrics.metric("tme")
    assert metrics.metric("module.attention").unit == "1"


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    command = [sys.executable, "-m", "minimodels.cli", "sweep", TINY, "--over", "batch=1:4000:1", "--jobs", "2",
               "--out", str(path)]  # fmt: skip
    started = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)
    while not (path.exists() and path.stat().st_size):
        assert started.poll() is None
        os.sched_yield()
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    assert len(children) >= 2
    started.kill()
    started.wait()
    for child in children:
        for _ in range(500):
            if not _alive(child):
                break
            subprocess.run(["sleep", "0.01"])
        assert not _alive(child)


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
