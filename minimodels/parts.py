"""Which module builds which part of a config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from minimodels import config, diffusion_config
from minimodels.autoencoder import KlDecoder, VitDecoder
from minimodels.transformer import TextToTokens, language_model, text_encoder
from minimodels.unet import UNet
from minimodels.upscaler import ConvUpscaler

MAKERS: dict[type[config.Part], Callable[[Any], nn.Module]] = {
    config.EncoderDecoder: TextToTokens,
    config.DecoderOnly: language_model,
    config.TextEncoder: text_encoder,
    config.VitDecoder: VitDecoder,
    diffusion_config.KlDecoder: KlDecoder,
    diffusion_config.UNet: UNet,
    config.ConvUpscaler: ConvUpscaler,
}


def make(part: config.Part) -> nn.Module:
    """The network of a part, on the current default device."""
    return MAKERS[type(part)](part)
