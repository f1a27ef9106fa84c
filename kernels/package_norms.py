"""Norms and gated units of other packages, where installed: liger-kernel (Triton) and apex (CUDA).

Sources: liger_kernel/transformers/functional.py, apex/normalization/fused_layer_norm.py.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from minimodels.kernels.packages import installed, load
from minimodels.kernels.protocol import Way

LIGER, APEX = "liger-kernel", "apex"
IN_FLOAT32 = (0.0, "gemma", False)  # weight's offset, where liger rounds: at the end, as we do; not in place


def _liger() -> Any:
    return load(LIGER, ".transformers.functional")


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float,
    rms: bool,
) -> dict[str, Way | str]:  # fmt: skip
    """The norm alone: neither package modulates."""
    limit = _limit(weight, bias, scale, rms)
    found: dict[str, Way | str] = {}
    if installed(LIGER):
        found[LIGER] = limit or Way(_liger_rms_norm if rms else _liger_layer_norm)
    if installed(APEX):
        found[APEX] = limit or Way(_apex_rms_norm if rms else _apex_layer_norm)
    return found


def _limit(weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, rms: bool) -> str | None:
    if scale is not None:
        return "has no modulation"
    if weight is None or (bias is None) != rms:
        return "needs a weight, and a bias for LayerNorm alone"
    return None


def _liger_rms_norm(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return _liger().liger_rms_norm(x, weight, rest[3], *IN_FLOAT32)


def _liger_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
    return _liger().liger_layer_norm(x, weight, bias, rest[2])


def _apex_rms_norm(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return load(APEX, ".normalization").fused_layer_norm.fused_rms_norm_affine(x, weight, x.shape[-1:], rest[3])


def _apex_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
    module = load(APEX, ".normalization").fused_layer_norm
    return module.fused_layer_norm_affine(x, weight, bias, x.shape[-1:], rest[2])


def add_layer_norm(
    x: Tensor, delta: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None,
    eps: float, rms: bool,
) -> dict[str, Way | str]:  # fmt: skip
    """The sum and RMSNorm of it, which liger has in one; it returns the norm first."""
    if not installed(LIGER):
        return {}
    limit = _limit(weight, bias, scale, rms) or (None if rms else "has no sum before LayerNorm")
    return {LIGER: limit or Way(_liger_add_rms_norm, restore=lambda found: (found[1], found[0]))}


def _liger_add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, *rest: Any) -> Any:
    return _liger().liger_fused_add_rms_norm(x, delta, weight, rest[3], *IN_FLOAT32)


def gated(gate: Tensor, value: Tensor, activation: str) -> dict[str, Way | str]:
    """SwiGLU and, with the approximated GELU, GEGLU; liger copies what does not lie together, here beforehand."""
    if not installed(LIGER):
        return {}
    names = {"silu": "liger_swiglu", "gelu_tanh": "liger_geglu"}
    if activation not in names:
        return {LIGER: f"has no {activation}"}

    def call(gate: Tensor, value: Tensor) -> Tensor:
        return getattr(_liger(), names[activation])(gate, value)

    return {LIGER: Way(call, lambda gate, value, _: (gate.contiguous(), value.contiguous()))}
