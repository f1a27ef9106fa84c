"""The benchmark itself: honest kernels pass, each kind that cheats is caught. On a CPU, with the real protocol."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from minimodels.kernels.bench import Row, as_json, bench, best, implausible, work_of
from minimodels.kernels.case import Case
from minimodels.kernels.ceilings import Ceilings, measure_ceilings
from minimodels.kernels.operator import OPERATORS, Operator, every
from minimodels.kernels.protocol import CpuTimer, Trial, Way, rounding, trial
from tests.kernels.all_cases import LARGE, MODULES, SMALL, large, operator, small

NAME = "minimodels::temporal_attention"
SLOW = Ceilings(copy=1e3, l2_copy=1e3, matmul={"float32": 1e3}, launch=0.0, launches={}, l2_bytes=0)
FAST = Ceilings(copy=1e18, l2_copy=1e18, matmul={"float32": 1e21}, launch=0.0, launches={}, l2_bytes=0)


def _case(dtype: torch.dtype = torch.float32) -> Case:
    return Case.of(NAME, small(NAME, "odd everything", dtype))


def _trial(call: Callable[..., Any], case: Case | None = None) -> Trial:
    with torch.no_grad():
        case = case or _case()
        return trial(OPERATORS[case.operator], Way(call), case.make("cpu"), CpuTimer(1 << 16), 20)


def honest(*args: Any) -> Tensor:
    return OPERATORS[NAME].reference(*args)


def nothing(*args: Any) -> Tensor:
    return torch.empty_like(args[0])


class Cached:
    """Computes once and returns that ever after."""

    result: Tensor | None = None

    def __call__(self, *args: Any) -> Tensor:
        if self.result is None:
            self.result = honest(*args)
        return self.result


class OneBehind:
    """Returns the result of the call before."""

    result: Tensor | None = None

    def __call__(self, *args: Any) -> Tensor:
        before, self.result = self.result, honest(*args)
        return self.result if before is None else before


class OtherData:
    """Works on the first inputs it saw."""

    args: tuple[Any, ...] = ()

    def __call__(self, *args: Any) -> Tensor:
        self.args = self.args or tuple(x.clone() if isinstance(x, Tensor) else x for x in args)
        return honest(*self.args)


def half(*args: Any) -> Tensor:
    out = torch.empty_like(args[0])
    out[:1] = honest(*args)[:1]
    return out


def all_but_one_element(*args: Any) -> Tensor:
    out = honest(*args)
    out[-1, -1, -1, -1, -1] += 0.01
    return out


def zeros(*args: Any) -> Tensor:
    return torch.zeros_like(args[0])


def late(*args: Any) -> Tensor:
    """Returns before its work is done, as a kernel on another stream does."""
    out = torch.empty_like(args[0])
    values = [x.clone() if isinstance(x, Tensor) else x for x in args]

    def finish() -> None:
        time.sleep(0.02)
        out.copy_(honest(*values))

    threading.Thread(target=finish).start()
    return out


def wrong_shape(*args: Any) -> Tensor:
    return honest(*args)[:1]


def half_precision(*args: Any) -> Tensor:
    return honest(*(x.half() if isinstance(x, Tensor) else x for x in args)).float()


def spoils_inputs(*args: Any) -> Tensor:
    out = honest(*args)
    args[0].mul_(0.5)
    return out


def spoils_one_input_bit(*args: Any) -> Tensor:
    out = honest(*args)
    args[1].view(torch.int32)[-1, -1, -1, -1, -1] ^= 1
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_honest_kernel_passes(dtype: torch.dtype) -> None:
    found = _trial(honest, _case(dtype))
    assert found.wrong == () and found.runs == 20
    assert 0 < found.quartiles[0] <= found.median <= found.quartiles[1] and found.host > 0
    assert found.error is not None and found.error < 0.1


def test_a_kernel_that_keeps_its_result_buffer_but_fills_it_passes() -> None:
    kept = torch.empty_like(_case().make("cpu").args[0])
    assert _trial(lambda *args: kept.copy_(honest(*args))).wrong == ()


@pytest.mark.parametrize(
    "cheat",
    [nothing, Cached(), OneBehind(), OtherData(), half, all_but_one_element, zeros, late, wrong_shape, half_precision],
    ids=lambda cheat: getattr(cheat, "__name__", type(cheat).__name__),
)
def test_a_kernel_that_does_not_do_its_work_is_caught(cheat: Callable[..., Any]) -> None:
    found = _trial(cheat)
    assert any(reason.startswith(("off by", "results have shapes")) for reason in found.wrong), found


@pytest.mark.parametrize("cheat", [spoils_inputs, spoils_one_input_bit])
def test_a_kernel_that_writes_into_its_inputs_is_caught(cheat: Callable[..., Any]) -> None:
    assert "writes into its inputs" in _trial(cheat).wrong


def test_a_kernel_that_is_right_only_at_first_is_caught() -> None:
    calls = 0

    def tiring(*args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return honest(*args) if calls < 60 else nothing(*args)

    assert _trial(tiring).wrong


@pytest.mark.parametrize("written", [True, False])
def test_an_argument_that_is_to_be_written_is_judged_as_a_result(written: bool) -> None:
    def append(cache: Tensor, x: Tensor) -> Tensor:
        cache[1:2] = x
        return cache[:2].sum(0)

    def forget(cache: Tensor, x: Tensor) -> Tensor:
        return torch.stack([cache[0], x[0]]).sum(0)

    library = torch.library.Library("minimodels_test", "FRAGMENT")
    name = f"append_{written}"
    library.define(f"{name}(Tensor(a!) cache, Tensor x) -> Tensor")
    made = Operator(
        getattr(torch.ops.minimodels_test, name).default, lambda *a: (None, []), append, append,
        lambda *a: work_of(OPERATORS[NAME], _case()), False,
    )  # fmt: skip
    case = Case.of(name, (torch.zeros(3, 5), torch.zeros(1, 5)))
    with torch.no_grad():
        found = trial(made, Way(append if written else forget), case.make("cpu"), CpuTimer(1 << 12), 20)
    assert (found.wrong == ()) == written


def _unmask(seeded: bool) -> Case:
    """A first step: 5 of 31 rows of 700 logits, all masked."""
    tokens, logits = torch.zeros(2, 31, dtype=torch.int64), torch.zeros(2, 31, 700)
    given = (
        (None, None, torch.zeros((), dtype=torch.int64))
        if seeded
        else (torch.zeros_like(logits), logits[..., 0].clone(), None)
    )
    return Case.of("minimodels::unmask_step", (tokens, logits, *given, 700, 20, 1.0, 4.5))


@pytest.mark.parametrize("seeded", [True, False])
def test_a_step_that_draws_one_token_wrong_of_many_is_caught(seeded: bool) -> None:
    known = OPERATORS["minimodels::unmask_step"]

    def off(*args: Any) -> Tensor:
        out = known.call(*args)
        out[0, :4] = torch.where(out[0, :4] == 700, 0, 700)
        return out

    assert _trial(known.call, _unmask(seeded)).wrong == ()
    assert _trial(off, _unmask(seeded)).wrong
    assert _trial(lambda tokens, *_: tokens.clone(), _unmask(seeded)).wrong, "contents are work: all is masked"


def test_torch_with_noise_of_its_own_is_no_cheat() -> None:
    rows = bench([_unmask(True)], CpuTimer(1 << 16), FAST, 20, lambda *_: None, compiled=False)
    assert {row.implementation: row.wrong for row in rows} == {"ours": (), "eager": ()}


def test_a_speed_beyond_the_ceilings_is_implausible() -> None:
    work = work_of(operator(NAME), _case())
    moved = work.bytes_read + work.bytes_written
    assert work.flops
    memory = replace(FAST, copy=moved / 1.0, l2_copy=moved / 0.1, l2_bytes=moved - 1)
    assert "copy ceiling" in (implausible(work, 0.9, "float32", memory) or "")
    assert implausible(work, 0.92, "float32", memory) is None
    assert implausible(work, 0.9, "float32", replace(memory, l2_bytes=moved)) is None, "what fits L2 is no cheat"
    tensor = replace(FAST, matmul={"float32": work.flops / 1.0})
    assert "matmul ceiling" in (implausible(work, 0.9, "float32", tensor) or "")


def test_a_float32_convolution_is_held_to_what_tf32_reaches_and_rounds_to() -> None:
    """Ours and cuDNN's multiply as TF32, several times as fast as a float32 product and 10 bits exact."""
    name = "minimodels::temporal_conv"
    work = work_of(operator(name), Case.of(name, small(name, next(iter(MODULES[name].SMALL)), torch.float32)))
    assert work.flops and work.product_type("bfloat16") == "bfloat16"
    ceilings = replace(FAST, matmul={"float32": work.flops / 4.0, "tf32": work.flops / 1.0})
    assert implausible(work, 1.0, "float32", ceilings) is None
    assert "matmul ceiling" in (implausible(work, 0.9, "float32", ceilings) or "")
    assert best(work, "float32", ceilings) == ("tensor", 1.0)
    made = {kind: small(name, next(iter(MODULES[name].SMALL)), kind) for kind in (torch.float32, torch.float16)}
    for kind, args in made.items():
        on_meta = [x if x is None else x.to("meta") for x in args]
        allowed = rounding(operator(name), on_meta, operator(name).call(*on_meta))
        assert allowed == (2**-9 if kind == torch.float32 else torch.finfo(kind).eps)
        assert rounding(operator(name), args, operator(name).call(*args)) == torch.finfo(kind).eps, "a CPU's are exact"
    assert rounding(operator(NAME), (), torch.empty(0, dtype=torch.float16, device="meta")) == 2**-10


