"""The walk: a model's own code on `meta` tensors, recorded operator by operator.

Under `torch.inference_mode()` one `TorchDispatchMode` sees every operator whole (`linear`, `conv2d`,
`scaled_dot_product_attention`, ...). torch's shape rules on `meta` take up to a millisecond, so the result's
sizes and the operator's work are kept per (operator, sizes, strides, dtypes, other arguments) and used again;
views always run. Storages are counted as they are born and freed, which gives the bytes alive at every call.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode

from minimodels.kernels.scope import CORE, KV_CACHE, STAGE, TRACER, AttentionCall, label
from minimodels.kernels.work import Work
from minimodels.sim.call import Call
from minimodels.sim.formulas import ATTENTION, category, operator, run, work_of
from minimodels.sim.knots import visit
from minimodels.sim.no_dynamo import no_dynamo
from minimodels.sim.progress import Advance, silent
from minimodels.sim.traffic import held_inside, tensors_in

Estimate = Callable[[Sequence[Call]], float]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the model an operator runs."""

    stage: str = "run"
    path: str = ""
    module: str | None = None
    role: str | None = None
    core: AttentionCall | None = None
    in_cache: bool = False

    def inside(self, kind: str, name: str, call: AttentionCall | None) -> Place:
        """The place of a scope opened here."""
        if kind == STAGE:
            return Place(stage=name, in_cache=self.in_cache)
        if kind == KV_CACHE:
            return Place(self.stage, self.path, self.module, self.role, self.core, True)
        path = f"{self.path}/{label(kind, name)}" if self.path else label(kind, name)
        if kind == CORE:
            return Place(self.stage, path, self.module, self.role, call, self.in_cache)
        role = name if kind == "attention" else self.role
        return Place(self.stage, path, kind, role, None, self.in_cache)


@dataclass(slots=True)
class _Memo:
    """What one operator with one set of argument shapes does and returns."""

    work: Work
    outputs: tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...] | None  # None: run it again
    returns: str  # "self": its first argument, "one": a tensor, "many": a tuple
    name: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    view: bool
    category: str
    category_in_core: str
    inside: int  # bytes alive only while it runs


