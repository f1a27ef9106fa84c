"""How an operator of ours is made known to torch: schema, implementations, shapes, FLOPs, bytes, gradient.

`define` does all of it once per operator, so that the operator works under FakeTensor, `torch.compile`,
FlopCounterMode, a walk, and torch.profiler:

- on a GPU the Triton kernel runs, its plans remembered by `recipe`; on a CPU the reference in plain torch, under
  TRITON_INTERPRET=1 the kernel;
- `fake` gives shape, dtype and strides of the results as the kernel allocates them;
- `work` gives FLOPs and bytes of one execution, from which torch's FLOP formula follows;
- `check` refuses, before anything is planned or computed, what the kernel would read wrongly;
- where no element is asked for (no samples, no rows), none is computed: nothing is planned, launched or counted;
- with a `backward` the operator can train; without one it raises where a gradient is asked for: a gradient
  is never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from minimodels.kernels.backend import INTERPRETED
from minimodels.kernels.launch import Launch, run
from minimodels.kernels.recipe import Plan, Remembered
from minimodels.kernels.work import OURS, Formula, Work

NAMESPACE = "minimodels"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)  # what kernels compute in
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


@dataclass(frozen=True, slots=True)
class Operator:
    """What is known of an operator of ours; all functions take its schema's arguments.

    plan: checks the arguments, allocates the result on their device and plans the launches that fill it; `meta` will
    do.
    reference: the same numbers in plain torch, in float32 at least. eager: torch's own operators, as a model runs
    them without us: what a benchmark compares with.
    """

    call: torch._ops.OpOverload
    plan: Plan
    reference: Callable[..., Any]
    eager: Callable[..., Any]
    work: Formula
    trains: bool

    @property
    def schema(self) -> torch._C.FunctionSchema:
        """What torch knows of its arguments."""
        return self.call._schema


@dataclass(frozen=True, slots=True)
class Composite:
    """Several operators, of torch's and ours, that stand for two of torch's: to a benchmark, an operator.

    prepare: what `run` takes of the schema's arguments, made once when a run is prepared, as folded weights are. All
    other functions take the schema's arguments; see `Operator`.
    """

    schema: torch._C.FunctionSchema
    prepare: Callable[..., tuple[Any, ...]]
    run: Callable[..., Any]
    reference: Callable[..., Any]
    eager: Callable[..., Any]
    work: Formula

    def call(self, *args: Any) -> Any:
        """Prepare and run."""
        return self.run(*self.prepare(*args))


Benched = Operator | Composite
COMPOSITES: dict[str, Composite] = {}
"""By name, as `OPERATORS`."""
OPERATORS: dict[str, Operator] = {}
"""By name, "minimodels::name"; those whose module was imported: `every` imports all."""


def every() -> dict[str, Benched]:
    """All operators and composites of ours, every module of this package being imported."""
    for module in iter_modules(import_module("minimodels.kernels").__path__):
        import_module(f"minimodels.kernels.{module.name}")
    return OPERATORS | COMPOSITES


def compose(
    schema: str,
    *,
    prepare: Callable[..., tuple[Any, ...]],
    run: Callable[..., Any],
    reference: Callable[..., Any],
    eager: Callable[..., Any],
    work: Formula,
) -> Composite:
    """Make a composite known by its `schema` ("name(Tensor x, ...) -> Tensor"); see `Composite`."""
    name = f"{NAMESPACE}::{schema.partition('(')[0]}"
    known = torch._C.parse_schema(f"{NAMESPACE}::{schema}")
    COMPOSITES[name] = Composite(known, prepare, run, reference, eager, work)
    return COMPOSITES[name]


def define(
    schema: str,
    *,
    plan: Plan,
    reference: Callable[..., Any],
    eager: Callable[..., Any],
    fake: Callable[..., Any],
    work: Formula,
    check: Callable[..., None],
    backward: Callable[..., Any] | None = None,
    save: Callable[..., None] | None = None,
) -> torch._ops.OpOverload:
    """Define the operator `schema` ("name(Tensor x, ...) -> Tensor") and return its callable.

    plan, reference, eager: see `Operator`; check: raises a ValueError that says what was given and what is allowed;
    backward, save: as in `torch.library.register_autograd`.
    """
    name = schema.partition("(")[0]
    plan, reference, work = _planned(name, plan, fake, check), _computed(reference, fake, check), _counted(work)

    def kernel(*args: Any) -> Any:
        result, launches = plan(*args)
        for launch in launches:
            run(launch)
        return result

    on_cpu = kernel if INTERPRETED else reference
    operator = register(schema, {"CUDA": Remembered(plan), "CPU": on_cpu}, fake, work, backward, save)
    OPERATORS[operator._schema.name] = Operator(operator, plan, reference, eager, work, backward is not None)
    return operator


def register(
    schema: str,
    kernels: Mapping[str, Callable[..., Any]],
    fake: Callable[..., Any],
    work: Formula,
    backward: Callable[..., Any] | None = None,
    save: Callable[..., None] | None = None,
) -> torch._ops.OpOverload:
    """Make an operator known to torch, to walks and to FlopCounterMode; kernels: by dispatch key."""
    name = schema.partition("(")[0]
    full = f"{NAMESPACE}::{name}"
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))
    for key, kernel in kernels.items():
        LIBRARY.impl(name, _without_tangents(name, kernel), key)
    torch.library.register_fake(full, fake, lib=LIBRARY)
    packet = getattr(getattr(torch.ops, NAMESPACE), name)
    operator = packet.default
    if backward is None:
        LIBRARY.impl(name, _refuse(name, operator), "Autograd", with_keyset=True)
    else:
        torch.library.register_autograd(full, backward, setup_context=save, lib=LIBRARY)
    OURS[full] = work

    @register_flop_formula(packet, get_raw=True)
    def _(*args: Any, out_val: Any, **kwargs: Any) -> int:
        return work(args, kwargs, _tensors(out_val)).flops or 0

    return operator


def _planned(name: str, plan: Plan, fake: Callable[..., Any], check: Callable[..., None]) -> Plan:
    """A plan of arguments that were checked, without launches where nothing is asked for."""

    def planned(*args: Any) -> tuple[Any, Sequence[Launch]]:
        check(*args)
        _refuse_dtypes(name, args)
        nothing = _nothing(fake, args)
        return plan(*args) if nothing is None else (nothing, ())

    return planned


def _refuse_dtypes(name: str, args: Sequence[Any]) -> None:
    """Raise unless the kernels compute in what is given; a reference computes in more, float64 for one.

    Raises:
        ValueError: the first tensor (other than one of tokens) or another of floating point has a dtype they lack.
    """
    kinds = [x.dtype for x in args if isinstance(x, Tensor)]
    asked = [kind for i, kind in enumerate(kinds) if kind.is_floating_point or kind.is_complex or i == 0]
    if kinds[0] == torch.int64 and len(asked) > 1:
        asked = asked[1:]
    if wrong := [kind for kind in asked if kind not in DTYPES]:
        raise ValueError(f"minimodels::{name} computes in {', '.join(map(str, DTYPES))} on a GPU, not in {wrong[0]}")


def _without_tangents(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that refuses derivatives in forward mode, which torch would drop: no operator has one."""

    def run(*args: Any) -> Any:
        if forward_ad._current_level >= 0 and any(
            isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in args
        ):
            raise RuntimeError(f"minimodels::{name} has no derivative in forward mode: use torch's")
        return kernel(*args)

    return run


