"""Every operator of ours as torch sees it: shapes, FLOPs, compilation, gradients. On a CPU the reference runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from minimodels.kernels.case import copied
from minimodels.kernels.operator import OPERATORS
from tests.kernels.all_cases import MODULES, SMALL, SOME, operator, small


def _outputs(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result or ())


def _copied(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Fresh arguments of the same strides: an operator may write into some."""
    return tuple(copied(x) if isinstance(x, Tensor) else x for x in args)


@pytest.mark.parametrize(("name", "case"), SOME)
def test_torch_accepts_the_registration(name: str, case: str) -> None:
    args = small(name, case, torch.float32)
    torch.library.opcheck(operator(name).call, args)
    if operator(name).trains:
        fixed = getattr(MODULES[name], "UNTRAINED", ())
        asked = [
            x.detach().requires_grad_() if i not in fixed and isinstance(x, Tensor) and x.is_floating_point() else x
            for i, x in enumerate(args)
        ]
        torch.library.opcheck(operator(name).call, tuple(asked))


@pytest.mark.parametrize(("name", "case"), SMALL)
def test_meta_results_lie_in_memory_as_real_ones(name: str, case: str) -> None:
    args = small(name, case, torch.float16)
    on_meta = tuple(
        torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta") if isinstance(x, Tensor) else x
        for x in args
    )
    planned, _ = operator(name).plan(*on_meta)
    for real, meta, plan in zip(
        _outputs(operator(name).call(*_copied(args))), _outputs(operator(name).call(*on_meta)), _outputs(planned),
        strict=True,
    ):  # fmt: skip
        assert (real.shape, real.dtype) == (meta.shape, meta.dtype) == (plan.shape, plan.dtype)
        assert real.stride() == meta.stride() == plan.stride()


@pytest.mark.parametrize(("name", "case"), SMALL)
def test_eager_and_reference_agree(name: str, case: str) -> None:
    args = small(name, case, torch.float64)
    ours, eager = (_outputs(f(*_copied(args))) for f in (operator(name).reference, operator(name).eager))
    for a, b in zip(ours, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # eager norms compute in float32 somewhere


@pytest.mark.parametrize(("name", "case"), SMALL)
def test_flop_counter_counts_what_the_formula_says(name: str, case: str) -> None:
    args = small(name, case, torch.float32)
    with FlopCounterMode(display=False) as counter:
        result = operator(name).call(*_copied(args))
    assert counter.get_total_flops() == operator(name).work(args, {}, _outputs(result)).flops


@pytest.mark.parametrize(("name", "case"), SOME)
def test_the_operator_compiles_whole(name: str, case: str) -> None:
    torch._dynamo.reset()
    args = small(name, case, torch.float32)
    compiled = torch.compile(lambda *given: operator(name).call(*given), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for a, b in zip(_outputs(compiled(*_copied(args))), _outputs(operator(name).call(*_copied(args))), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "case"), SMALL)
def test_a_gradient_is_right_or_refused(name: str, case: str) -> None:
    args = small(name, case, torch.float64 if operator(name).trains else torch.float32)
    if operator(name).trains:
        fixed = getattr(MODULES[name], "UNTRAINED", ())
        wanted = [i for i, x in enumerate(args) if i not in fixed and isinstance(x, Tensor) and x.is_floating_point()]
        inputs = [x.detach().requires_grad_() if index in wanted else x for index, x in enumerate(args)]
        outputs, expected = _outputs(operator(name).call(*inputs)), _outputs(operator(name).reference(*inputs))
        seeds = [torch.randn_like(output) for output in outputs]
        differentiable = [inputs[index] for index in wanted]
        ours = torch.autograd.grad(outputs, differentiable, seeds, allow_unused=True)
        theirs = torch.autograd.grad(expected, differentiable, seeds, allow_unused=True)
        for a, b in zip(ours, theirs, strict=True):
            if a is not None or b is not None and b.abs().max() > 0:
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    else:
        at = next(i for i, x in enumerate(args) if isinstance(x, Tensor) and x.is_floating_point())
        with pytest.raises(RuntimeError, match="has no gradient"):
            operator(name).call(*args[:at], args[at].detach().requires_grad_(), *args[at + 1 :])


def test_every_operator_has_cases() -> None:
    assert {name for name, _ in SMALL} == set(OPERATORS)
