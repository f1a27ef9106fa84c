"""What `minibench bench` writes and shows: our kernels beside torch's, on calls of real models.

A record is JSON: what it ran on, the ceilings measured in the same run, which other packages were there, and a row per
implementation and call (`kernels.bench.Row`). `results/GPU/kernels-*.json` hold those of a GPU, one per kernel; tables
and verdicts on goals (`bench_verdicts`) come from these files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

import minimodels
from minimodels.sim import units
from minimodels.sim.cells import table_of
from minimodels.sim.files import read

if TYPE_CHECKING:
    from minimodels.kernels.case import Case

RESULTS = Path(minimodels.__file__).resolve().parent.parent / "results"
NOT_YET = "not measured yet"
SHORT = {"memory": "copy", "tensor": "matmul", "launch": "launch"}  # which ceiling
TORCHS = ("flash", "efficient", "cudnn", "math")
OWN_COLUMN = ("ours", "eager", "compile", *TORCHS)


def has_gpu() -> bool:
    """Whether torch finds a CUDA device."""
    import torch

    return torch.cuda.is_available()


def run(kernels: Sequence[str], shapes: Path | None, quick: bool, progress: Any) -> dict[str, Any]:
    """Time kernels on the current CUDA device; the record.

    kernels: names, all if empty; shapes: a profile whose model's calls are taken, a list of models' if None;
    quick: one call per kernel.

    Raises:
        ValueError: no such kernel, the file is no profile, or its model calls none of the kernels.
    """
    import torch

    from minimodels.kernels.bench import as_json, bench
    from minimodels.kernels.ceilings import measure_ceilings
    from minimodels.kernels.protocol import CudaTimer
    from minimodels.sim import bench_cases
    from minimodels.sim.bench_goals import goals, marked
    from minimodels.sim.environment import environment, memory_bytes

    bench_cases.select([], kernels, 1)  # a wrong name is told before minutes of work
    found = bench_cases.of_profile(shapes, progress) if shapes else bench_cases.of_suite(progress)
    cases = bench_cases.select(found, kernels, 1 if quick else 3)
    if not shapes:
        known = {case.operator for case in cases}
        more = goals(kernels)
        cases = marked(cases, _first([case for case in more if case.operator not in known]) if quick else more)
    if not cases:
        raise ValueError(f"{shapes}: its model makes no call of {', '.join(kernels) or 'our kernels'}")
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


def _first(cases: Sequence[Case]) -> list[Case]:
    """The first case of each operator."""
    return list({case.operator: case for case in reversed(cases)}.values())


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
    """The tables of every GPU measured so far, and which goals each meets; without any, the goals."""
    from minimodels.sim import bench_verdicts as verdicts

    files = sorted(folder.glob("*/kernels*.json"))
    if not files:
        return Group(Text(f"kernels on a GPU: {NOT_YET}"), Text(), verdicts.report(verdicts.judged([])))
    parts: list[RenderableType] = []
    for gpu, paths in groupby(files, key=lambda path: path.parent):
        records = [load(path) for path in paths]
        parts += [part for record in records for part in (tables(record), Text())]
        parts += [verdicts.report(verdicts.judged(records, gpu)), Text()]
    return Group(*parts)


def failures(record: Mapping[str, Any]) -> list[str]:
    """Calls that a kernel of ours got wrong."""
    return [
        f"{row['operator']}, {row['case']}: {'; '.join(row['wrong'])}"
        for row in record["rows"]
        if row["wrong"] and row["implementation"] == "ours"
    ]


def report(record: Mapping[str, Any]) -> Group:
    """A record as tables, and which goals it meets."""
    from minimodels.sim import bench_verdicts as verdicts

    return Group(tables(record), Text(), verdicts.report(verdicts.judged([record])))


def tables(record: Mapping[str, Any]) -> Group:
    """One line per call of a kernel, the others' times beside ours."""
    parts: list[RenderableType] = [Text(line) for line in _heading(record)]
    for operator, rows in groupby(record["rows"], key=lambda row: row["operator"]):
        parts += [Text(), Text(operator.partition("::")[2], style="bold")]
        table = table_of("Call", "Ours", "Ceiling", "Rate", "Host", "eager", "compile", "SDPA", "Others", "Error")
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
        *_packages(record["packages"]),
        "Ours: median time, L2 flushed. Ceiling: how much of it is reached. eager, compile, SDPA (the fastest",
        "of torch's kernels in its own layout), Others (the fastest of other packages, flex_attention and",
        "rearranging to conv1d): how many times as long. Error: largest to float64, over that of eager.",
    ]


def _packages(found: Mapping[str, str]) -> list[str]:
    """What other packages there were; what there was not, in a line of its own."""
    from minimodels.kernels.packages import MISSING

    there = [f"{name} {version}" for name, version in found.items() if version != MISSING]
    missing = [name for name, version in found.items() if version == MISSING]
    lines = [f"others: {', '.join(there)}"] if there else []
    return lines + ([f"{MISSING}: {', '.join(missing)}"] if missing else [])


def _cells(by: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line of the table; times of an implementation that is wrong are not shown."""
    ours = by["ours"]
    name = "\n".join([ours["case"], *filter(None, [ours["where"].partition(",")[0]])])
    if ours["seconds"] is None or ours["wrong"]:
        return [name, "WRONG" if ours["wrong"] else ours["note"], *[units.UNKNOWN] * 8]
    rate = units.si(ours["flops"], "FLOP/s") if ours["bound"] == "tensor" else units.si(ours["bandwidth"], "B/s")
    from minimodels.kernels.baselines import REARRANGED

    others = [name for name in by if name not in OWN_COLUMN and not name.startswith(REARRANGED)]
    ratios = [_fastest(by, names) for names in (["eager"], ["compile"], TORCHS, others)]
    return [
        name,
        units.seconds(ours["seconds"]),
        f"{ours['percent']:.0f} % {SHORT[ours['bound']]}",
        rate,
        units.seconds(ours["host_seconds"]),
        *(units.times(t / ours["seconds"] if t is not None else None) for t in ratios),
        units.times(ours["error"] / ours["eager_error"] if ours["eager_error"] else None),
    ]


def _fastest(by: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> float | None:
    """Seconds of the fastest of some implementations that is right."""
    rows = [by[name] for name in names if name in by and not by[name]["wrong"]]
    return min((row["seconds"] for row in rows if row["seconds"] is not None), default=None)
