"""What every parity test needs: drawn weights, exact norms for the peer, and what equal means."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from minimodels.config import Part
from minimodels.weights import from_pretrained

M = TypeVar("M", bound=nn.Module)


class ExactNorm(nn.Module):
    """RMSNorm in the dtype of its input; theirs computes in float32 even where that is float64."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


def exact(model: nn.Module, kind: str) -> None:
    """Put norms of the model's own dtype in the place of the peer's modules named `kind`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == kind:
                setattr(module, name, ExactNorm(child))


def randomise(module: M, small: str = "\0") -> M:
    """Draw every parameter, so that none is at a value which hides it; those with `small` in their name less."""
    generator = torch.Generator().manual_seed(17)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(False)
        if parameter.dim() == 1 and name.endswith("weight"):
            parameter.uniform_(0.5, 1.5, generator=generator)
        elif parameter.dim() == 1:
            parameter.normal_(std=0.3, generator=generator)
        else:
            size = 0.3 if small in name else 1.0
            parameter.normal_(std=size * parameter[0].numel() ** -0.5, generator=generator)
    return module.eval()


def assert_close(found: Tensor, expected: Tensor) -> None:
    """float64: 1e-9 of the largest value; float32: 1e-4, some hundred roundings of values of order one."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert expected.std() > 0.1, "values must differ for the comparison to mean anything"
    allowed = 1e-9 * expected.abs().max() if expected.dtype == torch.float64 else 1e-4
    assert (found - expected).abs().max() <= allowed


def reread(theirs: Any, folder: Path) -> Any:
    """Our module with the weights that the peer's own library wrote to a directory."""
    theirs.save_pretrained(folder)
    return from_pretrained(folder)


def without_count(part: Part) -> Part:
    """A part as its sizes alone say, for comparison."""
    return part.model_copy(update={"published": None})
