"""Independent evidence for the walk: what torch.profiler saw of real CPU runs, byte by byte.

The walk and a run share their Python, so agreement of operator lists proves little about what torch does inside an
operator. `evidence.observe` knows that: leaf matrix products, convolutions, copies and allocations. Where torch on
a CPU does what it would not on a GPU, a function below says so and computes it from the profiler's shapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from itertools import accumulate
from math import prod
from typing import Any

import pytest
import torch
from torch import nn
from torch._C._autograd import _KinetoEvent
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from minimodels.kernels.backend import attention_backend
from minimodels.kernels.scope import CORE, KV_CACHE, STAGE, TRACER, AttentionCall, label, scope
from minimodels.loader import load, names
from minimodels.pipelines import example_input, generate
from minimodels.run import build
from minimodels.sim.call import Call
from minimodels.sim.formulas import operator
from minimodels.sim.profiler import Executed, attention_backend_of
from minimodels.sim.trace import Walk
from minimodels.sim.traffic import tensors_in
from tests.sim.evidence import Gemm, Operator, observe, plain_cpu

TINY = [name for name in names() if name.endswith("-tiny")]
BASELINE_TOO = ("llama-tiny", "muse-tiny", "phenaki-tiny")  # with one sample; all others: make test-all
QUICK = {*((name, 2, "sdpa") for name in TINY), *((name, 1, "baseline") for name in BASELINE_TOO)}


def run_of(name: str, batch: int, attention: str) -> Any:
    """A run of a tiny config as a parameter; tests/conftest.py gives all tests of one run to one worker."""
    quick = (name, batch, attention) in QUICK
    return pytest.param(name, batch, attention, marks=() if quick else pytest.mark.slow)


RUNS = [run_of(name, batch, attention) for name in TINY for batch in (1, 2) for attention in ("sdpa", "baseline")]
pytestmark = [
    pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN"),  # said on turning oneDNN off
    pytest.mark.skipif(
        not hasattr(_KinetoEvent, "structured_input_strides"),
        reason="this torch's profiler does not hand out strides; 2.13 does",
    ),
]
every_run = pytest.mark.parametrize(("name", "batch", "attention"), RUNS)
FLOAT, INDEX = 4, 8  # bytes


@cache
def parts_of(name: str) -> nn.ModuleDict:
    return build(load(name), "meta")


@cache
def walked(name: str, batch: int, attention: str, full: bool = True, memoise: bool = True) -> list[Call]:
    """The calls of a walk for the CPU, views included, bytes not rounded."""
    config, parts = load(name), parts_of(name)
    tokens = example_input(config, batch, "meta")
    walk = Walk(parts, rounding=1, full=full, keep_views=True, memoise=memoise)
    with attention_backend(attention, "cpu"), torch.inference_mode(), walk:
        walk.hold(tokens)
        generate(config, parts, tokens)
    return walk.calls


def pairs(name: str, batch: int, attention: str) -> list[tuple[Operator, Call]]:
    """Each operator of the run beside that of the walk; a batch whose copies views avoid has fewer of them."""
    seen, calls = observe(name, batch, attention), walked(name, batch, attention)
    assert [op.name for op in seen] == [call.name for call in calls]
    return list(zip(seen, calls, strict=True))


# What a CPU does and a GPU does not.


def gemms_of_math_attention(op: Operator) -> list[Gemm]:
    """Where grouped keys rule out the fused kernel of a CPU, attention is two products."""
    q, k, v = op.shapes[:3]
    batch, n, m = prod(q[:-2]), q[-2], k[-2]
    return [(batch, n, m, q[-1]), (batch, n, v[-1], m)]


def copies_of_math_attention(op: Operator, causal: bool) -> list[int]:
    """There, a q whose heads do not view as one dimension with the batch is copied; a causal mask is cut from ones."""
    (b, heads, n, _), (outer, inner, *_) = op.shapes[0], op.strides[0]
    joins = b == 1 or heads == 1 or outer == heads * inner
    mask = [n * op.shapes[1][-2]] if causal else []
    return mask if joins else [prod(op.shapes[0]) * FLOAT, *mask]


def copy_of_bias(op: Operator, result: int) -> list[int]:
    """A product or convolution with a bias begins by copying the bias to every row of its result."""
    return [result * FLOAT] if len(op.shapes) > 2 and op.shapes[2] else []


def copy_of_index(op: Operator) -> list[int]:
    """An embedding takes its token numbers from consecutive addresses; a view of a column is copied first."""
    sizes = [(size, stride) for size, stride in zip(op.shapes[1], op.strides[1], strict=True) if size != 1]
    return [prod(op.shapes[1]) * INDEX] if len(sizes) == 1 and sizes[0][1] != 1 else []


def copies_of_groups(op: Operator, result: int) -> list[int]:
    """A CPU convolves group after group, each on a copy of its channels, and joins the results; a GPU has kernels."""
    ((groups, *_),) = op.convolutions
    if groups == 1:
        return []
    return [result] if op.shapes[0][0] == 1 else [prod(op.shapes[0]) * FLOAT, result]


def columns(op: Operator) -> int:
    """A convolution unfolds its input: every tap of every pixel, unless it is 1x1 with nothing to unfold."""
    return sum(
        groups * pixels * taps * FLOAT for groups, pixels, _, taps in op.convolutions if prod(op.shapes[1][2:]) > 1
    )


def contiguous(shape: list[int], strides: list[int]) -> bool:
    """Whether a tensor of these sizes and strides lies without gaps in the order of its dimensions."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def copies_of_cpu(op: Operator, call: Call) -> list[int]:
    """The copies in an operator that only a CPU makes."""
    if op.name == "linear" and len(op.shapes[0]) > 2 and not contiguous(op.shapes[0], op.strides[0]):
        return []  # a matrix product, and the bias added afterwards
    if op.name in ("linear", "addmm"):
        return copy_of_bias(op, sum(m * n for _, m, n, _ in op.gemms))
    if op.convolutions:
        result = call.work.bytes_written - call.work.workspace
        return copy_of_bias(op, result // FLOAT) + copies_of_groups(op, result)
    if op.name == "embedding":
        return copy_of_index(op)
    if op.name in ("upsample_nearest2d", "upsample_bilinear2d"):
        # computed channels-last: there with the input, there and back with the result; the walk may copy the input too
        result = call.work.bytes_written - call.work.workspace
        return [prod(op.shapes[0]) * FLOAT - call.work.workspace, result, result]
    if op.name == "scaled_dot_product_attention" and len(op.shapes) > 3 and op.shapes[3] and op.strides[3][-1] != 1:
        return [prod(op.shapes[3]) * FLOAT]  # a fused kernel takes a bias with contiguous rows only
    if _is_math(call):
        assert call.attention is not None
        return copies_of_math_attention(op, call.attention.causal)
    return []


def _is_math(call: Call) -> bool:
    return call.work.kernel == "math"


# What the walk predicts.


def gemms(op: Operator, call: Call) -> list[Gemm]:
    if _is_math(call):
        return gemms_of_math_attention(op)
    return [call.work.gemm] if call.work.kernel == "gemm" and call.work.gemm else []


def copied(call: Call) -> int:
    """Bytes written by copies: all that a copy writes, else those of the launches before an operator's own."""
    work = call.work
    if work.kernel == "copy":
        return work.bytes_written
    if work.launches == 1 or work.kernel in ("none", "attention", "math"):
        return 0
    if call.name in ("masked_fill", "sort", "argsort"):  # the copy becomes the result
        return work.bytes_written // 2
    return prod(call.shapes[0]) * FLOAT if work.kernel == "norm" else work.workspace


def allocated(run: Callable[[], object]) -> int:
    """The most bytes that `run` held at once on a CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        run()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events: list[Any] = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def difference(found: Counter[Any], expected: Counter[Any]) -> tuple[dict[Any, int], dict[Any, int]]:
    """What the run has and the walk has not, and the other way round."""
    return dict(found - expected), dict(expected - found)


@every_run
def test_matrix_products_are_the_walked_ones(name: str, batch: int, attention: str) -> None:
    found = [(op.name, gemm) for op, _ in pairs(name, batch, attention) for gemm in op.gemms]
    expected = [(call.name, gemm) for op, call in pairs(name, batch, attention) for gemm in gemms(op, call)]
    assert difference(Counter(found), Counter(expected)) == ({}, {})
    assert found == expected != []


@every_run
def test_convolutions_are_the_walked_ones(name: str, batch: int, attention: str) -> None:
    both = pairs(name, batch, attention)
    found = [convolution for op, _ in both for convolution in op.convolutions]
    assert found == [call.work.gemm for _, call in both if call.work.kernel == "conv"]


@every_run
def test_copies_are_the_walked_ones_and_the_known_ones_of_a_cpu(name: str, batch: int, attention: str) -> None:
    both = pairs(name, batch, attention)
    found = Counter((op.name, sum(op.copies)) for op, _ in both if op.copies)
    expected = Counter((op.name, copied(call) + sum(copies_of_cpu(op, call))) for op, call in both)
    expected = Counter({key: count for key, count in expected.items() if key[1]})
    assert difference(found, expected) == ({}, {})
    assert found


@every_run
def test_peak_memory_of_every_stage_is_within_5_percent(name: str, batch: int, attention: str) -> None:
    found: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for op, call in pairs(name, batch, attention):
        assert op.stage == call.stage
        found[op.stage] = max(found[op.stage], op.peak)
        expected[op.stage] = max(expected[op.stage], call.live + columns(op))
    assert {stage: found[stage] / expected[stage] for stage in found} == pytest.approx(
        dict.fromkeys(found, 1), abs=0.05
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "m", "causal"), [(128, 512, False), (512, 128, False), (16, 16, False), (256, 256, True)]
)
def test_the_workspace_of_unfused_attention_is_that_of_a_cpu(dtype: torch.dtype, n: int, m: int, causal: bool) -> None:
    def attend(device: str) -> None:
        q, k = (torch.empty(2, 3, length, 72, dtype=dtype, device=device) for length in (n, m))
        torch.nn.functional.scaled_dot_product_attention(q, k, k, is_causal=causal)

    walk, core = Walk(), AttentionCall("math", 2, n, m, 3, 3, 72, causal, False)
    with torch.inference_mode(), walk, scope(CORE, "math", core):
        attend("meta")
    expected = walk.calls[-1].work.workspace + 2 * 3 * n * 72 * dtype.itemsize
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), plain_cpu():
        found = allocated(lambda: attend("cpu")) - 2 * 3 * (n + m) * 72 * dtype.itemsize
    assert found == pytest.approx(expected, rel=0.01)  # a flag per row, for rows that see nothing


@every_run
def test_the_attention_kernel_is_the_walked_one(name: str, batch: int, attention: str) -> None:
    for op, call in pairs(name, batch, attention):
        ran = attention_backend_of(Executed(op.name, 0, 0, op.inside))
        if ran is not None:
            assert call.attention is not None
            assert ran == call.attention.backend


class Recorder(TorchDispatchMode):
    """Lists the operators of a real run: name, shapes of the tensors they take, stage, scope."""

    clocks = False

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[str, tuple[tuple[int, ...], ...], str, str]] = []
        self._stage, self._path = "run", ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        shapes = tuple(tuple(x.shape) for x in tensors_in((*args, *kwargs.values())))
        self.operators.append((operator(func), shapes, self._stage, self._path))
        return func(*args, **kwargs)

    def scope(self, kind: str, name: str, call: AttentionCall | None) -> AbstractContextManager[object]:
        return self._scope(kind, name)

    @contextmanager
    def _scope(self, kind: str, name: str) -> Iterator[None]:
        before = self._stage, self._path
        if kind == STAGE:
            self._stage, self._path = name, ""
        elif kind != KV_CACHE:
            self._path = "/".join(filter(None, (self._path, label(kind, name))))
        yield
        self._stage, self._path = before

    def loop(self, name: str, n: int, growth: str) -> Iterator[int]:
        return iter(range(n))


@every_run
def test_a_real_run_lists_the_walked_operators(name: str, batch: int, attention: str) -> None:
    config = load(name)
    parts, tokens, recorder = build(config, "cpu"), example_input(config, batch, "cpu"), Recorder()
    token = TRACER.set(recorder)
    try:
        with plain_cpu(), attention_backend(attention), torch.inference_mode(), recorder:
            generate(config, parts, tokens)
    finally:
        TRACER.reset(token)
    calls = walked(name, batch, attention)
    found = [(*op[:1], *op[2:], op[1]) for op in recorder.operators]
    expected = [(call.name, call.stage, call.scope, call.shapes) for call in calls]
    for op, call in zip(found, expected, strict=True):
        assert op == call
    assert any(label(CORE, "") in path for *_, path, _ in found)


@pytest.mark.parametrize("name", [*TINY, pytest.param("parti-350m", marks=pytest.mark.slow)])
@pytest.mark.parametrize("attention", ("sdpa", pytest.param("baseline", marks=pytest.mark.slow)))
def test_a_walk_with_memory_records_what_one_without_does(name: str, attention: str) -> None:
    assert walked(name, 2, attention, False, True) == walked(name, 2, attention, False, False)
