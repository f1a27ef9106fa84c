"""Predictions beside public measurements: how wrong the simulator is.

A truth table is a CSV with the columns id, model, phase_or_kernel, gpu, dtype, batch, shape_or_settings,
metric, value, unit, source, confidence. Understood so far, for LLaMA-2-7B (LLaMA-7B is the same network):

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
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import median, quantiles
from typing import Literal

from minimodels import loader
from minimodels.run import Run
from minimodels.sim import views
from minimodels.sim.call import Call, Work
from minimodels.sim.cost import predict
from minimodels.sim.device import load as load_device
from minimodels.sim.files import read
from minimodels.sim.simulate import simulate

COLUMNS = ("id", "model", "phase_or_kernel", "gpu", "dtype", "batch", "shape_or_settings", "metric", "value", "unit", "source")  # fmt: skip
GPUS = {
    "NVIDIA A100-80GB": "a100-80gb",
    "NVIDIA A100-80GB-SXM": "a100-80gb",
    "NVIDIA H100-80GB-SXM": "h100-sxm",
    "NVIDIA H200-SXM": "h200",
    "NVIDIA L40S": "l40s",
}
DTYPES: dict[str, Literal["bfloat16", "float16"]] = {"bf16": "bfloat16", "fp16": "float16"}
MODELS = {"llama-7b": "llama2-7b", "llama2-7b": "llama2-7b"}
UNITS = {"ms": 1e3, "tok/s": 1.0}  # per SI unit of the prediction
FEW = 20  # rows under which a group is too small to judge


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement and its prediction, both in `unit`; `reason` says why there is no prediction."""

    id: str
    group: str
    gpu: str
    what: str
    measured: float
    predicted: float | None
    unit: str
    reason: str | None = None

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.predicted is None else self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True)
class Group:
    """The errors of one family of rows on one GPU: medians of magnitudes, and the median error as bias."""

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


def validate(text: str) -> list[Row]:
    """Predict every row of a truth table that can be.

    Raises:
        ValueError: a column is missing.
    """
    table = csv.DictReader(io.StringIO(text))
    missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
    if missing:
        raise ValueError(f"a truth table has the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}")
    return [_row(record) for record in table]


def groups(rows: Iterable[Row]) -> Iterator[Group]:
    """Errors by family and GPU, over the rows that have a prediction."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.error is not None:
            found.setdefault((row.group, row.gpu), []).append(row.error)
    for (family, gpu), errors in found.items():
        sizes = sorted(map(abs, errors))
        p90 = quantiles(sizes, n=10, method="inclusive")[-1] if len(sizes) > 1 else sizes[0]
        yield Group(family, gpu, len(errors), median(sizes), p90, median(errors))


def _row(record: dict[str, str]) -> Row:
    phase, settings = record["phase_or_kernel"], record["shape_or_settings"]
    group, seconds_or_rate, reason = phase, None, None
    try:
        group, seconds_or_rate = _predict(record)
    except LookupError as error:
        reason = str(error.args[0])
    measured = float(record["value"])
    scale = UNITS.get(record["unit"], 1.0)
    predicted = None if seconds_or_rate is None else seconds_or_rate * scale
    what = f"{record['model']} {phase}, {settings}, batch {record['batch']}, {record['dtype']}"
    return Row(record["id"], group, record["gpu"], what, measured, predicted, record["unit"], reason)


def _predict(record: dict[str, str]) -> tuple[str, float]:
    """The family of a row, and its prediction in seconds or tokens per second; LookupError says why not."""
    gpu, dtype, model = record["gpu"], record["dtype"], record["model"]
    if gpu not in GPUS:
        raise LookupError(f"no device stands for {gpu!r}")
    if dtype not in DTYPES:
        raise LookupError(f"dtype {dtype!r} is not predicted yet")
    if model not in MODELS:
        raise LookupError(f"model {model!r} is not in the suite")
    if record["unit"] not in UNITS:
        raise LookupError(f"unit {record['unit']!r} is not predicted")
    phase, settings = record["phase_or_kernel"], record["shape_or_settings"]
    if phase in ("prefill", "decode", "prefill+decode"):
        lengths = [int(number) for number in re.findall(r"(?:in|input|out|output) (\d+)", settings)]
        if not lengths:
            raise LookupError(f"cannot read lengths from {settings!r}")
        return phase, _generation(phase, MODELS[model], lengths, int(record["batch"]), GPUS[gpu], DTYPES[dtype])
    tokens = re.search(r"tokens=(\d+)", settings)
    if tokens is None:
        raise LookupError(f"cannot read tokens from {settings!r}")
    family, call = _kernel(phase, int(tokens[1]), DTYPES[dtype])
    return family, predict([call], load_device(GPUS[gpu]), "graph")[0].device_seconds


def _generation(
    phase: str, model: str, lengths: list[int], batch: int, gpu: str, dtype: Literal["bfloat16", "float16"]
) -> float:
    """Seconds of the prefill, or generated tokens per second."""
    prompt, generated = lengths[0], lengths[1] if len(lengths) > 1 else 1
    config = loader.load(model, [f"run.prompt_len={prompt}", f"run.gen_len={generated}"])
    profile = simulate(config, Run(device=gpu, dtype=dtype, batch=batch, mode="graph"))
    seconds = {name: part.seconds or 0.0 for name, part in views.by_stage(profile).items()}
    if phase == "prefill":
        return seconds["prefill"]
    if phase == "decode":
        return batch * (generated - 1) / seconds["decode"]
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
    raise LookupError(f"kernel {name!r} is not predicted yet")


def _call(work: Work, dtype: str) -> Call:
    return Call("kernel", (), dtype, work, "", "", None, "Other", None, None)
