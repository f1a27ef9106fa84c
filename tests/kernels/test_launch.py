"""The launcher: which compiled kernel a call takes, and plans remembered. Nothing here is launched."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minimodels.kernels import launch as launching
from minimodels.kernels.launch import Launch, device_of, specialisation, triton, watched
from minimodels.kernels.recipe import Recipe, Remembered, call_key, learn
from tests.kernels.all_cases import LARGE, SMALL, large, operator, small

needs_triton = pytest.mark.skipif(triton is None, reason="Triton is not installed")
EDGES = [0, 1, 2, 15, 16, 17, 32, (1 << 31) - 1, 1 << 31, (1 << 31) + 16, -1, -16, -(1 << 31), -(1 << 31) - 1,
         (1 << 32), (1 << 63) - 1, 1 << 63]  # fmt: skip
POOL = [torch.zeros(64, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool)]
TENSORS = [x[start:] for x in POOL for start in (0, 1, 4, 16)]
VALUES = st.one_of(
    st.sampled_from(EDGES), st.integers(-(1 << 63), (1 << 64) - 1), st.booleans(), st.floats(), st.none(),
    st.sampled_from(TENSORS),
)  # fmt: skip


def _launch(*args: Any, **constants: Any) -> Launch:
    return Launch(_launch, (1, 1, 1), args, constants)


@needs_triton
@pytest.mark.parametrize("backend", ["nvidia", "amd"])
@given(first=st.lists(VALUES, max_size=4), second=st.lists(VALUES, max_size=4))
def test_calls_of_one_key_are_one_specialisation_of_triton(backend: str, first: list[Any], second: list[Any]) -> None:
    assert _agree(backend, first, second)


@needs_triton
@pytest.mark.parametrize("backend", ["nvidia", "amd"])
def test_every_pair_of_awkward_values_has_a_key_as_triton_has(backend: str) -> None:
    values = [*EDGES, True, False, 1.0, 0.5, None, *TENSORS]
    for a in values:
        for b in values:
            assert _agree(backend, [a], [b]), (a, b)


def _agree(backend: str, first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether calls of one key of ours are one specialisation of Triton's."""
    from triton._C.libtriton import native_specialize_impl  # type: ignore[attr-defined]
    from triton.backends.amd.compiler import HIPBackend
    from triton.backends.nvidia.compiler import CUDABackend

    kind = CUDABackend if backend == "nvidia" else HIPBackend
    triton_keys = [[native_specialize_impl(kind, x, False, True, True) for x in args] for args in (first, second)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "HIP", backend == "amd")
        ours = [specialisation(_launch(*args)) for args in (first, second)]
    return ours[0] != ours[1] or triton_keys[0] == triton_keys[1]


def test_keys_tell_apart_constants_that_compare_equal() -> None:
    keys = {specialisation(_launch(N=1)), specialisation(_launch(N=True)), specialisation(_launch(N=1.0))}
    assert len(keys) == 3
    assert specialisation(_launch(N=16, M=32)) != specialisation(_launch(M=16, N=32))


@needs_triton
def test_a_compiled_kernel_is_called_as_triton_calls_it() -> None:
    from triton.backends.amd.driver import HIPLauncher
    from triton.backends.nvidia.driver import CudaLauncher
    from triton.runtime.jit import JITFunction

    source = "".join(inspect.getsource(JITFunction.run).split())
    leading = "grid_0,grid_1,grid_2,stream,kernel.function,kernel.packed_metadata,launch_metadata,"
    hooks = "knobs.runtime.launch_enter_hook,knobs.runtime.launch_exit_hook,*bound_args.values()"
    assert f"kernel.run({leading}{hooks})" in source
    for launcher in (CudaLauncher, HIPLauncher):
        inspect.signature(launcher.__call__).bind(None, 1, 1, 1, 0, 0, (), None, None, None, 7, None)


@needs_triton
def test_launches_are_watched_only_while_a_hook_is_set() -> None:
    from triton import knobs

    hooks = knobs.runtime

    def hook(metadata: Any) -> None:
        pass

    assert not watched()
    hooks.launch_exit_hook.add(hook)
    try:
        assert watched()
    finally:
        hooks.launch_exit_hook.remove(hook)


def test_tensors_of_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="one device"):
        device_of(_launch(torch.empty(1), torch.empty(1, device="meta"), None, 3))
    assert device_of(_launch(torch.empty(1), 2.0)) == torch.device("cpu")


def test_a_constant_out_of_place_is_an_error() -> None:
    class Kernel:
        arg_names = ("x", "N", "n")

    with pytest.raises(AssertionError, match="arguments come first"):
        launching._launch_plainly(Launch(Kernel(), (1, 1, 1), (torch.empty(1), 5), {"N": 16}))


def _fresh(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device) if isinstance(x, Tensor) else x
        for x in args
    )


def _tensors(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result or ())


def _bound(recipe: Recipe, args: Sequence[Any]) -> tuple[Any, list[tuple[Any, ...]]]:
    """The result for some arguments, and the values of each step's parameters."""
    values = call_key(args)[1]
    result = recipe.prepare(args, values)
    return result, [step.pick(values) for step in recipe.steps]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(("name", "case"), SMALL)
