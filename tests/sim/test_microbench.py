"""The microbenchmark: every row is one that the readers know, its timer works, and a fit finds a device again."""

from __future__ import annotations

import csv
import io
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from minimodels.cli import main
from minimodels.kernels.ceilings import measure_ceilings
from minimodels.kernels.protocol import CpuTimer
from minimodels.sim import bench_report, device_writer, microbench
from minimodels.sim import device as devices
from minimodels.sim.calibrate import FEWEST, calibrate
from minimodels.sim.device import Device
from minimodels.sim.microbench import Bench, benches
from minimodels.sim.split import held_out
from minimodels.sim.truth_kernels import kernel
from minimodels.sim.validate import COLUMNS, seconds_of, shipped, validate

SMALL = 1 << 20  # elements or multiply-adds that a CPU does at once


def test_every_row_is_known_to_a_reader_and_every_family_has_rows_on_both_sides_of_the_split() -> None:
    sides: dict[str, Counter[bool]] = {}
    for bench in benches():
        one = kernel(bench.phase, microbench.NAME, bench.batch, bench.settings)
        assert one.calls[-1].l2 == ("warm" if bench.warm else "cold"), (bench.phase, "as the reader takes it")
        sides.setdefault(one.family, Counter())[held_out(one.family, one.key, "")] += 1
    for family, counts in sides.items():
        assert counts[True] and (counts[False] >= FEWEST or family in ("attention decode", "groupnorm")), (
            family,
            counts,
        )


def _meta(bench: Bench) -> tuple[int, int]:
    """FLOPs as torch counts them, and the elements of the result, on meta."""
    from torch.utils.flop_counter import FlopCounterMode

    call = bench.make(torch.device("meta"))
    with FlopCounterMode(display=False) as counter:
        out = call()
    return counter.get_total_flops(), out.numel()


@pytest.mark.parametrize("phase", ("gemm", "conv2d fwd"))
def test_a_call_does_the_work_that_its_row_says(phase: str) -> None:
    for bench in (b for b in benches() if b.phase == phase):
        one = kernel(bench.phase, microbench.NAME, bench.batch, bench.settings)
        flops, elements = _meta(bench)
        assert flops == one.calls[-1].work.flops and 2 * elements == one.calls[-1].work.bytes_written


def test_passes_over_memory_write_what_their_rows_say() -> None:
    for bench in (b for b in benches() if b.phase in ("gelu", "copy", "softmax", "layernorm", "groupnorm")):
        one = kernel(bench.phase, microbench.NAME, bench.batch, bench.settings)
        assert 2 * _meta(bench)[1] == one.calls[-1].work.bytes_written


def test_kernels_are_timed_and_written_as_a_truth_table(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [
        b
        for b in benches()
        if b.settings in ("M=16 N=320 K=320", "rows=64 cols=77 clock=device", "elements=1024 clock=device")
    ]
    assert len(few) == 4
    broken = replace(few[0], make=lambda device: lambda: torch.ones(2) @ torch.ones(3))
    monkeypatch.setattr(microbench, "benches", lambda: iter([*few, broken]))
    table = microbench.measure("h200", CpuTimer(1 << 12))
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == 4, "what cannot run is left out"
    assert all(float(row["value"]) > 0 for row in rows) and set(rows[0]) == set(COLUMNS)
    assert all(row.predicted for row in validate(table))


def test_the_host_is_timed_on_any_device() -> None:
    timer = CpuTimer(1 << 12)
    found = microbench.host(timer, measure_ceilings(timer, copy_bytes=1 << 16, matmul=32, runs=2))
    assert 0 < found["host_per_launch"] < 1e-2 and 0 < found["host_per_op"] < 1e-2


def test_a_queue_of_kernels_and_a_sustained_rate_are_timed_on_any_device() -> None:
    timer, constants = CpuTimer(1 << 12), devices.load("h200").constants
    each = microbench.queued(timer)
    assert 0 < each < 1e-3
    assert microbench.gap(constants.memory_floor + 2e-6, constants) == pytest.approx(2e-6)
    assert microbench.gap(0.5 * constants.memory_floor, constants) > 0
    assert 1e6 < microbench.sustained(timer, 64, 1e-3) < 1e13


def test_what_was_timed_becomes_constants_once_the_rest_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microbench, "benches", lambda: iter(()))
    monkeypatch.setattr(microbench, "host", lambda timer: {"host_per_op": 2e-5})
    monkeypatch.setattr(microbench, "sustained", lambda timer: 1e12)
    start = devices.load("h200")
    timed = microbench.timed(start, CpuTimer(1 << 12))
    assert timed.device.constants.host_per_op == 2e-5
    fitted = timed.device.with_constants(memory_floor=1e-9)
    found = timed.constants(fitted)
    assert found["kernel_gap"] == pytest.approx(timed.queued - 1e-9)
    assert found["gemm_sustained"] == pytest.approx(1e12 / start.peak_flops("float16"))


