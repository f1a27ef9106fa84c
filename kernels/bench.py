"""Our kernels beside what torch offers, on calls of real models: time, rates, errors, percent of the card's ceilings.

For each case (`case.Case`) the implementations are `ours`, `eager` (torch's own operators, as a model runs them
without us), `compile` (those under torch.compile), and for attention `eager` with each of torch's kernels pinned.
All go through the one protocol of `protocol`. What a call could take at best is its bytes at the rate of a copy or
its FLOPs at the rate of a matrix product, whichever is longer; both rates are measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from minimodels.kernels.case import Case
from minimodels.kernels.ceilings import Ceilings
from minimodels.kernels.launch import triton
from minimodels.kernels.operator import OPERATORS, Operator
from minimodels.kernels.protocol import Timer, Trial, trial
from minimodels.kernels.work import Work

COMPILE = "compile"
IMPLAUSIBLE = 1.1  # of a ceiling: what exceeds it has not done the work
PINNED = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
FAILURES = (RuntimeError,) if triton is None else (RuntimeError, triton.TritonError)
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


def implementations(operator: Operator, work: Work) -> dict[str, Callable[..., Any]]:
    """What is compared, by name."""
    found: dict[str, Callable[..., Any]] = {
        "ours": operator.call,
        "eager": operator.eager,
        COMPILE: _compiled(operator.eager),
    }
    if work.kernel == "attention":
        found |= {name: _pinned(operator.eager, backend) for name, backend in PINNED.items()}
    return found


def _compiled(eager: Callable[..., Any]) -> Callable[..., Any]:
    """`eager` compiled at its first call, for the sizes of that call."""
    made: list[Callable[..., Any]] = []

    def call(*args: Any) -> Any:
        if not made:
            torch._dynamo.reset()
            made.append(torch.compile(eager, dynamic=False))
        return made[0](*args)

    return call


def _pinned(eager: Callable[..., Any], backend: SDPBackend) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with sdpa_kernel(backend):
            return eager(*args)

    return call


@torch.no_grad()
def _case(case: Case, timer: Timer, ceilings: Ceilings, repeats: int, compiled: bool) -> list[Row]:
    operator = OPERATORS[case.operator]
    work = work_of(operator, case)
    bound = best(work, case.dtype, ceilings)[0]
    labels = (case.operator, case.title(), case.where, case.weight)
    try:
        arguments = case.make(timer.device)
    except torch.OutOfMemoryError:
        return [Row(*labels, "ours", bound, note="out of memory")]
    rows = []
    for name, call in implementations(operator, work).items():
        if name == COMPILE and not compiled:
            continue
        try:
            found = trial(operator, call, arguments, timer, repeats, alike=name == "ours")
        except torch.OutOfMemoryError:  # of the call or of its judge in float64
            rows.append(Row(*labels, name, bound, note="out of memory"))
        except FAILURES as error:  # torch's kernels say so of calls they cannot do; one of ours must do all
            said = str(error).partition("\n")[0]
            wrong = (f"raised: {said}",) if name == "ours" else ()
            rows.append(Row(*labels, name, bound, wrong=wrong, note=said))
        else:
            rows.append(Row(*labels, name, bound, **_figures(found, work, case.dtype, ceilings)))
    return rows


def work_of(operator: Operator, case: Case) -> Work:
    """FLOPs and bytes of a case, by the operator's formula."""
    arguments = case.make("meta").args
    result = operator.call(*arguments)
    return operator.work(arguments, {}, (result,) if isinstance(result, torch.Tensor) else tuple(result or ()))


def best(work: Work, dtype: str, ceilings: Ceilings) -> tuple[str, float]:
    """What limits a call at best, and the seconds it takes then."""
    rate = ceilings.matmul.get(dtype, ceilings.matmul["float32"])
    moved = work.bytes_read + work.bytes_written
    times = {"memory": moved / ceilings.copy, "tensor": (work.flops or 0) / rate, "launch": ceilings.launch}
    bound = max(times, key=times.__getitem__)
    return bound, times[bound]


def implausible(work: Work, seconds: float, dtype: str, ceilings: Ceilings) -> str | None:
    """Why nothing can take so little time: more than 110 % of a ceiling; what fits L2 need not reach memory."""
    moved = work.bytes_read + work.bytes_written
    copy = max(ceilings.copy, ceilings.l2_copy) if moved <= ceilings.l2_bytes else ceilings.copy
    rate = ceilings.matmul.get(dtype, ceilings.matmul["float32"])
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
    """The record of a run, without what it ran on."""
    return {"schema": 1, "kind": "kernels", "ceilings": asdict(ceilings), "rows": [asdict(row) for row in rows]}
