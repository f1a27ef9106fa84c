"""Predictions beside public measurements: how wrong the simulator is.

A truth table is a CSV with the columns id, model, phase_or_kernel, gpu, dtype, batch ("-" where there is none),
shape_or_settings, metric, value, unit, source. Understood so far, for LLaMA-2-7B (LLaMA-7B is the same network):

- phase `prefill`, "input N tokens": seconds to the first token;
- phase `decode`, "input N tokens, output M tokens": tokens per second after the first;
- phase `prefill+decode`, "..., in N / out M": generated tokens per second of whole batches;
- single kernels of one layer, "tokens=N, ...": seconds of one execution, launch overhead left out.

Whole models are predicted in `graph` mode: what was measured had no Python between its kernels.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from statistics import median, quantiles
from typing import Literal

from minimodels import loader
from minimodels.kernels.work import Work
from minimodels.run import Run
from minimodels.sim import views
from minimodels.sim.call import Call
from minimodels.sim.cost import predict
from minimodels.sim.device import load as load_device
from minimodels.sim.files import read
from minimodels.sim.progress import Advance, silent
from minimodels.sim.simulate import simulate

COLUMNS = ("id", "model", "phase_or_kernel", "gpu", "dtype", "batch", "shape_or_settings", "metric", "value", "unit", "source")  # fmt: skip
GPUS = {
    "NVIDIA A100-80GB": "a100-80gb",
    "NVIDIA A100-80GB-SXM": "a100-80gb",
    "NVIDIA H100-80GB-SXM": "h100-sxm",
    "NVIDIA H200-SXM": "h200",
    "NVIDIA L40S": "l40s",
}
PRECISIONS: dict[str, Literal["bfloat16", "float16"]] = {"bf16": "bfloat16", "fp16": "float16"}
MODELS = {"llama-7b": "llama2-7b", "llama2-7b": "llama2-7b"}
WHOLE = {"prefill": "ms", "decode": "tok/s", "prefill+decode": "tok/s"}  # phases of whole models, and their unit
WHOLE_MODELS = "whole models"  # the group of all of these
FEW = 20  # rows under which a group is too small to judge
MOST = 1 << 22  # the largest batch a run takes


class _Unpredicted(Exception):
    """Why a row has no prediction."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement and its prediction, both in `unit`; `reason` says why there is no prediction."""

    id: str
    model: str
    phase: str  # or the kernel
    gpu: str
    dtype: str
    batch: int | None
    settings: str
    measured: float
    unit: str
    group: str
    predicted: float | None = None
    reason: str | None = None

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.predicted is None else self.predicted / self.measured - 1

    @property
    def slowness(self) -> float | None:
        """Predicted over measured time, less one: a rate counts as the time it stands for."""
        if self.predicted is None or not self.unit.endswith("/s"):
            return self.error
        return self.measured / self.predicted - 1


@dataclass(frozen=True, slots=True)
class Group:
    """The errors of one family of rows on one GPU: median and p90 of their sizes, and as `bias` the median slowness."""

    family: str
    gpu: str
    n: int
    median: float
    p90: float
    bias: float

    @property
    def judged(self) -> bool:
        """Whether the group has enough rows to say anything."""
        return self.n >= FEW


def shipped() -> str:
    """The truth table that comes with the package, as CSV text."""
    return (resources.files("minimodels.sim") / "truth" / "llama2.csv").read_text("utf-8")


def load(path: Path) -> str:
    """The text of a truth table.

    Raises:
        ValueError: it cannot be read or is not text.
    """
    try:
        return read(path).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None


def validate(text: str, origin: str = "truth table", progress: Advance = silent) -> list[Row]:
    """Predict every row of a truth table that can be; `origin` names it in errors, `progress` is told of every row.

    Raises:
        ValueError: a column is missing, or a row is not what a truth table holds.
    """
    rows = list(parse(text, origin))
    for index, row in enumerate(rows):
        progress("row", index, len(rows))
        rows[index] = _predicted(row)
    return rows


def parse(text: str, origin: str) -> Iterator[Row]:
    """The rows of a truth table, not yet predicted.

    Raises:
        ValueError: a column is missing, or a row is not what a truth table holds.
    """
    table = csv.DictReader(io.StringIO(text), strict=True)
    try:
        missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
        if missing:
            columns = ", ".join(COLUMNS)
            raise ValueError(f"{origin}: missing columns {', '.join(missing)}; a truth table has {columns}")
        for record in table:
            yield _parsed(record, f"{origin}: row {record['id'] or f'in line {table.line_num}'}")
    except csv.Error as error:
        raise ValueError(f"{origin}: line {table.reader.line_num}: {error}") from None