def test_a_remembered_plan_is_the_plan_of_other_tensors(name: str, case: str, mode: Any) -> None:
    with mode():
        _, launches, recipe = learn(operator(name).plan, _fresh(small(name, case, torch.float16)))
        assert isinstance(recipe, Recipe)
        args = _fresh(small(name, case, torch.float16))
        result, bound = _bound(recipe, args)
        planned, again = operator(name).plan(*args)
    for ours, theirs in zip(_tensors(result), _tensors(planned), strict=True):
        assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)
    assert [step.grid for step in recipe.steps] == [launch.grid for launch in again]
    known = {x.data_ptr() for x in args if isinstance(x, Tensor)}
    made = dict(zip((x.data_ptr() for x in _tensors(planned)), (x.data_ptr() for x in _tensors(result)), strict=True))
    for launch, values in zip(again, bound, strict=True):
        assert len(values) == len(launch.args) + len(launch.constants)
        for expected, value in zip((*launch.args, *launch.constants.values()), values, strict=True):
            if not isinstance(expected, Tensor):
                assert value == expected and type(value) is type(expected)
            elif expected.data_ptr() in known or expected.data_ptr() in made:
                assert value == made.get(expected.data_ptr(), expected.data_ptr())
    assert len(launches) == len(again)


@pytest.mark.parametrize(("name", "case"), LARGE)
def test_plans_at_the_models_sizes_can_be_remembered(name: str, case: str) -> None:
    assert learn(operator(name).plan, _fresh(large(name, case)))[2] is not None


def test_views_of_arguments_and_workspaces_are_found_again() -> None:
    def plan(x: Tensor, y: Tensor) -> tuple[Tensor, list[Launch]]:
        out, workspace = torch.empty_like(x), x.new_empty(3, 4)
        return out, [_launch(x[2:], y, workspace[1], out.flatten()[5:], 7, N=3)]

    whole = torch.zeros(40)
    args = whole[:20].view(4, 5), whole[20:]  # one storage, as a projection's q and k
    _, _, recipe = learn(plan, args)
    assert recipe is not None
    x, y = torch.zeros(4, 5), torch.zeros(20)
    out, ((a, b, c, d, seven, three),) = _bound(recipe, (x, y))
    assert (a, b, d) == (x.data_ptr() + 40, y.data_ptr(), out.data_ptr() + 20)
    assert c not in (a, b, d) and (seven, three) == (7, 3)


@pytest.mark.parametrize(
    "work", [lambda x: x.clone(), lambda x: torch.zeros(3), lambda x: x.add_(1), lambda x: x.sum()]
)
def test_a_plan_that_computes_is_not_remembered(work: Any) -> None:
    def plan(x: Tensor) -> tuple[Tensor, list[Launch]]:
        out = torch.empty_like(x)
        return out, [_launch(work(x), out)]

    assert learn(plan, (torch.zeros(3),))[2] is None


def test_one_tensor_given_twice_is_not_remembered_as_two() -> None:
    def plan(x: Tensor, y: Tensor) -> tuple[Tensor, list[Launch]]:
        out = torch.empty_like(x)
        return out, [_launch(x, y, out)]

    x = torch.zeros(3)
    assert learn(plan, (x, x))[2] is None
    assert learn(plan, (x, x.clone()))[2] is not None


def test_a_result_that_is_an_argument_is_returned_itself() -> None:
    def plan(x: Tensor, y: Tensor) -> tuple[tuple[Tensor, Tensor], list[Launch]]:
        out = torch.empty_like(y)
        return (x, out), [_launch(x, y, out)]

    _, _, recipe = learn(plan, (torch.zeros(3), torch.zeros(3)))
    assert recipe is not None
    x, y = torch.zeros(3), torch.zeros(3)
    assert _bound(recipe, (x, y))[0][0] is x


def test_a_kernel_of_one_parameter_is_given_one() -> None:
    """Picking one value of several gives no tuple."""
    _, _, recipe = learn(lambda x: (None, [_launch(x)]), (torch.zeros(3),))
    assert recipe is not None
    x = torch.zeros(3)
    assert _bound(recipe, (x,)) == (None, [(x.data_ptr(),)])


def test_calls_that_plan_differently_have_different_keys() -> None:
    x = torch.zeros(64)
    calls = [(x, 1), (x, 2), (x[1:33], 1), (x[4:36], 1), (x[::2], 1), (x.half(), 1), (x.view(8, 8), 1), (None, 1)]
    assert len({call_key(call)[0] for call in calls}) == len(calls)
    assert call_key((x, 1))[0] == call_key((torch.ones(64), 1))[0]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from minimodels.kernels import recipe as module

    monkeypatch.setattr(module, "MOST", 5)
    monkeypatch.setattr(module, "run", lambda launch: None)
    remembered = Remembered(lambda x: ((out := torch.empty_like(x)), [_launch(x, out)]))
    for length in range(1, 14):
        remembered._first(call_key((torch.zeros(length),))[0], (torch.zeros(length),))
        assert 1 <= len(remembered._recipes) <= 5
