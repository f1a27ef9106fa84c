"""Imagen's networks norm the text wherever they read it: its size changes nothing that they give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from minimodels.loader import load
from minimodels.run import build, parameters
from minimodels.unet_attention import TextAppendedAttention
from minimodels.unet_config import EfficientUNet, UNet

NETWORKS = ("unet", "super_resolution_1", "super_resolution_2")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_larger_text_is_the_same_text(name: str) -> None:
    part, network = dict(load("imagen-tiny").parts())[name], build(load("imagen-tiny"), dtype=torch.float64)[name]
    assert isinstance(part, UNet | EfficientUNet)
    drawn = torch.Generator().manual_seed(3)
    x = torch.randn(2, part.in_channels, 8, 8, generator=drawn, dtype=torch.float64)
    text = torch.randn(2, 7, 20, generator=drawn, dtype=torch.float64)
    told = {} if name == "unet" else {"noise_level": torch.full((2,), 3.0)}

    def of(text: Tensor) -> Tensor:
        return network(x, torch.full((2,), 5.0), text, **told)

    # Of the norms' epsilon, 1e-5 beside a variance of 1e6, and of 100 times that, 1e-11 is left
    torch.testing.assert_close(of(1e4 * text), of(1e3 * text), rtol=0, atol=1e-9)
    assert (of(1e3 * text.roll(1, dims=-1)) - of(1e3 * text)).abs().max() > 1e-3


def test_every_attention_to_the_text_has_a_norm_of_its_own_at_paper_scale() -> None:
    parts = build(load("imagen"), "meta")
    appended = [module for module in parts["unet"].modules() if isinstance(module, TextAppendedAttention)]
    assert len(appended) == 9 + 1 + 12 and all(isinstance(module.text_norm, nn.LayerNorm) for module in appended)
    for name, blocks in (("unet", 22), ("super_resolution_1", 2), ("super_resolution_2", 2)):
        norms = [module for key, module in parts[name].named_modules() if key.endswith(".text_norm")]
        width = 2048 if name == "unet" else 1024
        assert [parameters(norm) for norm in norms] == [2 * width] * blocks