def _parsed(record: dict[str, str], where: str) -> Row:
    """A checked row; `where` begins its errors."""
    if None in record or None in record.values():
        raise ValueError(f"{where}: it has more or fewer cells than there are columns")
    try:
        measured = float(record["value"])
    except ValueError:
        raise ValueError(f"{where}: value {record['value']!r} is not a number") from None
    if not 0 < measured < float("inf"):
        raise ValueError(f"{where}: value {record['value']!r} must be above 0 and finite")
    phase, batch = record["phase_or_kernel"], record["batch"]
    if batch != "-" and not (batch.isascii() and batch.isdigit() and len(batch) <= 7 and 1 <= int(batch) <= MOST):
        raise ValueError(f"{where}: batch {batch!r} is neither a whole number from 1 to {MOST:,} nor '-'")
    if phase in WHOLE and batch == "-":
        raise ValueError(f"{where}: {phase} needs a batch, a whole number from 1 to {MOST:,}")
    return Row(
        id=record["id"],
        model=record["model"],
        phase=phase,
        gpu=record["gpu"],
        dtype=record["dtype"],
        batch=None if batch == "-" else int(batch),
        settings=record["shape_or_settings"],
        measured=measured,
        unit=record["unit"],
        group=WHOLE_MODELS if phase in WHOLE else phase,
    )


def groups(rows: Iterable[Row]) -> Iterator[Group]:
    """Errors by family and GPU, over the rows that have a prediction."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.error is not None:
            found.setdefault((row.group, row.gpu), []).append(row)
    for (family, gpu), members in found.items():
        sizes = sorted(abs(row.error or 0) for row in members)
        p90 = quantiles(sizes, n=10, method="inclusive")[-1] if len(sizes) > 1 else sizes[0]
        yield Group(family, gpu, len(members), median(sizes), p90, median(row.slowness or 0 for row in members))


def _predicted(row: Row) -> Row:
    try:
        if row.gpu not in GPUS:
            raise _Unpredicted(f"no device stands for {row.gpu!r}")
        if row.dtype not in PRECISIONS:
            raise _Unpredicted(f"dtype {row.dtype!r} is not predicted yet")
        if row.model not in MODELS:
            raise _Unpredicted(f"model {row.model!r} is not in the suite")
        if row.unit != WHOLE.get(row.phase, "ms"):
            raise _Unpredicted(f"unit {row.unit!r} is not predicted for {row.phase}")
        if row.phase in WHOLE:
            return replace(row, predicted=_generation(row))
        tokens = re.search(r"tokens=([1-9]\d{0,8})\b", row.settings)
        if tokens is None:
            raise _Unpredicted(f"cannot read tokens from {row.settings!r}")
        family, call = _kernel(row.phase, int(tokens[1]), PRECISIONS[row.dtype])
    except _Unpredicted as why:
        return replace(row, reason=str(why))
    seconds = predict([call], load_device(GPUS[row.gpu]), "graph")[0].device_seconds
    return replace(row, group=family, predicted=1e3 * seconds)


def lengths(row: Row) -> list[int]:
    """Prompt and generated tokens of a whole-model row, as far as its settings say."""
    return [int(number) for number in re.findall(r"\b(?:in|input|out|output) (\d{1,9})\b", row.settings)]


def _generation(row: Row) -> float:
    """Milliseconds of the prefill, or generated tokens per second."""
    tokens = lengths(row)
    if len(tokens) != (1 if row.phase == "prefill" else 2):
        raise _Unpredicted(f"cannot read lengths from {row.settings!r}")
    prompt, generated = (*tokens, 1)[:2]
    try:
        config = loader.load(MODELS[row.model], [f"run.prompt_len={prompt}", f"run.gen_len={generated}"])
    except ValueError as error:
        raise _Unpredicted(str(error)) from None
    batch = row.batch or 1
    profile = simulate(config, Run(device=GPUS[row.gpu], dtype=PRECISIONS[row.dtype], batch=batch, mode="graph"))
    seconds = {name: part.seconds or 0.0 for name, part in views.by_stage(profile).items()}
    if row.phase == "prefill":
        return 1e3 * seconds["prefill"]
    if row.phase == "decode" and "decode" in seconds:
        return batch * (generated - 1) / seconds["decode"]
    if row.phase == "decode":
        raise _Unpredicted("one generated token comes from the prefill: there is no decode")
    return batch * generated / sum(seconds.values())


def _kernel(name: str, tokens: int, dtype: str) -> tuple[str, Call]:
    """One kernel of a LLaMA-2-7B layer on `tokens` rows, as a serving engine fuses it."""
    size = 2  # bytes per element
    gemm = re.search(r"projection (\d+)->(\d+)", name)
    width = re.search(r"(\d+)$", name)
    if gemm:
        k, n = int(gemm[1]), int(gemm[2])
        read, written = size * (tokens * k + k * n), size * tokens * n
        return "gemm", _call(Work("gemm", 2 * tokens * n * k, read, written, gemm=(1, tokens, n, k)), dtype)
    if name.startswith("RMSNorm") and width:
        row = size * tokens * int(width[1])
        return "norm", _call(Work("norm", 0, row, row), dtype)
    if name.startswith("SiLU*mul") and width:
        row = size * tokens * int(width[1])
        return "elementwise", _call(Work("elementwise", 0, 2 * row, row), dtype)
    if name.startswith("residual add") and width:
        row = size * tokens * int(width[1])
        return "elementwise", _call(Work("elementwise", 0, 2 * row, row), dtype)
    if name == "RoPE":
        rows = 2 * size * tokens * 4096  # queries and keys of all heads, rotated in place
        return "elementwise", _call(Work("elementwise", 0, rows, rows), dtype)
    raise _Unpredicted(f"kernel {name!r} is not predicted yet")


def _call(work: Work, dtype: str) -> Call:
    return Call("kernel", (), dtype, work, "", "", None, "Other", None, None)
