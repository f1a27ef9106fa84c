"""How a model runs: its options, how it is built, its labels and its loops.

`for i in steps("decode", n)` runs every step. Under a tracer (a walk or a measured profile) it runs only a few
knots, each standing for a share of the n steps:

- growth "constant": all steps do the same work; one knot of weight n.
- growth "affine": the work of step i is affine in i (a growing KV cache); between two knots m steps apart the
  left one weighs (m + 1) / 2 and the right one (m - 1) / 2, which sums any affine quantity exactly.
- growth "any": every step runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from minimodels.blocks import Computed
from minimodels.config import Architecture
from minimodels.kernels.backend import BACKENDS
from minimodels.kernels.layout import put_channels_last
from minimodels.kernels.scope import STAGE, TRACER, scope
from minimodels.options import Options, parse
from minimodels.parts import make
from minimodels.unet_blocks import fold_upsampling

__all__ = [
    "DTYPES", "STAGE", "Run", "build", "device_of", "dtype_of", "make_run", "parameters", "prepare", "scope", "steps",
]  # fmt: skip

Growth = Literal["constant", "affine", "any"]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


class Run(Options):
    """Options of a run that are not architecture; lengths stand in the config's [run] section.

    Example: docs/python.md.

    Raises:
        ValueError: an option has no such value, or there is none of that name.
    """

    attention: Literal[BACKENDS] = "sdpa"  # type: ignore[valid-type]


def make_run(*, device: str, dtype: str | None, **options: Any) -> Run:
    """Run options as a user gives them: `device` "auto" and `dtype` None are decided here.

    auto is CUDA if there is a device, else a simulated A100-80GB; dtype is bfloat16, on a CPU float32.

    Raises:
        ValueError: an option has no such value, or CUDA is asked for and there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else Run.model_fields["device"].default
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda: torch finds no CUDA device here; name a GPU to simulate it, e.g. --device a100-80gb"
        )
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    return parse(Run, options | {"device": device, "dtype": dtype})


def steps(name: str, n: int, growth: Growth = "constant") -> Iterator[int]:
    """The steps 0 .. n-1 of a loop, or its knots under a tracer."""
    tracer = None if torch.compiler.is_compiling() else TRACER.get()
    return iter(range(n)) if tracer is None else tracer.loop(name, n, growth)


def dtype_of(dtype: str | torch.dtype) -> torch.dtype:
    """A dtype that networks can have, from its name or itself.

    Raises:
        ValueError: it is none of `DTYPES`.
    """
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise ValueError(f"dtype {dtype!r}: allowed are {', '.join(DTYPES)}, as torch.NAME or as a string")
    return found


def device_of(device: str | torch.device) -> torch.device:
    """A device that tensors can be on here.

    Raises:
        ValueError: torch knows no such device, or there is none of it.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device {device!r}: allowed are cpu, cuda, cuda:N and meta") from None
    count = torch.cuda.device_count()
    if found.type == "cuda" and not count:
        raise ValueError(f"device {str(found)!r}: torch finds no CUDA device here; use cpu")
    if found.type == "cuda" and (found.index or 0) >= count:
        raise ValueError(f"device {str(found)!r}: there are {count} CUDA devices, numbered from 0")
    return found


def build(
    config: Architecture,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    seed: int = 0,
    only: str | None = None,
) -> nn.ModuleDict:
    """Build the parts of an architecture with random weights, by section name, in evaluation mode.

    only: the one part that is built.

    On `meta` nothing is allocated. Elsewhere weights are drawn so that activations stay of order one: zeros
    and NaNs would change a GPU's power and clocks. Example: docs/python.md.

    Raises:
        ValueError: no such device, dtype or part, or `config` is none.
    """
    if not isinstance(config, Architecture):
        hint = f": load it first, minimodels.load({config!r})" if isinstance(config, str) else ""
        raise ValueError(f"an architecture is built from its config, not from {config!r}{hint}")
    known = [name for name, _ in config.parts()]
    if only is not None and only not in known:
        raise ValueError(f"{config.name} has no part {only!r}; its parts are {', '.join(known)}")
    device, dtype = device_of(device), dtype_of(dtype)
    with torch.device("meta"), NoInitialisation():
        parts = nn.ModuleDict({name: make(part) for name, part in config.parts() if only in (None, name)})
    parts.to(dtype).eval().requires_grad_(False)
    if device.type != "meta":
        parts.to_empty(device=device)
        generator = torch.Generator(device).manual_seed(seed)
        for module in parts.modules():
            _initialise(module, generator)
    return parts


def prepare(parts: nn.ModuleDict, run: Run) -> nn.ModuleDict:
    """The parts as the options of a run want them, in place: weights of convolutions in its layout.

    Where our kernels run channels last, upsampling and the convolution behind it become one, their weights folded.
    """
    if run.layout == "channels-last":
        if run.kernels == "triton" and run.dtype != "float64":
            fold_upsampling(parts)
        for module in parts.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d):
                module.weight = nn.Parameter(put_channels_last(module.weight), requires_grad=False)
    return parts


def parameters(module: nn.Module) -> int:
    """The number of parameters of a module, shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


class NoInitialisation(TorchFunctionMode):
    """Skips torch.nn.init: a module on `meta` has nothing to fill, and trying imports all of Dynamo (2 s)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@torch.no_grad()
def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, Computed):
        module.fill()
        return
    for name, parameter in module.named_parameters(recurse=False):
        if name == "bias" or parameter.dim() == 0:
            parameter.zero_()
        elif parameter.dim() == 1:
            parameter.fill_(1)
        elif isinstance(module, nn.Embedding) or name != "weight":
            parameter.normal_(generator=generator)
        else:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
