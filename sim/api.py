"""The two ways to a profile, for architectures of ours and for any `nn.Module`: `simulate` and `measure`.

minimodels.simulate(minimodels.load("parti-3b"), minimodels.Run(device="h100-sxm"))
minimodels.simulate(my_module, x, t, device="h100-sxm", attention="flash")
minimodels.measure(my_module.encode, x, device="cuda")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from minimodels.config import Architecture
from minimodels.kinds import Config
from minimodels.options import HERE
from minimodels.run import DTYPES, Run, make_run
from minimodels.sim.job import of_module
from minimodels.sim.measure import measure as measure_config
from minimodels.sim.measure import measure_job
from minimodels.sim.profile import Profile
from minimodels.sim.simulate import simulate as simulate_config
from minimodels.sim.simulate import simulate_job

Function = nn.Module | Callable[..., Any]


@overload
def simulate(model: Config, run: Run = ..., /) -> Profile: ...
@overload
def simulate(model: Function, *inputs: Any, device: str, attention: str = ..., kernels: str = ..., mode: str = ...) -> Profile: ...  # fmt: skip


def simulate(
    model: Any, *inputs: Any, device: str = "auto", attention: str = "sdpa", kernels: str = "torch", mode: str = "eager"
) -> Profile:  # fmt: skip
    """The predicted profile of an architecture's inference, or of one call of a module, on a GPU that need not be there.

    model: a config, followed by the `Run` (defaults to one); or an `nn.Module` or a method of one, followed by what
    it is called with. Only sizes and dtypes are read: weights may be on `meta`, nothing is computed. A module's
    `F.scaled_dot_product_attention` runs as `attention` says; its operators without a formula are listed
    (`Profile.unmodelled`), not dropped. device: see `minibench devices`.

    Raises:
        ValueError: unknown device or option, neither config nor module, a pinned backend that cannot do a call, or a
            module whose path depends on the values of its tensors.
    """
    if isinstance(model, Architecture):
        return simulate_config(model, *inputs)  # type: ignore[arg-type]
    run = _run(model, inputs, "a100-80gb" if device == "auto" else device, attention, kernels, mode)
    if run.device in HERE:
        raise ValueError(f"device {run.device!r} is measured, not simulated: minimodels.measure(...)")
    try:
        return simulate_job(of_module(model, inputs, run), run)
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
        raise ValueError(
            f"{type(model).__name__} cannot be walked: {str(error).splitlines()[0]}; what it runs must not depend on "
            "the values of tensors, and every tensor it uses must be its own or an input"
        ) from error


@overload
def measure(model: Config, run: Run, /) -> Profile: ...
@overload
def measure(model: Function, *inputs: Any, device: str = ..., attention: str = ...) -> Profile: ...


def measure(model: Any, *inputs: Any, device: str = "cuda", attention: str = "sdpa") -> Profile:
    """The measured profile of an architecture's inference, or of one call of a module, on the device at hand.

    As `simulate`; a module and its inputs must be on `device`, "cuda" or "cpu". Scopes are attached to its submodules
    by hooks while it runs.

    Raises:
        ValueError: no such device, weights elsewhere, or what `simulate` raises.
        Unmeasurable: the run and its walk differ, or too much time belongs to no operator.
    """
    if isinstance(model, Architecture):
        return measure_config(model, *inputs)  # type: ignore[arg-type]
    run = _run(model, inputs, device, attention, "torch", "eager")
    if run.device not in HERE:
        raise ValueError(f"device {device!r} cannot be measured here; allowed: cuda, cpu")
    elsewhere = {x.device.type for x in _tensors(model, inputs)} - {device}
    if elsewhere:
        raise ValueError(f"weights or inputs are on {', '.join(sorted(elsewhere))}; move them: model.to({device!r})")
    return measure_job(of_module(model, inputs, run), run)


def _run(model: Any, inputs: tuple[Any, ...], device: str, attention: str, kernels: str, mode: str) -> Run:
    """The options of a call of a module, in the dtype of its weights or inputs."""
    floating = [x.dtype for x in _tensors(model, inputs) if x.is_floating_point()]
    names = {dtype: name for name, dtype in DTYPES.items()}
    dtype = names.get(floating[0]) if floating else "float32"
    if dtype is None:
        raise ValueError(f"no rate for {str(floating[0]).removeprefix('torch.')}; known: {', '.join(DTYPES)}")
    return make_run(device=device, dtype=dtype, attention=attention, kernels=kernels, mode=mode)


def _tensors(model: Any, inputs: tuple[Any, ...]) -> list[Tensor]:
    """The weights of a module, or of that a method belongs to, and the tensors among its inputs."""
    module = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    weights = [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []
    return weights + [x for x in tree_leaves(inputs) if isinstance(x, torch.Tensor)]
