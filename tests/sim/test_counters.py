"""Counters of Nsight Compute: the command, the ranges around what it counts, and its CSV read back."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import minimodels
from minimodels.cli import main
from minimodels.kernels.backend import attention_backend
from minimodels.run import Run
from minimodels.sim import counters, views
from minimodels.sim.cache.gpu import LATENCIES
from minimodels.sim.counters_csv import read, sums
from minimodels.sim.job import of_config

BEFORE = '==PROF== Connected to process 71 (/usr/bin/python3.11)\n==PROF== Profiling "gemm": 0%....100% - 2 passes\n'
AFTER = "==PROF== Disconnected from process 71\n"
DESCRIBED = "PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg"
COLUMNS = (
    "ID", "Process ID", "Process Name", "Host Name", f"thread Domain:Push/Pop_Range:{DESCRIBED}",
    f"Id:Domain:Start/Stop_Range:{DESCRIBED}", "Kernel Name", "Context", "Stream", "Block Size", "Grid Size", "Device",
    "CC",
)  # fmt: skip
BASE = {
    counters.TIME: "ns", counters.INSTRUCTIONS: "inst", counters.LOADS: "sector", counters.COPIES: "sector",
    counters.FOUND: "sector", counters.MISSED: "sector", counters.MEMORY: "byte",
}  # fmt: skip
SCALED = BASE | {counters.TIME: "us", counters.MEMORY: "Mbyte", counters.LOADS: "Ksector"}
GEMM = "ampere_bf16_s16816gemm_bf16_64x64_ldg8_f2f_stages_64x5_nn"
MUL = "void at::native::vectorized_elementwise_kernel<4, at::native::BUnaryFunctor<c10::BFloat16>>(int, T2, T3)"
COPY = "void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda(at::TensorIteratorBase &)>(int)"
SOFTMAX = "void at::native::(anonymous namespace)::softmax_warp_forward<c10::BFloat16, 4>(T2 *, const T1 *, int)"


def ranges(*labels: str) -> str:
    """Labels as ncu prints the ranges of a thread, the outermost first."""
    return "71 " + "  ".join(f'"<default domain>:{label}:none:none:none:none:none:none"' for label in labels)


def page(kernels: list[tuple[str, str, dict[str, str]]], units: dict[str, str] = BASE, capability: str = "8.0") -> str:
    """A raw page: header, units, a row a kernel, every cell in quotes."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([[*COLUMNS, *units], [*[""] * len(COLUMNS), *units.values()]])
    for number, (name, path, values) in enumerate(kernels):
        fixed = (
            number,
            71,
            "python3.11",
            "127.0.0.1",
            path,
            "",
            name,
            1,
            7,
            "(128, 1, 1)",
            "(1024, 1, 1)",
            0,
            capability,
        )
        writer.writerow([*fixed, *(values[metric] for metric in units)])
    return BEFORE + text.getvalue() + AFTER


def counted(
    time: str, instructions: str, loads: str, copies: str, found: str, missed: str, memory: str
) -> dict[str, str]:
    return dict(zip(BASE, (time, instructions, loads, copies, found, missed, memory), strict=True))


TEMPORAL = ranges("stage.decoder", "unet", "attention.temporal", "core.baseline")
KERNELS = [
    (GEMM, TEMPORAL, counted("1,000", "2,000", "0", "600", "300", "300", "20,000")),
    (GEMM, TEMPORAL, counted("3,000", "2,000", "0", "600", "300", "100", "12,000")),
    (MUL, TEMPORAL, counted("2,000", "500", "150", "0", "0", "150", "9,600")),
    (COPY, ranges("stage.decoder", "attention.spatial"), counted("500", "900", "60", "0", "0", "60", "1,920")),
    (SOFTMAX, "", counted("500", "900", "80", "0", "10", "10", "1,920")),
]


def test_the_raw_page_is_read_by_scope_and_family() -> None:
    found = {(one.scope, one.family): one for one in sums(list(read(page(KERNELS), "x.csv")))}
    assert list(found) == [
        ("decoder/attention.temporal", "gemm"), ("decoder/attention.temporal", "elementwise"),
        ("decoder/attention.spatial", "copies"), ("(outside any)", "softmax"),
    ]  # fmt: skip
    gemm = found["decoder/attention.temporal", "gemm"]
    row = gemm.row()
    assert gemm.launches == 2 and row["instructions"] == 4000
    assert row["l1_mpki"] == pytest.approx(1000 * 1000 / 4000) and row["l2_mpki"] == pytest.approx(1000 * 400 / 4000)
    assert row["bandwidth"] == pytest.approx(32_000 / 4e-6)
    times = LATENCIES[0]
    assert row["access_time"] == pytest.approx((200 * times.l1 + 600 * times.l2 + 400 * times.memory) / 1200)


