"""One call of an operator of ours as data: geometry of its tensors, values of its other arguments.

A case comes from a walk (`Case.of`), is kept as JSON, and is made real on any device (`Case.make`), tensors that
shared a storage sharing one again: q, k and v of one projection lie between each other, and a benchmark must read
them so. Contents are drawn: normal floats, integers of 0 and 1 (indices into anything), single floats in [0.5, 1);
`CONTENTS` has the operators to which that would be no work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

DTYPES = {str(kind).removeprefix("torch."): kind for kind in (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool,
)}  # fmt: skip
SHORT = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int64": "i64"}


def _first_step(args: tuple[Any, ...]) -> None:
    """Every token of `unmask_step` is the mask, since rows of known tokens are not read; noise is positive."""
    tokens, _, noise, choice, _, mask, *_ = args
    tokens.fill_(mask)
    _positive(noise, choice)


def _positive(*noise: Tensor | None) -> None:
    for x in noise:
        if x is not None:
            x.abs_().clamp_(min=1e-3)


CONTENTS: dict[str, Callable[[tuple[Any, ...]], None]] = {
    "minimodels::unmask_step": _first_step,
    "minimodels::draw_token": lambda args: _positive(args[1]),
}


@dataclass(frozen=True, slots=True)
class View:
    """A tensor argument: elements `offset` and `stride` of storage number `storage`."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    storage: int
    offset: int


@dataclass(frozen=True, slots=True)
class Case:
    """A call; `args` are `View`s or plain values, `storages` bytes. where: which model; weight: calls an inference."""

    operator: str
    args: tuple[Any, ...]
    storages: tuple[int, ...]
    where: str = ""
    weight: float = 1.0

    @classmethod
    def of(cls, operator: str, args: tuple[Any, ...]) -> Case:
        """The case of a call, real or on `meta`."""
        numbers: dict[int, int] = {}
        storages, given = [], []
        for x in args:
            if not isinstance(x, Tensor):
                given.append(x)
                continue
            storage = x.untyped_storage()
            if storage._cdata not in numbers:
                numbers[storage._cdata] = len(storages)
                storages.append(storage.nbytes())
            dtype = str(x.dtype).removeprefix("torch.")
            given.append(View(tuple(x.shape), x.stride(), dtype, numbers[storage._cdata], int(x.storage_offset())))
        return cls(operator, tuple(given), tuple(storages))

    def also(self, where: str) -> Case:
        """The case with one more place where it is called."""
        return replace(self, where=", ".join(filter(None, [self.where, where])))

    @property
    def key(self) -> tuple[Any, ...]:
        """What two equal calls have in common, wherever they are made."""
        return self.operator, self.args, self.storages

    def views(self) -> list[View]:
        """Its tensors."""
        return [x for x in self.args if isinstance(x, View)]

    @property
    def dtype(self) -> str:
        """The floating-point type it computes with."""
        return next((x.dtype for x in self.views() if DTYPES[x.dtype].is_floating_point), "int64")

    def title(self) -> str:
        """Sizes of its first two different tensors and the type: "2x4096x8x16x64 bf16"."""
        shapes: list[str] = []
        for x in self.views():
            shape = "x".join(map(str, x.shape))
            if shape not in shapes and len(shapes) < 2:
                shapes.append(shape)
        return f"{' '.join(shapes)} {SHORT[self.dtype]}"

    def make(self, device: torch.device | str) -> Arguments:
        """The call's arguments on a device."""
        return Arguments(self, torch.device(device))

    def as_json(self) -> dict[str, Any]:
        """A JSON object; `Case.from_json` reads it."""
        return asdict(self) | {"args": [asdict(x) if isinstance(x, View) else x for x in self.args]}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Case:
        """The case that `as_json` wrote."""
        args = tuple(
            View(tuple(x["shape"]), tuple(x["stride"]), x["dtype"], x["storage"], x["offset"])
            if isinstance(x, dict)
            else tuple(x) if isinstance(x, list) else x
            for x in record["args"]
        )  # fmt: skip
        return cls(record["operator"], args, tuple(record["storages"]), record["where"], record["weight"])


class Arguments:
    """The tensors of a case; `refill` draws their contents anew, in place."""

    def __init__(self, case: Case, device: torch.device) -> None:
        kinds = {x.storage: DTYPES[x.dtype] for x in reversed(case.views())}  # the first tensor's
        single = {x.storage for x in case.views() if _elements(x.shape) == 1}
        self._generator = None if device.type == "meta" else torch.Generator(device)
        if self._generator is not None:
            self._generator.manual_seed(0)  # a verdict can be had again; contents still change with every refill
        self._storages = [
            torch.empty(-(-size // kinds[number].itemsize), dtype=kinds[number], device=device)
            for number, size in enumerate(case.storages)
        ]
        self._single = [number in single for number in range(len(case.storages))]
        self._contents = CONTENTS.get(case.operator)
        self.args = tuple(self._view(x) if isinstance(x, View) else x for x in case.args)

    def _view(self, x: View) -> Tensor:
        flat, dtype = self._storages[x.storage], DTYPES[x.dtype]
        if flat.dtype != dtype:
            flat = flat.view(torch.uint8)[: flat.nbytes // dtype.itemsize * dtype.itemsize].view(dtype)
        return flat.as_strided(x.shape, x.stride, x.offset)

    def refill(self) -> None:
        """New contents in all tensors."""
        for flat, single in zip(self._storages, self._single, strict=True):
            if not flat.is_floating_point():
                flat.random_(0, 2, generator=self._generator)
            elif single:
                flat.uniform_(0.5, 1, generator=self._generator)
            else:
                flat.normal_(generator=self._generator)
        if self._contents is not None:
            self._contents(self.args)

    def copy(self, dtype: torch.dtype | None = None) -> tuple[Any, ...]:
        """The arguments as they are now in tensors of their own, of the same strides; floats in `dtype` if given."""
        return tuple(copied(x, dtype) if isinstance(x, Tensor) else x for x in self.args)


def once(x: Tensor) -> Tensor:
    """x without what it repeats: dimensions of stride 0 have one element."""
    return x.as_strided([1 if s == 0 else n for n, s in zip(x.shape, x.stride(), strict=True)], x.stride())


def copied(x: Tensor, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
    """A copy of x that lies in memory as x does, floats in `dtype` if given; what x repeats is repeated."""
    kind = dtype if dtype is not None and x.is_floating_point() else x.dtype
    single = once(x)
    made = torch.empty_strided(single.shape, single.stride(), dtype=kind, device=device or x.device).copy_(single)
    return made.expand(x.shape)


def _elements(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
