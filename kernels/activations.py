"""The activations that models have, by name, in torch's operators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_quick(x: Tensor) -> Tensor:
    """CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": F.gelu, "gelu_quick": _gelu_quick, "gelu_tanh": _gelu_tanh, "relu": F.relu, "silu": F.silu}
