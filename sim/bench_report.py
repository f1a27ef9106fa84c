"""What `minibench bench` writes and shows: our kernels beside torch's, on calls of real models.

A record is JSON: what it ran on, the ceilings measured in the same run, and a row per implementation and call
(`kernels.bench.Row`). `results/GPU/kernels-*.json` hold those of a GPU, one per kernel; tables come from these files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

import minimodels
from minimodels.sim import units
from minimodels.sim.cells import table_of
from minimodels.sim.files import read

RESULTS = Path(minimodels.__file__).resolve().parent.parent / "results"
NOT_YET = "not measured yet"
SHORT = {"memory": "copy", "tensor": "matmul", "launch": "launch"}  # which ceiling
OTHERS = ("flash", "efficient", "cudnn", "math")


def has_gpu() -> bool:
    """Whether torch finds a CUDA device."""
    import torch

    return torch.cuda.is_available()


def run(kernels: Sequence[str], shapes: Path | None, quick: bool, progress: Any) -> dict[str, Any]:
    """Time kernels on the current CUDA device; the record.

    kernels: names, all if empty; shapes: a profile whose model's calls are taken, a list of models' if None;
    quick: one call per kernel.

    Raises:
        ValueError: no such kernel, or the file is no profile.
    """
    import torch

    from minimodels.kernels.bench import as_json, bench
    from minimodels.kernels.ceilings import measure_ceilings
    from minimodels.kernels.protocol import CudaTimer
    from minimodels.sim import bench_cases
    from minimodels.sim.bench_goals import goals
    from minimodels.sim.environment import environment, memory_bytes

    bench_cases.select([], kernels, 1)  # a wrong name is told before minutes of work
    found = bench_cases.of_profile(shapes, progress) if shapes else bench_cases.of_suite(progress)
    cases = bench_cases.select(found, kernels, 1 if quick else 3)
    if not (shapes or quick):
        known = {case.key for case in cases}
        cases += [case for case in goals(kernels) if case.key not in known]
    timer = CudaTimer()
    ceilings = measure_ceilings(timer)
    rows = bench(cases, timer, ceilings, 20 if quick else 50, progress)
    facts: dict[str, Any] = environment(timer.device) | {"memory_bytes": memory_bytes(timer.device)}
    try:
        import triton
    except ImportError:
        facts["triton"] = None
    else:
        facts["triton"] = triton.__version__
    facts["device"] = torch.cuda.get_device_name(timer.device)
    return as_json(rows, ceilings) | {"environment": facts}


def load(path: Path) -> dict[str, Any]:
    """The record in a file.

    Raises:
        ValueError: there is none.
    """
    try:
        record = json.loads(read(path))
    except ValueError as error:
        raise ValueError(f"{path}: no record of `minibench bench`: {error}") from None
    if not isinstance(record, dict) or record.get("kind") != "kernels":
        raise ValueError(f"{path}: no record of `minibench bench`")
    return record


def shown(folder: Path = RESULTS) -> RenderableType:
    """The tables of every GPU measured so far."""
    files = sorted(folder.glob("*/kernels*.json"))
    if not files:
        return Text(f"kernels on a GPU: {NOT_YET}")
    return Group(*(part for path in files for part in (report(load(path)), Text())))


def failures(record: Mapping[str, Any]) -> list[str]:
    """Calls that a kernel of ours got wrong."""
    return [
        f"{row['operator']}, {row['case']}: {'; '.join(row['wrong'])}"
        for row in record["rows"]
        if row["wrong"] and row["implementation"] == "ours"
    ]


def report(record: Mapping[str, Any]) -> Group:
    """A record as tables: one line per call of a kernel, the others' times beside ours."""
    parts: list[RenderableType] = [Text(line) for line in _heading(record)]
    for operator, rows in groupby(record["rows"], key=lambda row: row["operator"]):
        parts += [Text(), Text(operator.partition("::")[2], style="bold")]
        table = table_of("Call", "Ours", "Ceiling", "Rate", "Host", "eager", "compile", "SDPA", "Error")
        for _, same in groupby(rows, key=lambda row: (row["case"], row["where"])):
            table.add_row(*_cells({row["implementation"]: row for row in same}))
        parts.append(table)
    wrong = [f"WRONG: {row['implementation']} of {row['operator']}, {row['case']}: {'; '.join(row['wrong'])}"
             for row in record["rows"] if row["wrong"]]  # fmt: skip
    if wrong:
        parts += [Text(), *map(Text, wrong)]
    return Group(*parts)


def _heading(record: Mapping[str, Any]) -> list[str]:
    facts, ceilings = record["environment"], record["ceilings"]
    matmul = ", ".join(f"{units.si(rate, 'FLOP/s')} {dtype}" for dtype, rate in ceilings["matmul"].items())
    hosts = ", ".join(f"{who} {units.seconds(value)}" for who, value in ceilings["launches"].items())
    versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "triton", "driver") if facts.get(name))
    power = f", {facts['power_limit']:.0f} W" if facts.get("power_limit") else ""
    copy, near = (units.si(ceilings[name], "B/s") for name in ("copy", "l2_copy"))
    return [
        f"{facts['device']}{power}: MEASURED with {versions}",
        f"ceilings: copy {copy} (in L2 {near}), matmul {matmul}",
        f"a launch: {units.seconds(ceilings['launch'])}, host {hosts}",
        "Ours: median time, L2 flushed. Ceiling: how much of it is reached. eager, compile, SDPA (the fastest",
        "of torch's kernels): how many times as long. Error: largest to float64, over that of eager.",
    ]


def _cells(by: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line of the table; times of an implementation that is wrong are not shown."""
    ours = by["ours"]
    name = "\n".join([ours["case"], *filter(None, [ours["where"].partition(",")[0]])])
    if ours["seconds"] is None or ours["wrong"]:
        return [name, "WRONG" if ours["wrong"] else ours["note"], *[units.UNKNOWN] * 7]
    rate = units.si(ours["flops"], "FLOP/s") if ours["bound"] == "tensor" else units.si(ours["bandwidth"], "B/s")
    fused = [t for t in (_seconds(by.get(other)) for other in OTHERS) if t is not None]
    ratios = [_seconds(by.get("eager")), _seconds(by.get("compile")), min(fused, default=None)]
    return [
        name,
        units.seconds(ours["seconds"]),
        f"{ours['percent']:.0f} % {SHORT[ours['bound']]}",
        rate,
        units.seconds(ours["host_seconds"]),
        *(units.times(t / ours["seconds"] if t is not None else None) for t in ratios),
        units.times(ours["error"] / ours["eager_error"] if ours["eager_error"] else None),
    ]


def _seconds(row: Mapping[str, Any] | None) -> float | None:
    return None if row is None or row["wrong"] else row["seconds"]
