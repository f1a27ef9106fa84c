"""How a kernel is timed, and how one that cheats is caught.

One trial of a call: warm up; then at least 20 times draw new contents into its inputs, spoil the memory that results
will be given, flush the L2 cache, and time the call alone. Some timed calls, drawn by lot, and always the last, are
judged: the results as they are the moment the call ends, against the reference in float64 on the very inputs.

- A kernel that does nothing, or only part, leaves spoiled memory in its result.
- One that returns an earlier result, or works on other data, is wrong: contents change with every call.
- One that still runs when the call has ended is wrong: results are copied behind the call, before anything waits.
- One that writes into inputs its schema does not declare as written is told by their comparison.

A result may be off by twice what torch's own operators are off in the same precision, and one rounding (`rounding`:
of a convolution in float32, which a GPU multiplies as TF32, that of a product of such numbers). Integers may
be off by what the reference is in that precision, and one in a thousand. Where noise is drawn from a seed, torch's
operators draw other noise: they (`alike` is false) are held to the shapes alone.

A `Timer` is the clock: CUDA events on a GPU, the process's clock on a CPU, where the same protocol runs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Protocol

import torch
from torch import Tensor

from minimodels.kernels.case import Arguments, copied
from minimodels.kernels.operator import Benched

WARMUPS = 3
TF32 = 2.0**-10  # a number cut to 10 bits is off by at most this share of it
JUDGED = 3  # timed calls of a trial
HOST_CALLS = 50


class Timer(Protocol):
    """A clock for calls on one device."""

    device: torch.device
    l2_bytes: int

    def flush(self) -> None:
        """Leave nothing of the inputs in the L2 cache."""
        ...

    def once(self, call: Callable[[], Any], after: Callable[[Any], None]) -> float:
        """Seconds of one call on the device; `after` gets its result behind it, not timed."""
        ...

    def host(self, call: Callable[[], Any], calls: int) -> float:
        """Seconds of host time of one call among many that nobody waits for."""
        ...


class CudaTimer:
    """CUDA events. The device is kept busy until the host has issued the call, so that host time is not measured."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.l2_bytes = torch.cuda.get_device_properties(self.device).L2_cache_size
        self._flushed, self._clean = torch.empty(
            2, max(256 << 20, 4 * self.l2_bytes) // 8, dtype=torch.int64, device=self.device
        ).zero_()
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._busy = 0

    def flush(self) -> None:
        """Leave the L2 cache full of what nobody asks for, and none of it to be written back while a call is timed."""
        self._flushed.zero_()
        self._clean.max()

    def once(self, call: Callable[[], Any], after: Callable[[Any], None]) -> float:
        torch.cuda._sleep(self._busy)
        self._start.record()
        result = call()
        self._end.record()
        after(result)
        torch.cuda.synchronize(self.device)
        return self._start.elapsed_time(self._end) / 1e3

    def host(self, call: Callable[[], Any], calls: int) -> float:
        torch.cuda.synchronize(self.device)
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        seconds = (time.perf_counter() - begin) / calls
        torch.cuda.synchronize(self.device)
        self._busy = min(int(2 * seconds * 2e9), 1 << 30)  # cycles: twice the host's time at 2 GHz
        return seconds


class CpuTimer:
    """The process's clock; on a CPU a call has ended when it returns."""

    device = torch.device("cpu")

    def __init__(self, l2_bytes: int = 4 << 20) -> None:
        self.l2_bytes = l2_bytes
        self._flushed = torch.empty(4 * l2_bytes, dtype=torch.uint8)

    def flush(self) -> None:
        self._flushed.zero_()

    def once(self, call: Callable[[], Any], after: Callable[[Any], None]) -> float:
        begin = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - begin
        after(result)
        return seconds

    def host(self, call: Callable[[], Any], calls: int) -> float:
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - begin) / calls


def _as_given(*args: Any) -> tuple[Any, ...]:
    return args


def _as_returned(result: Any) -> Any:
    return result