def _computed(
    reference: Callable[..., Any], fake: Callable[..., Any], check: Callable[..., None]
) -> Callable[..., Any]:
    """A reference of arguments that were checked."""

    def computed(*args: Any) -> Any:
        check(*args)
        nothing = _nothing(fake, args)
        return reference(*args) if nothing is None else nothing

    return computed


def _nothing(fake: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The results where they have no elements; None where they have."""
    if args[0].numel():
        return None
    results = fake(*args)
    return None if any(x.numel() for x in _tensors(results)) else results


def _counted(work: Formula) -> Formula:
    """A formula that counts nothing where nothing is asked for."""

    def counted(args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> Work:
        return work(args, kwargs, out) if any(x.numel() for x in out) else Work("none", 0, 0, 0, launches=0)

    return counted


def _tensors(results: Any) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else tuple(results or ())


def _refuse(name: str, operator: torch._ops.OpOverload) -> Callable[..., Any]:
    """The autograd kernel of an operator that cannot train."""

    def run(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        asked = any(isinstance(x, Tensor) and x.requires_grad for x in (*args, *kwargs.values()))
        if asked and torch.is_grad_enabled():
            raise RuntimeError(
                f"minimodels::{name} has no gradient: run it under torch.no_grad(), or train with torch's, "
                "--attention sdpa --kernels torch"
            )
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *args, **kwargs)

    return run
