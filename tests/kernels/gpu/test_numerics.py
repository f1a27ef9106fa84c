"""Every kernel on a GPU: as exact as torch in each type, equal to the bit when repeated, in a CUDA graph too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minimodels.kernels.case import copied, once
from minimodels.kernels.protocol import rounding
from tests.kernels.all_cases import SMALL, operator, small

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _outputs(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result or ())


def _on_gpu(args: tuple[Any, ...], dtype: torch.dtype | None = None) -> tuple[Any, ...]:
    """The arguments on the GPU, of the same strides, floats in `dtype` if given."""
    return tuple(copied(x, dtype, "cuda") if isinstance(x, Tensor) else x for x in args)


def _written(name: str, args: tuple[Any, ...]) -> list[Tensor]:
    """The arguments that an operator writes."""
    schema = operator(name).call._schema.arguments
    return [x for x, a in zip(args, schema, strict=False) if a.alias_info is not None and a.alias_info.is_write]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "case"), SMALL)
@torch.no_grad()
def test_kernel_is_as_exact_as_torch(name: str, case: str, dtype: str) -> None:
    known, args = operator(name), small(name, case, DTYPES[dtype])
    exact_args, eager_args, given = _on_gpu(args, torch.float64), _on_gpu(args), _on_gpu(args)
    exact = (*_outputs(known.reference(*exact_args)), *_written(name, exact_args))
    eager = (*_outputs(known.eager(*eager_args)), *_written(name, eager_args))
    found = (*_outputs(known.call(*given)), *_written(name, given))
    for ours, theirs, truth in zip(found, eager, exact, strict=True):
        if not ours.is_floating_point():
            assert torch.equal(ours, truth.to(ours.dtype))
            continue
        assert ours.isfinite().all()
        one_rounding = rounding(known, args, ours) * truth.abs().max().item()
        allowed = 2 * (theirs.double() - truth).abs().max().item() + one_rounding
        assert (ours.double() - truth).abs().max().item() <= allowed


@pytest.mark.parametrize(("name", "case"), SMALL)
@torch.no_grad()
def test_runs_are_equal_to_the_bit(name: str, case: str) -> None:
    args = small(name, case, torch.float16)
    first = None
    for _ in range(10):
        given = _on_gpu(args)
        found = (*_outputs(operator(name).call(*given)), *_written(name, given))
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True))


@pytest.mark.parametrize(("name", "case"), SMALL)
@torch.no_grad()
def test_a_cuda_graph_replays_the_kernel_on_new_contents(name: str, case: str) -> None:
    args = small(name, case, torch.float16)
    static = _on_gpu(args)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            operator(name).call(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _outputs(operator(name).call(*static))
    for scale in (1.0, 0.5):
        for into, x in zip(static, _on_gpu(args), strict=True):
            if isinstance(into, Tensor):
                once(into).copy_(once(x) * scale if x.is_floating_point() else once(x))
        expected = _outputs(operator(name).call(*_like(static)))
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def _like(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(copied(x) if isinstance(x, Tensor) else x for x in args)


@pytest.mark.parametrize(("name", "case"), SMALL)
@torch.no_grad()
def test_a_remembered_plan_launches_the_same(name: str, case: str) -> None:
    """The second and third call of one geometry go through the recipe, on other tensors."""
    args = small(name, case, torch.float16)
    results = []
    for _ in range(3):
        results.append(_outputs(operator(name).call(*_on_gpu(args))))
    assert all(torch.equal(a, b) for later in results[1:] for a, b in zip(later, results[0], strict=True))
