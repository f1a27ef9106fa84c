"""Which module builds which part of a config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from minimodels import config
from minimodels.autoencoder import VitDecoder
from minimodels.transformer import TextToTokens, language_model
from minimodels.upscaler import ConvUpscaler

MAKERS: dict[type[config.Part], Callable[[Any], nn.Module]] = {
    config.EncoderDecoder: TextToTokens,
    config.DecoderOnly: language_model,
    config.VitDecoder: VitDecoder,
    config.ConvUpscaler: ConvUpscaler,
}


def make(part: config.Part) -> nn.Module:
    """The network of a part, on the current default device."""
    return MAKERS[type(part)](part)
