"""Which steps of a loop are run in its place, and what each of them weighs.

For work affine in the step, the knots 0 = k0 < k1 < ... = n - 1 with weights (m + 1) / 2 to the left and
(m - 1) / 2 to the right end of each interval of m steps, plus 1 at the last step, give the exact sum over
all steps: weights are halves, so sums stay exact rationals. The first and the last step stand for themselves
alone: one key, or a full and hence contiguous cache, may take another kernel or spare a copy. Time is not
affine (tiles, waves, launches), so intervals are halved until the middle lies on the line between the ends.

A CUDA graph computes the same step whenever it is replayed. Where graphs are measured, a growing loop is therefore
cut into buckets of `BUCKET` steps: the last step of a bucket is captured and replayed for all of them. It reads what
the whole bucket holds; its FLOPs are counted for the keys that there are, on the bucket's average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from minimodels.sim.call import Call

TOLERANCE = 0.005  # of a step's time: the middle of an interval against the line between its ends
MAX_KNOTS = 17
BUCKET = 256  # steps of a growing loop, and so tokens of its cache, that one CUDA graph stands for


def weights(knots: Sequence[int]) -> list[float]:
    """The weight of each knot, for knots sorted from 0 to the last step."""
    result = [0.0] * len(knots)
    for index, (left, right) in enumerate(pairwise(knots)):
        result[index] += (right - left + 1) / 2
        result[index + 1] += (right - left - 1) / 2
    result[-1] += 1
    return result


def shares(knots: Sequence[int], n: int, growth: str) -> list[float]:
    """The weight of each of the steps `knots`, which are sorted, of a loop of n."""
    if len(knots) == n:
        return [1.0] * n
    return [float(n)] if growth == "constant" else weights(knots)


def buckets(n: int, growth: str, full: bool) -> dict[int, int]:
    """The steps of a loop of n that are captured as graphs, and how many steps each is replayed for."""
    if full or growth == "any":
        return dict.fromkeys(range(n), 1)
    if growth == "constant":
        return {0: n} if n else {}
    ends = [*range(BUCKET - 1, n - 1, BUCKET), n - 1] if n else []
    return {end: end - before for before, end in pairwise([-1, *ends])}


def visit(
    calls: list[Call],
    n: int,
    growth: str,
    estimate: Callable[[Sequence[Call]], float] | None,
    full: bool,
    graphs: bool = False,
    least: int = 0,
) -> Iterator[int]:
    """Yield the steps to run; what a step appends to `calls` is reordered and weighted when the loop ends.

    graphs: the steps are those of `buckets`; least: knots of a loop that grows, even where fewer tell its time.
    """
    begin = len(calls)
    segments: dict[int, list[Call]] = {}

    def run(step: int) -> Iterator[int]:
        start = len(calls)
        yield step
        segments[step] = calls[start:]
        for call in segments[step][:1]:
            call.starts = True

    replays = buckets(n, growth, full) if graphs else {}
    if graphs:
        plan: Iterator[int] = iter(replays)
    elif full or growth == "any" or n <= 2:
        plan = iter(range(n))
    elif growth == "constant":
        plan = iter((0,))
    else:
        plan = _refine(n, segments, estimate, least)
    for step in plan:
        yield from run(step)
    knots = sorted(segments)
    if not knots:
        return
    share = [float(replays[step]) for step in knots] if graphs else shares(knots, n, growth)
    del calls[begin:]
    for step, weight in zip(knots, share, strict=True):
        for call in segments[step]:
            call.weight *= weight
            call.growing = growth == "affine" and call.role in ("self", "joint")
            if graphs and call.growing:
                _count_useful(call, replays[step])
        calls.extend(segments[step])


def _count_useful(call: Call, steps: int) -> None:
    """Give a call at the end of a bucket of steps the mean FLOPs of the steps, in proportion to their keys."""
    facts, flops = call.attention, call.work.flops
    if facts is None or facts.query_length > 1 or not flops:
        return
    per_key, rest = divmod(flops, facts.key_length)
    assert not rest and per_key % 2 == 0, call
    call.work = replace(call.work, flops=per_key // 2 * (2 * facts.key_length - steps + 1))


def _refine(
    n: int, segments: dict[int, list[Call]], estimate: Callable[[Sequence[Call]], float] | None, least: int
) -> Iterator[int]:
    """The first and the last step, which may be special (one key, a full cache), and knots in between."""
    ends = [step for step in (1, n - 2) if 0 < step < n - 1]
    yield from (0, n - 1, *sorted(set(ends)))
    if estimate is None or len(set(ends)) < 2:
        return
    seconds = {step: estimate(segments[step]) for step in ends}
    queue = [(ends[0], ends[1])]
    while queue and len(segments) < max(MAX_KNOTS, least):
        left, right = queue.pop(0)
        middle = (left + right) // 2
        if middle in (left, right):
            continue
        yield middle
        seconds[middle] = estimate(segments[middle])
        line = seconds[left] + (seconds[right] - seconds[left]) * (middle - left) / (right - left)
        if len(segments) + len(queue) < least or abs(seconds[middle] - line) > TOLERANCE * seconds[middle]:
            queue += [(left, middle), (middle, right)]