def _table(device: Device) -> str:
    """What the microbenchmark would find on a GPU that is just like its device file."""
    listed = list(benches())
    kernels = [kernel(b.phase, microbench.NAME, b.batch, b.settings) for b in listed]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, (bench, seconds) in enumerate(zip(listed, seconds_of(kernels, device), strict=True)):
        row = (
            number,
            "-",
            bench.phase,
            device.name,
            microbench.NAME,
            bench.batch,
            bench.settings,
            "latency",
            repr(1e3 * seconds),
            "ms",
            "-",
        )
        writer.writerow(row)
    return text.getvalue()


def test_a_fit_to_a_gpu_of_known_constants_finds_them_again() -> None:
    """Also on a GPU that is kept out of the shipped table whole."""
    start = devices.load("h200")
    kernels = start.constants.attention
    flash = kernels["flash"].model_copy(update={"efficiency": 0.5, "floor": 12e-6})
    changed = {"gemm_efficiency": 0.7, "gemm_bandwidth": 0.6, "memory_bandwidth": 0.7, "memory_floor": 3e-6,
               "norm_bandwidth": 0.5, "softmax_bandwidth": 0.4, "conv_efficiency": 0.55,
               "attention": kernels | {"flash": flash}}  # fmt: skip
    truth = start.with_constants(**changed)
    fitted, done = calibrate(_table(truth), start)
    assert {part.family for part in done} >= {"gemm", "conv", "norm", "softmax", "elementwise", "attention, flash"}
    assert all(part.after < 0.05 < part.before for part in done if part.family in ("gemm", "conv", "norm", "softmax"))
    assert fitted.constants.attention["flash"].efficiency == pytest.approx(0.5, rel=0.1)
    for name in ("gemm_efficiency", "memory_bandwidth", "norm_bandwidth", "softmax_bandwidth"):
        assert getattr(fitted.constants, name) == pytest.approx(changed[name], rel=0.1), name
    text = device_writer.rewritten(device_writer.original("h200"), fitted, done, ["host_per_op"])
    assert "host_per_op = " in text and "# measured" in text


def test_without_a_gpu_the_command_says_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_report, "has_gpu", lambda: False)
    result = CliRunner().invoke(main, ["calibrate"])
    assert result.exit_code == 2 and "--from TRUTH.csv --device NAME" in result.stderr
    for wrong in (["--from", "x.csv"], ["--from", "x.csv", "--device", "h200", "--rows", "y.csv"]):
        result = CliRunner().invoke(main, ["calibrate", *wrong])
        assert result.exit_code == 2 and "needs --device NAME" in result.stderr


def test_a_file_fitted_to_a_table_tells_the_kernels_of_attention_apart_from_families(tmp_path: Path) -> None:
    head, *lines = shipped().splitlines()
    few = [line for line in lines if "A100-80GB" in line and ("softmax," in line or "prefill (causal)" in line)]
    (tmp_path / "mine.csv").write_text("\n".join([head, *few]), encoding="utf-8-sig")
    arguments = ["calibrate", "--from", str(tmp_path / "mine.csv"), "--device", "a100-80gb"]
    source = tomllib.loads(CliRunner().invoke(main, arguments).stdout)["constants"]["source"]
    assert source == "Fitted by minibench calibrate to mine.csv: softmax; attention, flash. The rest is as before."
