"""The walk of training: forward with gradients enabled, backward, optimizer, on `meta` tensors as in `trace`.

Under autograd torch takes composite operators apart before a walk sees them, so that `linear` is a product and
`group_norm` is `native_group_norm`. Attention would fall to its unfused path, too: here it is sent to the fused
operator that its backend names, which has a backward of its own.

An operator of the backward pass belongs where the operator of the forward pass did that its autograd node was made
for: nodes are numbered as they are made, and the number is at hand while one runs. Gradients are dropped as soon as
they are whole, as FSDP does: what is alive are activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.overrides import TorchFunctionMode

from minimodels.kernels.backend import attention_backend, kernel_backend
from minimodels.kernels.scope import STAGE
from minimodels.objective import Trainable, block_of, blocks, example_batch, loss, trained
from minimodels.run import DTYPES, Run, build, scope
from minimodels.sim.call import Call
from minimodels.sim.device import Device
from minimodels.sim.formulas_training import FUSED
from minimodels.sim.trace import Place, Walk

_C: Any = torch._C  # its numbering of autograd nodes has no types
REST = ""  # the unit of what is in no block
AFTER_FORWARD = "_backward"  # how torch's names of fused backward operators end


@dataclass(frozen=True, slots=True)
class Walked:
    """Forward and backward of one training step: its calls, the unit each runs in, parameters of every unit."""

    calls: list[Call]
    units: list[str]
    parameters: dict[str, list[torch.Size]]

    def elements(self, unit: str) -> int:
        """Parameters of a unit."""
        return sum(shape.numel() for shape in self.parameters[unit])


class TrainingWalk(Walk):
    """A walk with gradients enabled; `units` names, call by call, the block in which each ran."""

    def __init__(self, parts: nn.ModuleDict) -> None:
        super().__init__(parts)
        self.units: list[str] = []
        self._unit, self._around = REST, list[str]()
        self._made: dict[int, tuple[Place, str]] = {}  # by number of the autograd node

    def __enter__(self) -> Any:
        super().__enter__()
        self._entered.enter_context(_Fused(self))
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        node = _C._current_autograd_node()
        if node is None:
            self._made[_C._autograd._get_sequence_nr() - 1] = self._place, self._unit
            return super().__torch_dispatch__(func, types, args, kwargs)
        stage = self._place.stage
        place, unit = self._made.get(node._sequence_nr(), (self._place, self._unit))
        if place.core is not None and func._schema.name.endswith(AFTER_FORWARD) and _is_fused(func):
            place = replace(place, core=replace(place.core, backend=place.core.backend + "-backward"))
        self._place, self._unit = replace(place, stage=stage), unit
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _record(self, memo: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        super()._record(memo, inputs, outputs)
        self.calls[-1].phase = self._place.stage
        self.units.append(self._unit)

    @contextmanager
    def inside(self, network: nn.Module) -> Iterator[None]:
        """Notes in which block of the network every operator runs, and drops gradients once they are whole."""
        with ExitStack() as hooks:
            for name, block in blocks(network).items():
                hooks.callback(block.register_forward_pre_hook(self._enters(name), prepend=True).remove)
                hooks.callback(block.register_forward_hook(self._leaves).remove)
            for weight in network.parameters():
                hooks.callback(weight.register_post_accumulate_grad_hook(_dropped).remove)
            yield

    def _enters(self, unit: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._around.append(self._unit)
            self._unit = unit

        return enter

    def _leaves(self, *_: Any) -> None:
        self._unit = self._around.pop()


def _dropped(weight: Tensor) -> None:
    weight.grad = None


def _is_fused(func: Any) -> bool:
    return any(func._schema.name == f"aten::_scaled_dot_product_{name}_attention_backward" for name in FUSED)


class _Fused(TorchFunctionMode):
    """Sends attention to the fused operator that the backend of the call names."""

    def __init__(self, walk: TrainingWalk) -> None:
        super().__init__()
        self.walk = walk

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        core = self.walk._place.core
        if func is not F.scaled_dot_product_attention or core is None or core.backend not in FUSED:
            return func(*args, **kwargs)
        q, k, v = args
        bias, causal, scale = kwargs["attn_mask"], kwargs["is_causal"], kwargs["scale"]
        operator = getattr(torch.ops.aten, f"_scaled_dot_product_{core.backend}_attention")
        if core.backend == "flash":
            return operator(q, k, v, 0.0, causal, scale=scale)[0]
        return operator(q, k, v, bias, True, 0.0, causal, scale=scale)[0]


def walk_training(config: Trainable, run: Run, device: Device) -> Walked:
    """Walk forward and backward of one step on `run.batch` samples, in the dtype of the run.

    Raises:
        ValueError: a pinned attention backend cannot do a call.
        RuntimeError: an operator of ours has no gradient.
    """
    dtype, name = DTYPES[run.dtype], trained(config)
    parts = build(config, "meta", dtype, only=name)
    network = parts[name].requires_grad_(True).train()
    batch = example_batch(config, run.batch, dtype, "meta", None)
    walk = TrainingWalk(parts)
    with attention_backend(run.attention, device.arch), kernel_backend(run.kernels), walk, walk.inside(network):
        walk.hold(*batch.values())
        with scope(STAGE, "forward"):
            value = loss(config, network, batch)
        with scope(STAGE, "backward"):
            value.backward()
    return Walked(walk.calls, walk.units, _parameters(network))


def _parameters(network: nn.Module) -> dict[str, list[torch.Size]]:
    """Shapes of the parameters of every unit, each parameter with the first that has it."""
    names = list(blocks(network))
    shapes: dict[str, list[torch.Size]] = {unit: [] for unit in (REST, *names)}
    for name, weight in network.named_parameters():
        shapes[block_of(name, names) or REST].append(weight.shape)
    return {unit: own for unit, own in shapes.items() if own}


def shard(shape: torch.Size, gpus: int) -> tuple[int, ...]:
    """The shape of the largest shard of a parameter, which is cut along its first dimension."""
    return (-(-shape[0] // gpus), *shape[1:]) if shape else ()


def walk_optimizer(shapes: Sequence[tuple[int, ...]]) -> list[Call]:
    """Walk torch's fused AdamW over parameters of these shapes, in float32."""
    weights, grads, first, second = ([torch.empty(shape, device="meta") for shape in shapes] for _ in range(4))
    counts = [torch.empty((), device="meta") for _ in shapes]
    walk = Walk()
    with torch.no_grad(), walk, scope(STAGE, "optimizer"):
        adamw(
            weights, grads, first, second, [], counts, fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=1e-4,
            weight_decay=1e-2, eps=1e-8, maximize=False,
        )  # fmt: skip
    return [replace(call, phase="optimizer", live=0) for call in walk.calls]  # what is alive is kept from step to step
