"""The two ways to a profile, for architectures of ours and for any `nn.Module`: `simulate` and `measure`.

minimodels.simulate(minimodels.load("parti-3b"), device="h100-sxm", attention="flash")
minimodels.simulate(my_module, x, t, device="h100-sxm", attention="flash")
minimodels.simulate(functools.partial(my_module, context=text), x, t)  # inputs by keyword
minimodels.measure(my_module.encode, x, device="cuda")

How to run it are the fields of `Run` as keywords; of an architecture also a `Run`, but not both.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from minimodels.config import Architecture
from minimodels.kinds import Config
from minimodels.options import HERE
from minimodels.run import DTYPES, Run, make_run
from minimodels.sim.job import arguments_of, of_module
from minimodels.sim.measure import measure as measure_config
from minimodels.sim.measure import measure_job
from minimodels.sim.profile import Profile
from minimodels.sim.simulate import simulate as simulate_config
from minimodels.sim.simulate import simulate_job

Function = nn.Module | Callable[..., Any]
OF_MODULES = ("device", "attention", "kernels", "mode", "warmup", "repeats")  # the rest are the module's or its inputs'


class HowOptions(TypedDict, total=False):
    """The fields of `Run` that say how, and not where, as keywords."""

    attention: str
    batch: int
    dtype: Literal["float32", "float16", "bfloat16", "float64"]
    mode: Literal["eager", "graph", "compiled"]
    kernels: Literal["torch", "triton"]
    layout: Literal["contiguous", "channels-last"]
    resident: Literal["all", "stage"]
    full: bool


class RunOptions(HowOptions, total=False):
    """All fields of `Run` as keywords; device may also be "auto"."""

    device: str
    seed: int
    warmup: int
    repeats: int


@overload
def simulate(model: Config, run: Run, /) -> Profile: ...
@overload
def simulate(model: Config, /, **options: Unpack[RunOptions]) -> Profile: ...
@overload
def simulate(model: Function, /, *inputs: Any, **options: Unpack[RunOptions]) -> Profile: ...


def simulate(model: Any, /, *inputs: Any, **options: Any) -> Profile:
    """The predicted profile of an architecture's inference, or of a call of a module, on a GPU that need not be there.

    model: a config (`minimodels.load`), followed by a `Run` or by fields of one as keywords; or an `nn.Module`, a
    method of one or a `functools.partial` of either, followed by what it is called with, and device, attention,
    kernels or mode as keywords. Only sizes and dtypes are read: weights may be on `meta`, nothing is computed. A
    module's `F.scaled_dot_product_attention` runs as `attention` says; its operators without a formula are listed
    (`Profile.unmodelled()`), not dropped.
    device: see `minibench devices`; "auto" and none are an A100-80GB. Example: docs/python.md.

    Raises:
        ValueError: unknown device or option, both a `Run` and keywords, neither config nor module, a pinned backend
            that cannot do a call, or a module whose path depends on the values of its tensors.
    """
    run = _run(model, inputs, options, Run.model_fields["device"].default)
    if run.device in HERE:
        raise ValueError(f"device {run.device!r} is measured, not simulated: minimodels.measure(...)")
    if isinstance(model, Architecture):
        return simulate_config(model, run)  # type: ignore[arg-type]
    try:
        return simulate_job(of_module(model, inputs, run), run)
    except RuntimeError as error:
        if "no fake impl" in str(error):
            raise ValueError(
                f"{type(model).__name__} cannot be walked: {str(error).splitlines()[0].split('. ')[0]}; say what shape "
                "it returns with torch.library.register_fake"
            ) from error
        if "meta" not in str(error):
            raise
        raise ValueError(
            f"{type(model).__name__} cannot be walked: {str(error).splitlines()[0]}; what it runs must not depend on "
            "the values of tensors, and every tensor it uses must be its own or an input"
        ) from error


@overload
def measure(model: Config, run: Run, /) -> Profile: ...
@overload
def measure(model: Config, /, **options: Unpack[RunOptions]) -> Profile: ...
@overload
def measure(model: Function, /, *inputs: Any, **options: Unpack[RunOptions]) -> Profile: ...


def measure(model: Any, /, *inputs: Any, **options: Any) -> Profile:
    """The measured profile of an architecture's inference, or of one call of a module, on the device at hand.

    As `simulate`; device is "cuda" or "cpu", "auto" and none are CUDA if there is one, else the CPU. A module and its
    inputs must be there. Scopes are attached to its submodules by hooks while it runs. Example: docs/python.md.

    Raises:
        ValueError: no such device, weights elsewhere, or what `simulate` raises.
        Unmeasurable: the run and its walk differ, or too much time belongs to no operator.
    """
    run = _run(model, inputs, options, "cuda" if torch.cuda.is_available() else "cpu")
    if run.device not in HERE:
        raise ValueError(f"device {run.device!r} cannot be measured here; allowed: {', '.join(HERE)}")
    if isinstance(model, Architecture):
        return measure_config(model, run)  # type: ignore[arg-type]
    elsewhere = {x.device.type for x in _tensors(model, inputs)} - {run.device}
    if elsewhere:
        raise ValueError(
            f"weights or inputs are on {', '.join(sorted(elsewhere))}; move them: model.to({run.device!r})"
        )
    return measure_job(of_module(model, inputs, run), run)


def _run(model: Any, inputs: tuple[Any, ...], options: Mapping[str, Any], auto: str) -> Run:
    """How a config or a module is run, as it was given; `auto` is the device where none is named."""
    unknown = [name for name in options if name not in Run.model_fields]
    if unknown:
        close = difflib.get_close_matches(unknown[0], Run.model_fields, n=1)
        hint = f"did you mean {close[0]}" if close else f"allowed: {', '.join(Run.model_fields)}"
        if not close and not isinstance(model, Architecture):
            hint += f"; an input of the module's by keyword is given as functools.partial(module, {unknown[0]}=...)"
        raise ValueError(f"unknown option {unknown[0]!r}; {hint}")
    if isinstance(model, str):
        raise ValueError(f"{model!r} is a name: load it first, minimodels.load({model!r})")
    device = options.get("device", "auto")
    given = {**options, "device": auto if device == "auto" else device}
    if not isinstance(model, Architecture):
        return _run_of_module(model, inputs, given)
    if not inputs:
        return make_run(**({"dtype": None} | given))
    if len(inputs) > 1 or not isinstance(inputs[0], Run):
        what = ", ".join(type(value).__name__ for value in inputs)
        raise ValueError(f"a config is followed by one Run, or by its fields as keywords, not by {what}")
    if options:
        raise ValueError(
            f"given both a Run and {', '.join(options)}: put {', '.join(options)} into the Run, or leave it out"
        )
    return inputs[0]


def _run_of_module(model: Any, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> Run:
    """The options of a call of a module, in the dtype of its weights or inputs."""
    wrong = [name for name in options if name not in OF_MODULES]
    if wrong:
        raise ValueError(
            f"{wrong[0]} is an option of architectures: a module runs on the inputs and in the dtype that it is given; "
            f"its options are {', '.join(OF_MODULES)}"
        )
    if any(isinstance(value, Run) for value in inputs):
        raise ValueError("a module is followed by its inputs, not by a Run: give the fields of the Run as keywords")
    floating = [x.dtype for x in _tensors(model, inputs) if x.is_floating_point()]
    names = {dtype: name for name, dtype in DTYPES.items()}
    dtype = names.get(floating[0]) if floating else "float32"
    if dtype is None:
        raise ValueError(f"no rate for {str(floating[0]).removeprefix('torch.')}; known: {', '.join(DTYPES)}")
    return make_run(**{**options, "dtype": dtype})


def _tensors(model: Any, inputs: tuple[Any, ...]) -> list[Tensor]:
    """The weights of a module, or of that a method belongs to, and the tensors among its inputs."""
    function, *arguments = arguments_of(model, inputs)
    module = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    weights = [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []
    return weights + [x for x in tree_leaves(arguments) if isinstance(x, torch.Tensor)]