class Walk(TorchDispatchMode):
    """Records every operator run inside `with walk:`; `walk.calls` is the result.

    parts: networks whose parameters are weights, not activations; rounding: bytes the allocator rounds to;
    estimate: seconds of some calls, by which loops choose their knots (None: first and last step of affine
    loops); full: run every step; graphs: visit the steps that are captured as CUDA graphs; keep_views: record views
    too; memoise: reuse results of equal calls.
    """

    clocks = False
    least = 0  # knots of a loop that grows, see `visit`

    def __init__(
        self,
        parts: nn.ModuleDict | None = None,
        *,
        rounding: int = 512,
        estimate: Estimate | None = None,
        full: bool = False,
        graphs: bool = False,
        keep_views: bool = False,
        memoise: bool = True,
        progress: Advance = silent,
    ) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.storages = _Storages(rounding)
        self.parts = parts if parts is not None else nn.ModuleDict()
        self.weight_use: dict[str, set[str]] = {}
        self._weights = {
            weight.untyped_storage()._cdata: name
            for name, weight in (*self.parts.named_parameters(), *self.parts.named_buffers())
        }
        self._estimate, self._full, self._keep_views, self._memoise = estimate, full, keep_views, memoise
        self._graphs, self._progress = graphs, progress
        self._memo: dict[Any, _Memo] = {}
        self._views: set[int] = set()  # operators that are run unseen
        self._place = Place()
        self._steps: int | None = None  # iterations of the loops around, multiplied
        self._places: dict[Any, Place] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # a walk is never compiled, and torch's wrapper would import all of Dynamo (2 s)

    def __enter__(self) -> Self:
        self._entered = ExitStack()
        self._entered.enter_context(no_dynamo())
        self._entered.callback(TRACER.reset, TRACER.set(self))
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._entered.close()

    def hold(self, *inputs: Tensor) -> None:
        """Count tensors made before the walk as alive."""
        for tensor in inputs:
            self.storages.see(tensor.untyped_storage(), False)

    def scope(self, kind: str, name: str, call: AttentionCall | None) -> AbstractContextManager[object]:
        key = (self._place, kind, name, call)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self._place.inside(kind, name, call)
        return _Scope(self, place)

    def loop(self, name: str, n: int, growth: str) -> Iterator[int]:
        """The knots of a loop; afterwards its calls stand in step order and carry their weights."""
        around, self._steps = self._steps, n * (self._steps or 1)
        for count, step in enumerate(
            visit(self.calls, n, growth, self._estimate, self._full, self._graphs, self.least)
        ):
            self._progress(name, count, n if self._full else 0)
            yield step
        self._steps = around

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if id(func) in self._views:
            return func(*args, **kwargs)
        key = _key(func, args, kwargs, self._place.core) if self._memoise else None
        try:
            memo = None if key is None else self._memo.get(key)
        except TypeError:  # an argument cannot be hashed: what decides the result cannot be told
            memo = key = None
        if memo is not None and memo.outputs is not None:
            if memo.returns == "self":
                out = args[0]
                outputs: tuple[Tensor, ...] = (out,)
            else:
                outputs = tuple(
                    [
                        torch.empty_strided(size, stride, dtype=dtype, device="meta")
                        for size, stride, dtype in memo.outputs
                    ]
                )
                out = outputs[0] if memo.returns == "one" else outputs
        else:
            out = run(func, args, kwargs, self._place.core)
            outputs = (out,) if isinstance(out, Tensor) else tuple(tensors_in((out,)))
            if memo is None:
                memo = self._learn(func, args, kwargs, out, outputs)
                if key is not None:
                    self._memo[key] = memo
        if memo.view:
            if self._keep_views:
                self._record(memo, (), ())
            return out
        self._record(memo, tensors_in((*args, *kwargs.values())), outputs)
        return out

    def _learn(self, func: Any, args: Any, kwargs: Any, out: Any, outputs: tuple[Tensor, ...]) -> _Memo:
        inputs = tensors_in((*args, *kwargs.values()))
        storages = {tensor.untyped_storage()._cdata for tensor in inputs}
        shared = [tensor.untyped_storage()._cdata in storages for tensor in outputs]
        name = operator(func)
        returns = "one"
        specs: tuple[Any, ...] | None = tuple((t.size(), t.stride(), t.dtype) for t in outputs)
        view = False
        if args and out is args[0] and func._schema.is_mutable:
            returns = "self"
        elif any(shared):
            specs, view = None, not func._schema.is_mutable
            if view and not self._keep_views and _only_views(func):
                self._views.add(id(func))
        elif not isinstance(out, Tensor):
            returns = "many"
            specs = specs if isinstance(out, tuple) and len(out) == len(outputs) else None
        work = Work("none", 0, 0, 0, 0) if view else work_of(func, args, kwargs, outputs, self._place.core)
        dtype = next((t.dtype for t in (*inputs, *outputs) if t.dtype.is_floating_point), torch.int64)
        shapes = tuple(tuple(t.shape) for t in inputs)
        categories = [category(name, work, in_core) for in_core in (False, True)]
        kind = str(dtype).removeprefix("torch.")
        return _Memo(work, specs, returns, name, shapes, kind, view, *categories, inside=held_inside(work, kind))

    def _record(self, memo: _Memo, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        place, work, storages = self._place, memo.work, self.storages
        reads = tuple([self._storage(tensor, place) for tensor in inputs])
        writes = tuple([storages.see(tensor.untyped_storage(), place.in_cache) for tensor in outputs])
        self.calls.append(
            Call(
                name=memo.name,
                shapes=memo.shapes,
                dtype=memo.dtype,
                work=work,
                stage=place.stage,
                scope=place.path,
                module=place.module,
                category=memo.category if place.core is None else memo.category_in_core,
                role=place.role if place.core is not None else None,
                attention=place.core,
                reads=reads,
                writes=writes,
                live=storages.live + memo.inside,
                steps=self._steps,
            )
        )

    def _storage(self, tensor: Tensor, place: Place) -> int:
        storage = tensor.untyped_storage()
        weight = self._weights.get(storage._cdata)
        if weight is not None:
            self.weight_use.setdefault(place.stage, set()).add(weight)
            return -storage._cdata  # never freed, never an activation
        return self.storages.see(storage, place.in_cache)


class _Scope:
    """Moves the walk to a place and back."""

    __slots__ = ("before", "place", "walk")

    def __init__(self, walk: Walk, place: Place) -> None:
        self.walk, self.place = walk, place

    def __enter__(self) -> None:
        self.before, self.walk._place = self.walk._place, self.place

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.walk._place = self.before


class _Storages:
    """Counts the storages alive: a number for each, bytes in all, and those of the KV cache."""

    def __init__(self, rounding: int) -> None:
        self.live = self.cache = self.cache_peak = 0
        self._rounding, self._next = rounding, 0
        self._known: dict[int, tuple[int, weakref.ref[Any]]] = {}

    def see(self, storage: torch.UntypedStorage, in_cache: bool) -> int:
        """The number of a storage, counted from its first sight until it is freed."""
        address = storage._cdata
        known = self._known.get(address)
        if known is not None:
            return known[0]
        size = -(-storage.nbytes() // self._rounding) * self._rounding
        self._next += 1

        def freed(_: Any, self: _Storages = self, address: int = address, size: int = size) -> None:
            self.live -= size
            if in_cache:
                self.cache -= size
            del self._known[address]

        self._known[address] = (self._next, weakref.ref(storage, freed))
        self.live += size
        if in_cache:
            self.cache += size
            self.cache_peak = max(self.cache_peak, self.cache)
        return self._next


def _only_views(func: torch._ops.OpOverload) -> bool:
    """Whether an operator never does more than look at its argument; `reshape` and `to` sometimes copy."""
    return func.is_view and not func.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)


def _key(func: Any, args: Any, kwargs: Any, core: AttentionCall | None) -> tuple[Any, ...]:
    """What decides an operator's result on `meta`."""
    parts: list[Any] = [id(func), core if func is ATTENTION else None]
    for value in args:
        if isinstance(value, Tensor):
            parts.append((value.size(), value.stride(), value.dtype))
        elif isinstance(value, list | tuple):
            parts.append(tuple([(v.size(), v.stride(), v.dtype) if isinstance(v, Tensor) else v for v in value]))
        else:
            parts.append((type(value), value))
    for name, value in kwargs.items():
        if isinstance(value, Tensor):
            parts.append((name, value.size(), value.stride(), value.dtype))
        else:
            parts.append((name, tuple(value) if isinstance(value, list) else (type(value), value)))
    return tuple(parts)