@dataclass(frozen=True, slots=True)
class Way:
    """A way to do a call of an operator: only `call` is timed.

    arrange: what `call` takes, of the operator's arguments: another layout, weights prepared. restore: the operator's
    results, of what `call` returns. Layouts that are views of one another cost nothing, so most need neither.
    """

    call: Callable[..., Any]
    arrange: Callable[..., tuple[Any, ...]] = _as_given
    restore: Callable[[Any], Any] = _as_returned


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of timing one implementation: seconds; `error` and that of torch's operators, largest difference to
    float64; `wrong`: why its time counts for nothing."""

    median: float
    quartiles: tuple[float, float]
    runs: int
    host: float
    error: float | None
    eager_error: float | None
    wrong: tuple[str, ...]


class Judge:
    """Knows what a call of an operator on given arguments must come to."""

    def __init__(self, operator: Benched, arguments: Arguments, alike: bool) -> None:
        self._operator, self._arguments = operator, arguments
        schema = operator.schema.arguments
        seeded = any(a.name == "seed" and x is not None for a, x in zip(schema, arguments.args, strict=True))
        self._other_noise = seeded and not alike
        self._written = [a.alias_info is not None and a.alias_info.is_write for a in schema][: len(arguments.args)]
        self.before: tuple[Any, ...] = ()

    def prepare(self) -> None:
        """Remember the inputs of the call to come."""
        self.before = self._arguments.copy()

    def outputs(self, result: Any, args: Sequence[Any]) -> list[Tensor]:
        """All that a call made: its results and the arguments it is to write."""
        results = [result] if isinstance(result, Tensor) else list(result or ())
        return results + [x for x, written in zip(args, self._written, strict=True) if written and x is not None]

    def _apart(self, dtype: torch.dtype | None = None) -> tuple[Any, ...]:
        return tuple(copied(x, dtype) if isinstance(x, Tensor) else x for x in self.before)

    def verdict(self, found: Sequence[Tensor]) -> tuple[float, float, list[str]]:
        """Largest error of `found` and of torch's operators on the remembered inputs, and what is wrong."""
        exact_args, eager_args = self._apart(torch.float64), self._apart()
        exact = self.outputs(self._operator.reference(*exact_args), exact_args)
        usual = self._operator.eager if exact[0].is_floating_point() else self._operator.reference
        eager = self.outputs(usual(*eager_args), eager_args)
        worst = eager_worst = 0.0
        wrong = []
        if [x.shape for x in found] != [x.shape for x in exact]:
            return float("inf"), 0.0, [f"results have shapes {[tuple(x.shape) for x in found]}"]
        if self._other_noise:
            return 0.0, 0.0, []
        for ours, theirs, truth in zip(found, eager, exact, strict=True):
            error, usual_error = _distance(ours, truth), _distance(theirs, truth)
            if not ours.is_floating_point():
                allowed = usual_error + 1e-3
            else:
                size = truth.nan_to_num(0, 0, 0).abs().max().item()
                allowed = 2 * usual_error + rounding(self._operator, self.before, ours) * size
            if not error <= allowed:
                wrong.append(f"off by {error:.2g} where {allowed:.2g} is allowed")
            worst, eager_worst = max(worst, error), max(eager_worst, usual_error)
        return worst, eager_worst, wrong

    def touched(self) -> bool:
        """Whether an argument that is only read has changed since `prepare`."""
        return any(
            isinstance(x, Tensor) and not written and not torch.equal(_bits(x), _bits(was))
            for x, was, written in zip(self._arguments.args, self.before, self._written, strict=True)
        )


def rounding(operator: Benched, args: Sequence[Any], result: Tensor) -> float:
    """What one rounding costs a floating-point result of an operator, in parts of it.

    Where products are taken as TF32, it is one of each factor: torch's may round them and Triton's cut them, and torch
    has kernels for small convolutions that do neither, so that twice its error would not do.
    """
    eps, dtype = torch.finfo(result.dtype).eps, str(result.dtype).removeprefix("torch.")
    on_gpu = result.device.type != "cpu"
    if on_gpu and operator.work(tuple(args), {}, (result,)).product_type(dtype) == "tf32":
        return max(eps, 2 * TF32)
    return eps


def _distance(found: Tensor, truth: Tensor) -> float:
    """The largest difference, NaNs in the same places being equal; of integers, the share that differs."""
    if found.numel() == 0:
        return 0.0
    if not found.is_floating_point():
        return (found != truth.to(found.dtype)).double().mean().item()
    away = torch.where(found.double() == truth, 0.0, (found.double() - truth).abs())
    return torch.where(found.isnan() & truth.isnan(), 0.0, away).nan_to_num(float("inf")).max().item()


def _bits(x: Tensor) -> Tensor:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x if not x.is_floating_point() else x.view(kinds[x.element_size()])


def trial(
    operator: Benched, way: Way, arguments: Arguments, timer: Timer, repeats: int = 20, alike: bool = True
) -> Trial:
    """Time `way`, an implementation of `operator`, on `arguments`; alike: a seed gives it the reference's noise."""
    judge, args, call = Judge(operator, arguments, alike), arguments.args, way.call
    arguments.refill()
    given = way.arrange(*args)
    for _ in range(WARMUPS):
        result = call(*given)
    spoil = [(x.shape, x.stride(), x.dtype) for x in ([result] if isinstance(result, Tensor) else result or ())]
    del result
    host = timer.host(lambda: call(*given), HOST_CALLS)
    judged = {*random.sample(range(repeats), min(JUDGED, repeats)), repeats - 1}
    seconds, wrong, error, eager_error = [], {}, 0.0, 0.0
    for number in range(repeats):
        arguments.refill()
        kept: list[Tensor] = []
        if number in judged:
            judge.prepare()
        given = way.arrange(*args)
        _spoil(spoil, timer.device)
        timer.flush()
        keep = number in judged

        def after(result: Any, kept: list[Tensor] = kept, keep: bool = keep) -> None:
            if keep:
                kept += [x.clone() for x in judge.outputs(way.restore(result), args)]

        seconds.append(timer.once(lambda given=given: call(*given), after))
        if keep:
            ours, theirs, reasons = judge.verdict(kept)
            error, eager_error = max(error, ours), max(eager_error, theirs)
            wrong |= dict.fromkeys([*reasons, *(["writes into its inputs"] if judge.touched() else [])])
    low, _, high = quantiles(seconds, n=4)
    return Trial(median(seconds), (low, high), repeats, host, error, eager_error, tuple(wrong))


def _spoil(shapes: Sequence[Any], device: torch.device) -> None:
    """Leave values that no kernel computes in the memory that an allocator will hand out next."""
    spoiled = [torch.empty_strided(shape, stride, dtype=dtype, device=device) for shape, stride, dtype in shapes]
    for x in spoiled:
        x.fill_(float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).max if x.dtype != torch.bool else True)
