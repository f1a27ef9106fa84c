"""Predictions beside measurements: how wrong the simulator is, on any table of measurements.

A truth table is a CSV with the columns id, model, phase_or_kernel, gpu, dtype, batch ("-" where there is none),
shape_or_settings, metric, value, unit, source. What rows may say is written down where they are read: single
kernels in `truth_kernels`, whole models in `truth_models`, names of GPUs in `truth_gpus`.

Families with a reader there are claimed: a row of one that cannot be predicted counts against the coverage. Rows
that constants were fitted to are predicted but not reported: those that measure on the same device what a fitted row of
the shipped table does (`split`), in any table, by any name and with any value.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from statistics import median, quantiles

from minimodels.sim import device as devices
from minimodels.sim import truth_memory as memory
from minimodels.sim import truth_models as models
from minimodels.sim.cost import predict
from minimodels.sim.files import read
from minimodels.sim.progress import Advance, silent
from minimodels.sim.split import held_out
from minimodels.sim.truth_gpus import device_of
from minimodels.sim.truth_kernels import LOAD, SCALE, Kernel, Unpredicted, claims, family, kernel

COLUMNS = (
    "id", "model", "phase_or_kernel", "gpu", "dtype", "batch", "shape_or_settings", "metric", "value", "unit", "source",
)  # fmt: skip
FEW = 20  # rows under which a group is too small to judge
MOST = 1 << 22  # the largest batch a run takes
NO_TIMES = ("outcome", "MACs")
RATES = {"TFLOP/s": 1e12, "GFLOP/s": 1e9, "G elements/s": 1e9}


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
    measured: float | None  # None where it is no number, as in "OOM"
    unit: str
    family: str = ""
    claimed: bool = False
    fitted: bool = False  # a constant was fitted to it or its like: it is not reported
    predicted: float | None = None
    seconds: float | None = None  # what a prediction of one kernel comes from
    reason: str | None = None

    @property
    def rate(self) -> bool:
        """Whether more is faster."""
        return "/s" in self.unit

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.predicted is None or self.measured is None else self.predicted / self.measured - 1

    @property
    def slowness(self) -> float | None:
        """Predicted over measured time, less one: a rate counts as the time it stands for."""
        if self.predicted is None or self.measured is None or not self.rate:
            return self.error
        return self.measured / self.predicted - 1

    @property
    def prediction(self) -> float | None:
        """The prediction to six digits, a rate as the time it stands for: rows of one prediction count as one."""
        if self.predicted is None:
            return None
        time = 1 / self.predicted if self.rate else self.predicted
        return float(f"{self.seconds or time:.6g}")


@dataclass(frozen=True, slots=True)
class Group:
    """The errors of one family of rows on one GPU: median and p90 of their sizes, and as `bias` the median slowness.

    distinct: how many different predictions its `n` rows are compared with.
    """

    family: str
    gpu: str
    n: int
    distinct: int
    median: float
    p90: float
    bias: float

    @property
    def judged(self) -> bool:
        """Whether the group has enough rows to say anything."""
        return self.n >= FEW


def shipped() -> str:
    """The truth table that comes with the package, as CSV text."""
    folder = resources.files("minimodels.sim") / "truth"
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".csv"))
    texts = [(folder / name).read_text("utf-8") for name in names]
    return texts[0] + "".join(text.partition("\n")[2] for text in texts[1:])


def load(path: Path) -> str:
    """The text of a truth table; the mark that spreadsheets put before it is left out.

    Raises:
        ValueError: it cannot be read or is not text.
    """
    try:
        return read(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None


def validate(text: str, origin: str = "truth table", progress: Advance = silent) -> list[Row]:
    """Predict every row of a truth table that can be; `origin` names it in errors, `progress` is told of every row.

    Raises:
        ValueError: a column is missing, or a row is not what a truth table holds.
    """
    rows = list(parse(text, origin))
    fitted = _fitted()
    kernels: dict[str, list[tuple[int, Kernel]]] = {}
    for index, row in enumerate(rows):
        progress("row", index, len(rows))
        try:
            name = device_of(row.gpu)
            if row.reason is not None:
                raise Unpredicted(row.reason)
            if name is None:
                raise Unpredicted(f"no device stands for {row.gpu!r}")
            if row.measured is None:
                raise Unpredicted("no number was measured")
            if row.phase == memory.PHASE:
                rows[index] = replace(row, predicted=memory.predicted(row, name))
            elif models.family(row.model, row.phase, row.settings) is not None:
                rows[index] = replace(row, predicted=models.predicted(row, name), fitted=models.fitted(row, name))
            else:
                one = kernel(row.phase, row.dtype, row.batch or 1, row.settings)
                if one.dtype not in devices.load(name).datasheet.flops:
                    raise Unpredicted(f"{name} has no rate for {one.dtype}")
                kernels.setdefault(name, []).append((index, one))
                rows[index] = replace(row, fitted=(one.family, one.key, name) in fitted)
        except Unpredicted as why:
            rows[index] = replace(row, reason=str(why))
    for name, found in kernels.items():
        for (index, one), seconds in zip(found, seconds_of([one for _, one in found], devices.load(name)), strict=True):
            rows[index] = _priced(rows[index], one, seconds)
    return rows


def seconds_of(kernels: Sequence[Kernel], device: devices.Device) -> list[float]:
    """The predicted seconds of one execution of each, queued behind each other or awaited by a host."""
    timings = iter(predict([call for one in kernels for call in one.calls], device, "graph"))
    device_seconds = [sum(t.device_seconds + t.gap_seconds for t in islice(timings, len(one.calls))) for one in kernels]
    load = LOAD / device.datasheet.clock
    return [
        max(one.least, one.loads * load, one.wait + one.loads_before * load + seconds)
        for one, seconds in zip(kernels, device_seconds, strict=True)
    ]


def _priced(row: Row, one: Kernel, seconds: float) -> Row:
    if row.unit in SCALE:
        return replace(row, predicted=SCALE[row.unit] * seconds, seconds=seconds)
    scale = next((value for unit, value in RATES.items() if row.unit.startswith(unit)), None)
    if scale is None or one.amount is None:
        return replace(row, reason=f"unit {row.unit!r} is not predicted for {row.phase}")
    return replace(row, predicted=one.amount / seconds / scale, seconds=seconds)


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
    model, phase, batch = record["model"], record["phase_or_kernel"], record["batch"]
    settings = record["shape_or_settings"]
    whole = memory.family(model, phase) or models.family(model, phase, settings)
    claimed = record["metric"] not in NO_TIMES and (whole is not None or claims(phase))
    measured, reason = _value(record), None
    count = None
    if claimed and batch != "-":
        if batch.isascii() and batch.isdigit() and len(batch) <= 7 and 1 <= int(batch) <= MOST:
            count = int(batch)
        else:
            reason = f"batch {batch!r} is neither a whole number from 1 to {MOST:,} nor '-'"
    if claimed and batch == "-" and whole is not None:
        reason = f"{phase} needs a batch, a whole number from 1 to {MOST:,}, not {batch!r}"
    return Row(
        id=record["id"],
        model=model,
        phase=phase,
        gpu=record["gpu"],
        dtype=record["dtype"],
        batch=count,
        settings=settings,
        measured=measured,
        unit=record["unit"],
        family=whole or family(phase, record["dtype"]),
        claimed=claimed and measured is not None,
        reason=reason,
    )


def _value(record: dict[str, str]) -> float | None:
    """The number of a row; None where it has none, as in "OOM"."""
    try:
        value = float(record["value"])
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


@cache
def _fitted() -> frozenset[tuple[str, str, str]]:
    """Family, key and device of the shipped rows that constants may have been fitted to."""
    kernels = ((one.family, one.key, name) for _, one, name in fittable(parse(shipped(), "shipped table")))
    return frozenset(of for of in kernels if not held_out(*of))


def fittable(rows: Iterable[Row]) -> Iterator[tuple[Row, Kernel, str]]:
    """The rows that a cost model can be fitted to: single kernels on known devices, with their device."""
    for row in rows:
        name = device_of(row.gpu)
        whole = (memory.family(row.model, row.phase) or models.family(row.model, row.phase, row.settings)) is not None
        scaled = row.unit in SCALE or any(row.unit.startswith(unit) for unit in RATES)
        if name is None or row.measured is None or not row.claimed or row.reason or whole or not scaled:
            continue
        try:
            one = kernel(row.phase, row.dtype, row.batch or 1, row.settings)
        except Unpredicted:
            continue
        if one.dtype in devices.load(name).datasheet.flops:
            yield row, one, name


def groups(rows: Iterable[Row]) -> Iterator[Group]:
    """Errors by family and GPU, over the rows that have a prediction and were not fitted to."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.error is not None and not row.fitted:
            found.setdefault((row.family, row.gpu), []).append(row)
    for name, members in sorted(found.items()):
        yield summary(*name, members)


def summary(family: str, gpu: str, members: Sequence[Row]) -> Group:
    """The errors of some rows."""
    sizes = sorted(abs(row.error or 0) for row in members)
    p90 = quantiles(sizes, n=10, method="inclusive")[-1] if len(sizes) > 1 else sizes[0]
    distinct = len({row.prediction for row in members})
    return Group(family, gpu, len(members), distinct, median(sizes), p90, median(row.slowness or 0 for row in members))


def coverage(rows: Iterable[Row]) -> tuple[int, int]:
    """Predicted rows of the claimed families, and all of them."""
    claimed = [row for row in rows if row.claimed]
    return sum(row.predicted is not None for row in claimed), len(claimed)


def write_rows(rows: Iterable[Row]) -> str:
    """A CSV of id, prediction, measured value and unit of every row, and whether a constant was fitted to it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "predicted", "value", "unit", "part"))
    for row in rows:
        predicted = "" if row.predicted is None else f"{row.predicted:.6g}"
        value = "" if row.measured is None else repr(row.measured)
        writer.writerow((row.id, predicted, value, row.unit, "fitted" if row.fitted else "held out"))
    return text.getvalue()
