"""Plans remembered: a call like an earlier one allocates and launches without planning anew.

Planning in Python takes longer than a small kernel runs. But a plan reads shapes, strides, dtypes and plain numbers
alone, so all it comes to can be kept by these: what to allocate, which compiled kernels to launch on which grids,
and where in their arguments the addresses of inputs, results and workspaces stand. Addresses enter the key by their
remainder to 16 bytes, which is what Triton specialises on.

While a plan is learnt its operators are watched. One that does more than allocate and look at its inputs (a copy,
say, or a zeroed workspace) cannot be remembered and is planned at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minimodels.kernels.launch import Launch, device_of, launch_compiled, run, watched

ALLOCATE = ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")
MOST = 8192  # plans kept of an operator; a decoder that never sees the same cache length twice must not fill memory

Plan = Callable[..., tuple[Any, Sequence[Launch]]]


@dataclass(frozen=True, slots=True)
class Step:
    """One launch: values of all its parameters, and which of them are addresses: (place, tensor, offset in bytes)."""

    grid: tuple[int, int, int]
    values: tuple[Any, ...]
    addresses: tuple[tuple[int, int, int], ...]


@dataclass(slots=True)
class Recipe:
    """What a call comes to. Tensors are numbered: the call's arguments by their place, then what is allocated."""

    device: int | None
    allocations: tuple[tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device], ...]
    results: tuple[int, ...]
    single: bool  # the result is a tensor, not a tuple
    steps: tuple[Step, ...]
    compiled: list[Any] = field(default_factory=list)

    def bind(self, args: Sequence[Any], addresses: list[int]) -> tuple[Any, list[list[Any]]]:
        """The result for `args`, whose addresses are given, and the values of each step's parameters."""
        made = [torch.empty_strided(size, stride, dtype=d, device=at) for size, stride, d, at in self.allocations]
        addresses += [x.data_ptr() for x in made]
        bound = []
        for step in self.steps:
            values = list(step.values)
            for place, number, offset in step.addresses:
                values[place] = addresses[number] + offset
            bound.append(values)
        given = len(args)
        results = [made[number - given] if number >= given else args[number] for number in self.results]
        return results[0] if self.single else tuple(results) if results else None, bound

    def launch(self, bound: Sequence[Sequence[Any]]) -> None:
        """Launch every step on the current stream of the device, which is the current one."""
        for compiled, step, values in zip(self.compiled, self.steps, bound, strict=True):
            launch_compiled(compiled, self.device or 0, step.grid, values)


class Remembered:
    """An operator's implementation on a GPU: its plan run, or the recipe of an equal call."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._recipes: dict[tuple[Any, ...], Recipe] = {}

    def __call__(self, *args: Any) -> Any:
        key, addresses = call_key(args)
        recipe = self._recipes.get(key)
        if recipe is None or watched():
            return self._first(key, args)
        result, bound = recipe.bind(args, addresses)
        if torch._C._cuda_getDevice() == recipe.device:
            recipe.launch(bound)
        else:
            with torch.cuda.device(recipe.device):
                recipe.launch(bound)
        return result

    def _first(self, key: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
        result, launches, recipe = learn(self._plan, args)
        compiled = [run(launch) for launch in launches]
        if recipe is not None:
            recipe.compiled = compiled
            if len(self._recipes) >= MOST:
                self._recipes.clear()
            self._recipes[key] = recipe
        return result


def call_key(args: Sequence[Any]) -> tuple[tuple[Any, ...], list[int]]:
    """What of a call a plan and Triton read, and the addresses of its tensors (0 for other arguments)."""
    key: list[Any] = []
    addresses = []
    for x in args:
        if isinstance(x, Tensor):
            address = x.data_ptr()
            addresses.append(address)
            key += (x.dtype, x.shape, x.stride(), x.get_device(), address % 16)
        else:
            addresses.append(0)
            key.append(x)
    return tuple(key), addresses


def learn(plan: Plan, args: Sequence[Any]) -> tuple[Any, Sequence[Launch], Recipe | None]:
    """A plan's result and launches, and what to remember of it: None if it cannot be repeated."""
    with _Watch(args) as watch:
        result, launches = plan(*args)
    results = (result,) if isinstance(result, Tensor) else tuple(result or ())
    numbers = [watch.place(x) for x in results]
    steps = [_step(launch, watch) for launch in launches]
    if not launches or not watch.repeatable or None in steps or any(at is None or at[1] for at in numbers):
        return result, launches, None
    if any(_geometry(x) != _geometry(watch.tensors[at[0]]) for x, at in zip(results, numbers, strict=True) if at):
        return result, launches, None
    allocations = tuple(_geometry(x) for x in watch.made)
    given = tuple(at[0] for at in numbers if at is not None)
    recipe = Recipe(device_of(launches[0]).index, allocations, given, isinstance(result, Tensor), tuple(steps))  # type: ignore[arg-type]
    return result, launches, recipe


def _step(launch: Launch, watch: _Watch) -> Step | None:
    addresses = []
    for place, value in enumerate(launch.args):
        if isinstance(value, Tensor):
            at = watch.place(value)
            if at is None:
                return None
            addresses.append((place, *at))
    plain = (None if isinstance(value, Tensor) else value for value in launch.args)
    return Step(launch.grid, (*plain, *launch.constants.values()), tuple(addresses))


class _Watch(TorchDispatchMode):
    """Follows which tensor of a plan lies where in which argument or allocation."""

    def __init__(self, args: Sequence[Any]) -> None:
        super().__init__()
        self.tensors: list[Any] = list(args)
        self.made: list[Tensor] = []
        self._numbers = {id(x): number for number, x in enumerate(args) if isinstance(x, Tensor)}
        # One tensor given twice: which of the two a launch means cannot be told.
        self.repeatable = len(self._numbers) == sum(isinstance(x, Tensor) for x in args)
        self._alive: list[Tensor] = []  # an id is taken again once its tensor is gone

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch's wrapper would import all of Dynamo (2 s)

    def place(self, x: Tensor) -> tuple[int, int] | None:
        """The number of the tensor that x lies in, and how many bytes behind its start."""
        number = self._numbers.get(id(x))
        return None if number is None else (number, x.data_ptr() - self.tensors[number].data_ptr())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._alive += [x for x in (out, *args) if isinstance(x, Tensor)]
        if func.overloadpacket.__name__ in ALLOCATE:
            self._numbers[id(out)] = len(self.tensors)
            self.tensors.append(out)
            self.made.append(out)
        elif isinstance(out, Tensor) and args and isinstance(args[0], Tensor) and _shares(out, args[0]):
            number = self._numbers.get(id(args[0]))
            if number is not None and not func._schema.is_mutable:
                self._numbers.setdefault(id(out), number)
            else:
                self.repeatable = False
        elif not isinstance(out, Tensor | tuple | list) and not func._schema.is_mutable:
            pass  # a number read from sizes
        else:
            self.repeatable = False
        return out


def _geometry(x: Tensor) -> tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]:
    return x.shape, x.stride(), x.dtype, x.device


def _shares(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata
