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
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo import guards  # of C++: all of Dynamo is not imported
from torch.utils._python_dispatch import TorchDispatchMode

from minimodels.kernels.launch import Launch, device_of, launch_compiled, run, stream_of, watched

ALLOCATE = ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")
MOST = 8192  # plans kept of an operator; a decoder that never sees the same cache length twice must not fill memory

Plan = Callable[..., tuple[Any, Sequence[Launch]]]


# What torch.compile's own code allocates with, in half the time of torch.empty_strided: on the current device.
QUICKLY = {"cuda": guards._empty_strided_cuda, "cpu": guards._empty_strided_cpu}  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Step:
    """One launch: its grid, and what picks the values of all its parameters (see `Recipe.prepare`)."""

    grid: tuple[int, int, int]
    pick: Callable[[Sequence[Any]], tuple[Any, ...]]


@dataclass(slots=True)
class Recipe:
    """What a call comes to. Tensors are numbered: the call's arguments by their place, then what is allocated.

    moved: addresses inside tensors, (tensor, offset in bytes); constants: every other parameter of the steps.
    """

    device: int | None
    allocations: tuple[Callable[[], Tensor], ...]
    results: tuple[int, ...]
    single: bool  # the result is a tensor, not a tuple
    moved: tuple[tuple[int, int], ...]
    constants: tuple[Any, ...]
    steps: tuple[Step, ...]
    compiled: list[Any] = field(default_factory=list)

    def prepare(self, args: Sequence[Any], values: list[Any]) -> Any:
        """Allocate, on the current device, and return the result; `values`, the addresses of `args`, is completed.

        Then it is what each step picks from: addresses of arguments, of what is allocated, inside those, constants.
        """
        made = []
        for allocate in self.allocations:
            x = allocate()
            made.append(x)
            values.append(x.data_ptr())
        for number, offset in self.moved:
            values.append(values[number] + offset)
        values += self.constants
        given = len(args)
        if self.single:
            number = self.results[0]
            return made[number - given] if number >= given else args[number]
        return tuple(made[n - given] if n >= given else args[n] for n in self.results) or None

    def run(self, args: Sequence[Any], values: list[Any]) -> Any:
        """Allocate, and launch every step on the current stream of the device, which is the current one."""
        result, stream = self.prepare(args, values), stream_of(self.device or 0)
        for compiled, step in zip(self.compiled, self.steps, strict=True):
            launch_compiled(compiled, stream, step.grid, step.pick(values))
        return result


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
        if torch._C._cuda_getDevice() == recipe.device:
            return recipe.run(args, addresses)
        with torch.cuda.device(recipe.device):
            return recipe.run(args, addresses)

    def _first(self, key: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
        result, launches, recipe = learn(self._plan, args)
        compiled = [run(launch) for launch in launches]
        if recipe is not None:
            recipe.compiled = compiled
            if len(self._recipes) >= MOST:
                self._recipes.clear()
            self._recipes[key] = recipe
        return result


def call_key(args: Sequence[Any]) -> tuple[tuple[Any, ...], list[Any]]:
    """What of a call a plan and Triton read, and the addresses of its tensors (0 for other arguments)."""
    key: list[Any] = []
    addresses: list[Any] = []
    for x in args:
        if isinstance(x, Tensor):
            address = x.data_ptr()
            addresses.append(address)
            key += (x.dtype, x.shape, x.stride(), x.get_device(), address & 15)
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
    places = [[watch.place(x) for x in launch.args if isinstance(x, Tensor)] for launch in launches]
    lost = any(None in found for found in places) or any(at is None or at[1] for at in numbers)
    if not launches or not watch.repeatable or lost:
        return result, launches, None
    if any(_geometry(x) != _geometry(watch.tensors[at[0]]) for x, at in zip(results, numbers, strict=True) if at):
        return result, launches, None
    allocations = tuple(_allocation(x) for x in watch.made)
    given = tuple(at[0] for at in numbers if at is not None)
    device = device_of(launches[0]).index
    recipe = Recipe(device, allocations, given, isinstance(result, Tensor), *_steps(launches, watch))
    return result, launches, recipe


def _allocation(x: Tensor) -> Callable[[], Tensor]:
    """What allocates a tensor like x."""
    size, stride = tuple(x.shape), x.stride()
    if x.device.type in QUICKLY:
        return partial(QUICKLY[x.device.type], size, stride, x.dtype)
    return partial(torch.empty_strided, size, stride, dtype=x.dtype, device=x.device)


def _steps(
    launches: Sequence[Launch], watch: _Watch
) -> tuple[tuple[tuple[int, int], ...], tuple[Any, ...], tuple[Step, ...]]:
    """Addresses inside tensors, constants, and the steps, which pick from all addresses and those, in this order."""
    values = [(*launch.args, *launch.constants.values()) for launch in launches]
    found = [watch.place(x) for of_one in values for x in of_one if isinstance(x, Tensor)]
    moved = [at for at in dict.fromkeys(found) if at is not None and at[1]]
    constants = [x for of_one in values for x in of_one if not isinstance(x, Tensor)]
    places: list[list[int]] = []
    tensors, next_constant = len(watch.tensors), len(watch.tensors) + len(moved)
    for of_one in values:
        places.append([])
        for x in of_one:
            at = watch.place(x) if isinstance(x, Tensor) else None
            if at is None:
                places[-1].append(next_constant)
                next_constant += 1
            else:
                places[-1].append(tensors + moved.index(at) if at[1] else at[0])
    steps = (Step(launch.grid, _picking(chosen)) for launch, chosen in zip(launches, places, strict=True))
    return tuple(moved), tuple(constants), tuple(steps)


def _picking(places: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple(values[place] for place in places)  # of one place it gives no tuple


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
