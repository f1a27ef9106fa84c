"""Config types of the networks that turn latents or codes into pixels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from minimodels.config import Depth, Factor, Length, Part, Positive, Stack, Vocabulary, Width
from minimodels.unet_config import check_divides


class ConvDecoder(Part):
    """What convolutional decoders share; channels run from low to high resolution."""

    latent_channels: Width
    channels: list[Width] = Field(min_length=1, max_length=8)
    res_blocks: Depth
    middle_attention: bool = Field(description="self-attention over all latent pixels, in the middle")
    norm_groups: Width
    norm_eps: Positive

    @model_validator(mode="after")
    def _possible(self) -> ConvDecoder:
        for index, channels in enumerate(self.channels):
            check_divides(f"channels.{index}", channels, "norm_groups", self.norm_groups)
        return self

    @property
    def grows(self) -> int:
        """How many times larger the side of the image is."""
        return 2 ** (len(self.channels) - 1)


class KlDecoder(ConvDecoder):
    """Latents to pixels: the decoder of a KL-regularised autoencoder."""

    kind: Literal["kl-decoder"]
    quant_conv: bool = Field(description="a 1x1 convolution between latents and decoder; SD 3 and FLUX have none")
    latent_scale: Positive = Field(description="latents are divided by it before they are decoded")
    latent_shift: float | None = Field(
        default=None, allow_inf_nan=False, description="then added to them (SD 3, FLUX); none: nothing is"
    )


class VqDecoder(ConvDecoder):
    """Codes to pixels: the decoder of a VQGAN, code lookup included."""

    kind: Literal["vq-decoder"]
    codebook_size: Vocabulary
    code_dim: Width


class CausalDecoder(Part):
    """Latents of a video to frames, one latent frame after the other, convolutions over frames seeing the past alone.

    Channels run from low to high resolution, and are halved at each change of it.
    """

    kind: Literal["causal-decoder"]
    latent_channels: Width
    channels: list[Width] = Field(min_length=1, max_length=8)
    res_blocks: Depth
    doubles_time: list[bool] = Field(description="whether frames are doubled too, for each doubling of the side")

    @model_validator(mode="after")
    def _possible(self) -> CausalDecoder:
        if len(self.doubles_time) != len(self.channels) - 1:
            raise ValueError(
                f"doubles_time has {len(self.doubles_time)} items, the side is doubled {self.doublings} times"
            )
        for index, channels in enumerate(self.channels[:-1]):
            check_divides(f"channels.{index}", channels, "2, since they are halved:", 2)
        return self

    @property
    def doublings(self) -> int:
        """How often the side is doubled."""
        return len(self.channels) - 1

    @property
    def grows(self) -> int:
        """How many times larger the side of the video is."""
        return 2**self.doublings

    @property
    def grows_in_time(self) -> int:
        """Frames of the video that a latent frame but the first stands for."""
        return 2 ** sum(self.doubles_time)


class CVivitDecoder(Part):
    """Video tokens to frames: temporal then spatial transformer, one linear layer to pixels (Phenaki).

    The first frame is `grid` x `grid` patches of one frame, every later token a patch of `frame_patch` frames.
    """

    kind: Literal["c-vivit-decoder"]
    codebook_size: Vocabulary
    code_dim: Width
    grid: Length = Field(description="tokens per side of a frame")
    patch_size: Factor = Field(description="pixels per token and side")
    frame_patch: Factor = Field(description="frames per token, the first frame apart")
    max_frames: Length = Field(description="token frames that positions are trained for")
    temporal: Stack
    spatial: Stack

    @model_validator(mode="after")
    def _possible(self) -> CVivitDecoder:
        if self.temporal.dim != self.spatial.dim:
            raise ValueError(f"temporal.dim {self.temporal.dim} differs from spatial.dim {self.spatial.dim}")
        return self