def test_rows_say_what_bounds_a_call_and_how_near_it_comes() -> None:
    rows = bench([_case()], CpuTimer(1 << 16), FAST, 20, lambda *_: None, compiled=False)
    by = {row.implementation: row for row in rows}
    assert {"ours", "eager", "math"} <= set(by)
    ours = by["ours"]
    assert ours.bound == "memory" and ours.wrong == () and ours.percent and 0 < ours.percent < 100
    work = work_of(operator(NAME), _case())
    assert ours.seconds and ours.bandwidth == (work.bytes_read + work.bytes_written) / ours.seconds
    assert best(work, "float32", replace(FAST, launch=1.0)) == ("launch", 1.0)
    for pinned in ("efficient", "cudnn"):  # not on a CPU: said, not hidden
        assert by[pinned].seconds is None and by[pinned].note
    record = as_json(rows, FAST)
    assert json.loads(json.dumps(record))["rows"][0]["implementation"] == "ours"
    assert [Row(**row).operator for row in record["rows"]] == [NAME] * len(rows)


@pytest.mark.slow
def test_what_torch_compiles_is_compared_too() -> None:
    rows = bench([_case()], CpuTimer(1 << 16), FAST, 20, lambda *_: None)
    (compiled,) = [row for row in rows if row.implementation == "compile"]
    assert compiled.wrong == () and compiled.seconds


