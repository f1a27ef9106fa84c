"""Which module builds which part of a config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from minimodels import autoencoder_config, config, dit_config, token_config, unet_config
from minimodels.causal_decoder import CausalDecoder
from minimodels.diffusion_transformer import DiffusionTransformer
from minimodels.efficient_unet import EfficientUNet
from minimodels.masked import MaskedTransformer
from minimodels.pixel_decoder import CVivitDecoder, KlDecoder, VitDecoder, VqDecoder
from minimodels.prior import Prior
from minimodels.transformer import TextEncoder, TextToTokens, language_model
from minimodels.unet import UNet
from minimodels.upscaler import ConvUpscaler
from minimodels.uvit import UVit

MAKERS: dict[type[config.Part], Callable[[Any], nn.Module]] = {
    config.EncoderDecoder: TextToTokens,
    config.DecoderOnly: language_model,
    config.TextEncoder: TextEncoder,
    config.VitDecoder: VitDecoder,
    config.ConvUpscaler: ConvUpscaler,
    autoencoder_config.KlDecoder: KlDecoder,
    autoencoder_config.VqDecoder: VqDecoder,
    autoencoder_config.CVivitDecoder: CVivitDecoder,
    autoencoder_config.CausalDecoder: CausalDecoder,
    token_config.MaskedTransformer: MaskedTransformer,
    token_config.UVit: UVit,
    unet_config.UNet: UNet,
    unet_config.EfficientUNet: EfficientUNet,
    unet_config.Prior: Prior,
    dit_config.DiffusionTransformer: DiffusionTransformer,
}


def make(part: config.Part) -> nn.Module:
    """The network of a part, on the current default device."""
    return MAKERS[type(part)](part)