def test_units_are_those_of_the_second_row() -> None:
    plain = sums(list(read(page(KERNELS[2:3]), "x.csv")))[0].row()
    values = counted("2.0", "500", "0.15", "0", "0", "150", "0.0096")
    scaled = sums(list(read(page([(MUL, TEMPORAL, values)], SCALED), "x.csv")))[0].row()
    assert scaled == {key: value if isinstance(value, str) else pytest.approx(value) for key, value in plain.items()}


def test_other_gpus_have_no_access_time() -> None:
    row = sums(list(read(page(KERNELS, capability="9.0"), "x.csv")))[0].row()
    assert row["access_time"] is None and row["l2_mpki"]


WRONG = {
    "no table": ("==ERROR== ERR_NVGPUCTRPERM - The user does not have permission\n", "holds no table of ncu"),
    "details": ('"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n', "that is the details page"),
    "a metric": (page(KERNELS).replace(counters.MEMORY, "dram__bytes_read.sum"), f"lacks {counters.MEMORY}"),
    "units": (page(KERNELS).replace('"ns"', '"furlong"'), "unknown unit 'furlong'"),
    "a value": (page([(GEMM, "", counted("1", "1", "1", "1", "1", "n/a", "1"))]), "'n/a' is no number"),
    "no units": (page(KERNELS).replace('\n"","",', '\n"9","",'), "no row of units"),
    "a short row": (page(KERNELS).replace(',"1,920"\n', "\n", 1), "columns, the header has"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_one_message(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "counted.csv"
    file.write_text(text)
    result = CliRunner().invoke(main, ["counters", "--import", str(file)])
    assert result.exit_code == 2 and said in result.stderr and str(file) in result.stderr


def test_the_command_shows_what_was_counted(tmp_path: Path) -> None:
    file = tmp_path / "counted.csv"
    file.write_text(page(KERNELS))
    shown = CliRunner().invoke(main, ["counters", "--import", str(file)], env={"COLUMNS": "140"})
    assert shown.exit_code == 0 and "decoder/attention.temporal" in shown.stdout
    assert "L2 MPKI" in shown.stdout
    rows = json.loads(CliRunner().invoke(main, ["counters", "--import", str(file), "--json"]).stdout)
    assert [row["kernels"] for row in rows] == ["gemm", "elementwise", "copies", "softmax"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run on the GPU here")
def test_the_printed_command_counts_every_metric_of_the_same_architecture() -> None:
    said = ["counters", "make-a-video-tiny", "--set", "run.frames=3", "--scope", "attention.temporal"]
    words = shlex.split(CliRunner().invoke(main, said).stdout)
    assert words[0] == "ncu" and words[words.index("--metrics") + 1].split(",") == list(BASE)
    assert words[words.index("--nvtx-include") + 1] == "attention.temporal/", "a slash: a range that is pushed"
    again = words[words.index("minimodels.cli") + 1 :]
    result = CliRunner().invoke(main, again)
    assert result.exit_code == 2 and "torch finds no CUDA device here" in result.stderr, "it parses, and needs a GPU"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["parti-tiny", "--scope", "attention.temporal"], "nothing of parti-tiny runs in it; it has stage.text"),
        ([], "either NAME"),
        (["parti-tiny", "--import", "x.csv"], "either NAME"),
        (["parti-tinny"], "parti-tiny"),
        (["parti-tiny", "--attention", "baselin"], "--attention"),
        (["--import", "nowhere.csv"], "cannot read nowhere.csv"),
    ],
)
def test_wrong_calls_are_one_message(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["counters", *arguments])
    assert result.exit_code == 2 and said in result.stderr


def test_ranges_nest_as_the_scopes_of_the_model_do_and_loops_are_cut() -> None:
    inside: list[str] = []
    paths: list[str] = []

    @contextmanager
    def enter(label: str) -> Iterator[None]:
        inside.append(label)
        paths.append("/".join(inside))
        yield
        inside.pop()

    config = minimodels.load("make-a-video-tiny", ["run.decoder.steps=3"])
    prepared = of_config(config, Run(device="cpu", dtype="float32", attention="baseline")).prepare("cpu")
    with attention_backend("baseline"):
        counters.traced(prepared.run, counters.Ranges(enter))
    cores = [path for path in paths if path.endswith("attention.temporal/core.baseline")]
    assert cores and not inside and all(path.startswith("stage.") for path in cores)
    profile = minimodels.simulate(config, attention="baseline")
    listed = [call for call in views.attention_calls(profile) if call.facts.role == "temporal"]
    assert len(cores) == len(listed) < sum(call.executions for call in listed), "the steps that stand for the others"