def test_a_row_too_fast_for_the_card_counts_for_nothing() -> None:
    (ours, *_) = bench([_case()], CpuTimer(1 << 16), SLOW, 20, lambda *_: None, compiled=False)
    assert ours.percent is None and "implausible" in ours.wrong[0]


def test_ceilings_are_measured_with_the_same_clock() -> None:
    found = measure_ceilings(CpuTimer(1 << 16), copy_bytes=1 << 20, matmul=64, runs=3)
    rates = [found.copy, found.l2_copy, *found.matmul.values(), found.launch, *found.launches.values()]
    assert all(0 < rate < float("inf") for rate in rates) and "tf32" in found.matmul
    assert not torch.backends.cuda.matmul.allow_tf32, "as it was"
    assert json.loads(json.dumps(asdict(found)))["l2_bytes"] == 1 << 16


@pytest.mark.parametrize(("name", "case"), SMALL)
def test_a_case_is_made_again_as_it_was(name: str, case: str) -> None:
    args = small(name, case, torch.float16)
    kept = Case.from_json(json.loads(json.dumps(Case.of(name, args).as_json())))
    assert kept == Case.of(name, args)
    made = kept.make("cpu")
    made.refill()
    for was, now in zip(args, made.args, strict=True):
        if not isinstance(was, Tensor):
            assert now == was
            continue
        assert (now.shape, now.stride(), now.dtype) == (was.shape, was.stride(), was.dtype)
        assert not now.is_floating_point() or now.isfinite().all()


@pytest.mark.parametrize(("name", "case"), SMALL)
def test_every_operator_can_be_benchmarked(name: str, case: str) -> None:
    found = _trial(operator(name).call, Case.of(name, small(name, case, torch.float32)))
    assert found.wrong == ()


@pytest.mark.parametrize(("name", "case"), LARGE)
def test_work_at_the_models_sizes_is_known_without_a_device(name: str, case: str) -> None:
    work = work_of(operator(name), Case.of(name, large(name, case)))
    assert work.bytes_read > 0 and work.bytes_written > 0


def test_tensors_of_one_storage_share_one_again() -> None:
    whole = torch.randn(2, 5, 3, 4, 8)
    q, k, v = whole.unbind(2)
    a, b, c = Case.of(NAME, (q, k, v)).make("cpu").args
    assert len({x.untyped_storage()._cdata for x in (a, b, c)}) == 1
    assert b.data_ptr() - a.data_ptr() == k.data_ptr() - q.data_ptr()
    repeated = Case.of(NAME, (torch.randn(1, 8).expand(5, 8),)).make("cpu")
    assert repeated.copy(torch.float64)[0].stride() == (0, 1)


def test_contents_change_with_every_draw() -> None:
    made = _case().make("cpu")
    made.refill()
    before = made.copy()
    made.refill()
    assert all(not torch.equal(a, b) for a, b in zip(made.args, before, strict=True) if isinstance(a, Tensor))


def test_every_module_of_kernels_is_found() -> None:
    assert set(every()) >= set(MODULES)
