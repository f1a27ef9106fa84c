"""What is profiled: networks, inputs, and the function that runs them, on `meta` or on a device.

`of_config` is the pipeline of an architecture, `of_module` any `nn.Module` of a user's with inputs of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from minimodels.kinds import Config
from minimodels.pipelines import example_input, generate
from minimodels.run import DTYPES, Run, build
from minimodels.run import prepare as prepare_parts
from minimodels.sim.foreign import made_visible
from minimodels.sim.profile import RunRecord


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job on one device: `parts` holds its weights, `inputs` are alive from the start, `run` runs it once."""

    parts: nn.ModuleDict
    inputs: Sequence[Tensor]
    run: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Job:
    """What is profiled; `config` and `record` stand in the profile, `prepare` puts it on a device."""

    title: str
    config: dict[str, Any]
    record: RunRecord
    prepare: Callable[[str | torch.device], Prepared]

    @property
    def name(self) -> str:
        """The name of the architecture or the class."""
        return self.config["name"]


def of_config(config: Config, run: Run) -> Job:
    """The whole pipeline of an architecture, with random weights and tokens."""

    def prepare(device: str | torch.device) -> Prepared:
        parts = prepare_parts(build(config, device, DTYPES[run.dtype], run.seed), run)
        tokens = example_input(config, run.batch, device, run.seed)
        return Prepared(parts, (tokens,), lambda: generate(config, parts, tokens))

    return Job(config.title, config.model_dump(mode="json"), RunRecord.of(run, config.run), prepare)


def of_module(function: Callable[..., Any], inputs: tuple[Any, ...], run: Run) -> Job:
    """A module, or a method of one, called once with `inputs`: tensors, and lists or dicts of them.

    A `functools.partial` of either brings further inputs, by keyword too.

    Raises:
        ValueError: it is neither.
    """
    function, *arguments = arguments_of(function, inputs)
    module, method = _bound(function)

    def prepare(device: str | torch.device) -> Prepared:
        network, given = module, arguments
        if torch.device(device).type == "meta":
            network, given = on_meta(module), tree_map_only(Tensor, lambda x: x.to("meta"), arguments)
        tensors = [x for x in tree_flatten(given)[0] if isinstance(x, Tensor)]
        call = network if method is None else getattr(network, method)

        def once() -> object:
            with torch.inference_mode(), made_visible(network):
                return call(*given[0], **given[1])

        return Prepared(nn.ModuleDict({"model": network}), tensors, once)

    name = type(module).__name__
    return Job(name, {"name": name, "kind": "module"}, RunRecord.of(run), prepare)


def arguments_of(
    function: Callable[..., Any], inputs: tuple[Any, ...]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """What is called, with which positional and keyword arguments; those of a partial come before the inputs."""
    if isinstance(function, partial):
        return function.func, (*function.args, *inputs), function.keywords
    return function, inputs, {}


def _bound(function: Callable[..., Any]) -> tuple[nn.Module, str | None]:
    """The module that is called, and which method of it."""
    if isinstance(function, nn.Module):
        return function, None
    owner = getattr(function, "__self__", None)
    if isinstance(owner, nn.Module):
        return owner, function.__name__
    raise ValueError(
        f"an nn.Module or a method of one can be profiled, or a functools.partial of either, not a "
        f"{type(function).__name__}; put a function into the forward of a module"
    )


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of a module whose tensors are on `meta`; nothing of the weights is copied."""
    memo: dict[int, Any] = {}
    for owner in module.modules():
        for tensor in (*owner._parameters.values(), *owner._buffers.values(), *vars(owner).values()):
            if isinstance(tensor, nn.Parameter):
                memo[id(tensor)] = nn.Parameter(tensor.detach().to("meta"), requires_grad=False)
            elif isinstance(tensor, Tensor):
                memo[id(tensor)] = tensor.detach().to("meta")
    return copy.deepcopy(module, memo)
