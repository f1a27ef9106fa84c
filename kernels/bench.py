"""Our kernels beside what torch offers, on calls of real models: time, rates, errors, percent of the card's ceilings.

For each case (`case.Case`) the implementations are `ours`, `eager` (torch's own operators, as a model runs them
without us), `compile` (those under torch.compile), and what `baselines` adds: torch's attention kernels one by one,
other packages' where installed. All go through the one protocol of `protocol`. What a call could take at best is its
bytes at the rate of a copy or its FLOPs at the rate of a matrix product, whichever is longer; both rates are measured
in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from minimodels.kernels.baselines import OURS, ways
from minimodels.kernels.case import Arguments, Case
from minimodels.kernels.ceilings import Ceilings
from minimodels.kernels.launch import triton
from minimodels.kernels.operator import Benched, every
from minimodels.kernels.packages import MODULES, versions
from minimodels.kernels.protocol import Timer, Trial, Way, trial
from minimodels.kernels.work import Work

IMPLAUSIBLE = 1.1  # of a ceiling: what exceeds it has not done the work
NO_MEMORY = "out of memory"
FAILURES = (RuntimeError,) if triton is None else (RuntimeError, triton.TritonError)
PACKAGE_FAILURES = (ValueError, AssertionError, AttributeError, ImportError)  # what packages say of calls, or lack
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One implementation on one case. Seconds, bytes/s, FLOP/s; None where it could not run, `note` says why.

    bound: memory, tensor or launch, what limits the call at best; percent: of that ceiling. wrong: why the time
    counts for nothing.
    """

    operator: str
    case: str
    where: str
    weight: float
    implementation: str
    bound: str
    percent: float | None = None
    seconds: float | None = None
    quartiles: tuple[float, float] | None = None
    runs: int = 0
    host_seconds: float | None = None
    bandwidth: float | None = None
    flops: float | None = None
    error: float | None = None
    eager_error: float | None = None
    wrong: tuple[str, ...] = ()
    note: str = ""


def bench(
    cases: Sequence[Case], timer: Timer, ceilings: Ceilings, repeats: int, report: Report, compiled: bool = True
) -> list[Row]:
    """Every implementation on every case, in order; `compiled`: torch.compile's too, which takes most of the time."""
    rows = []
    for number, case in enumerate(cases):
        report(case.operator.partition("::")[2], number, len(cases))
        rows += _case(case, timer, ceilings, repeats, compiled)
    return rows


@torch.inference_mode()
def _case(case: Case, timer: Timer, ceilings: Ceilings, repeats: int, compiled: bool) -> list[Row]:
    operator = every()[case.operator]
    work = work_of(operator, case)
    bound = best(work, case.dtype, ceilings)[0]
    labels = (case.operator, case.title(), case.where, case.weight)
    try:
        arguments = case.make(timer.device)
    except torch.OutOfMemoryError:
        return [Row(*labels, OURS, bound, note=NO_MEMORY)]
    rows = []
    for name, way in ways(case.operator.partition("::")[2], operator, arguments.args, compiled).items():
        told = way if isinstance(way, str) else _tried(name, way, operator, arguments, timer, repeats)
        if isinstance(told, str):
            wrong = (f"raised: {told}",) if name == OURS and told != NO_MEMORY else ()
            rows.append(Row(*labels, name, bound, wrong=wrong, note=told))
        else:
            rows.append(Row(*labels, name, bound, **_figures(told, work, case.dtype, ceilings)))
    return rows


def _tried(
    name: str, way: Way, operator: Benched, arguments: Arguments, timer: Timer, repeats: int
) -> Trial | str:  # fmt: skip
    """A trial, or why there is none: torch's kernels say so of calls they cannot do; one of ours must do all."""
    try:
        return trial(operator, way, arguments, timer, repeats, alike=name == OURS)
    except torch.OutOfMemoryError:  # of the call or of its judge in float64
        return NO_MEMORY
    except FAILURES as error:
        return str(error).partition("\n")[0]
    except PACKAGE_FAILURES as error:
        if name not in MODULES:
            raise
        return str(error).partition("\n")[0]


def work_of(operator: Benched, case: Case) -> Work:
    """FLOPs and bytes of a case, by the operator's formula."""
    arguments = case.make("meta").args
    result = operator.call(*arguments)
    return operator.work(arguments, {}, (result,) if isinstance(result, torch.Tensor) else tuple(result or ()))


def _matmul(work: Work, dtype: str, ceilings: Ceilings) -> float:
    """FLOP/s of a matrix product in the type that a call multiplies in."""
    return ceilings.matmul.get(work.product_type(dtype), ceilings.matmul["float32"])


def best(work: Work, dtype: str, ceilings: Ceilings) -> tuple[str, float]:
    """What limits a call at best, and the seconds it takes then."""
    rate, moved = _matmul(work, dtype, ceilings), work.bytes_read + work.bytes_written
    times = {"memory": moved / ceilings.copy, "tensor": (work.flops or 0) / rate, "launch": ceilings.launch}
    bound = max(times, key=times.__getitem__)
    return bound, times[bound]


def implausible(work: Work, seconds: float, dtype: str, ceilings: Ceilings) -> str | None:
    """Why nothing can take so little time: more than 110 % of a ceiling; what fits L2 need not reach memory."""
    moved = work.bytes_read + work.bytes_written
    copy = max(ceilings.copy, ceilings.l2_copy) if moved <= ceilings.l2_bytes else ceilings.copy
    rate = _matmul(work, dtype, ceilings)
    for what, share in (("copy", moved / seconds / copy), ("matmul", (work.flops or 0) / seconds / rate)):
        if share > IMPLAUSIBLE:
            return f"implausible: {share:.0%} of the {what} ceiling"
    return None


def _figures(found: Trial, work: Work, dtype: str, ceilings: Ceilings) -> dict[str, Any]:
    """What a row says of a trial."""
    doubt = implausible(work, found.median, dtype, ceilings)
    wrong = (*found.wrong, *([doubt] if doubt else ()))
    return {
        "percent": None if wrong else 100 * best(work, dtype, ceilings)[1] / found.median,
        "seconds": found.median,
        "quartiles": found.quartiles,
        "runs": found.runs,
        "host_seconds": found.host,
        "bandwidth": (work.bytes_read + work.bytes_written) / found.median,
        "flops": work.flops / found.median if work.flops else None,
        "error": found.error,
        "eager_error": found.eager_error,
        "wrong": wrong,
    }


def as_json(rows: Sequence[Row], ceilings: Ceilings) -> dict[str, Any]:
    """The record of a run, without what it ran on; `packages`: which others could be compared with."""
    return {
        "schema": 1,
        "kind": "kernels",
        "ceilings": asdict(ceilings),
        "packages": versions(),
        "rows": [asdict(row) for row in rows],
    }
