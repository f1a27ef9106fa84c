"""Config types of diffusion models: the UNet as a list of levels, the autoencoder, the sampler.

Text enters a UNet in one of two ways, and parameter counts tell them apart: through cross-attention of its own
inside transformer blocks (`transformer`: latent diffusion, SD, SDXL, Emu), or appended to the keys and values
of every self-attention (`appended`: GLIDE, DALL-E 2, Imagen, DeepFloyd IF).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from minimodels.config import Architecture, Depth, Length, Part, Positive, Strict, TextEncoder, Width


def _divides(what: str, value: int, by: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f"{what} {value} is not divisible by {by} {divisor}")


class TransformerAttention(Strict):
    """Transformer blocks: self-attention, cross-attention to the text, GEGLU."""

    kind: Literal["transformer"]
    depth: Depth
    num_heads: Width


class AppendedAttention(Strict):
    """Self-attention to whose keys and values the text is appended."""

    kind: Literal["appended"]
    num_heads: Width


LevelAttention = Annotated[TransformerAttention | AppendedAttention, Field(discriminator="kind")]


class Level(Strict):
    """One resolution; the up path has one residual block more than the down path."""

    channels: Width
    res_blocks: Depth
    attention: LevelAttention | None = Field(default=None, description="none where not given")

    @model_validator(mode="after")
    def _possible(self) -> Level:
        if self.attention is not None:
            _divides("channels", self.channels, "num_heads", self.attention.num_heads)
        return self


class Pooling(Strict):
    """Text features pooled by attention into one vector that is added to the time embedding (Imagen)."""

    num_heads: Width


class UNet(Part):
    """The denoiser; levels run from high to low resolution, each half the side of the one before."""

    kind: Literal["unet"]
    in_channels: Width
    out_channels: Width
    time_dim: Width
    context_dim: Width = Field(description="width of the text features where attention meets them")
    text_dim: Width | None = Field(default=None, description="width of the text encoder, projected to context_dim")
    pooling: Pooling | None = None
    activation: Literal["silu", "gelu"]
    scale_shift: bool = Field(description="the time embedding scales and shifts the second norm, not only adds")
    resample: Literal["conv", "res_block"]
    projection: Literal["conv", "linear"] = Field(description="into and out of transformer blocks")
    norm_groups: Width
    norm_eps: Positive
    levels: list[Level] = Field(min_length=1, max_length=16)
    middle: LevelAttention

    @model_validator(mode="after")
    def _possible(self) -> UNet:
        for index, level in enumerate(self.levels):
            _divides(f"levels.{index}.channels", level.channels, "norm_groups", self.norm_groups)
        _divides("the channels of the last level", self.levels[-1].channels, "middle.num_heads", self.middle.num_heads)
        _divides("the channels of the first level", self.levels[0].channels, "2, for sines and cosines:", 2)
        return self

    @property
    def shrinks(self) -> int:
        """How many times smaller the side is in the middle."""
        return 2 ** (len(self.levels) - 1)


class KlDecoder(Part):
    """Latents to pixels: the decoder of a KL-regularised autoencoder, channels from low to high resolution."""

    kind: Literal["kl-decoder"]
    latent_channels: Width
    channels: list[Width] = Field(min_length=1, max_length=8)
    res_blocks: Depth
    norm_groups: Width
    norm_eps: Positive
    latent_scale: Positive = Field(description="latents are divided by it before they are decoded")

    @model_validator(mode="after")
    def _possible(self) -> KlDecoder:
        for index, channels in enumerate(self.channels):
            _divides(f"channels.{index}", channels, "norm_groups", self.norm_groups)
        return self

    @property
    def grows(self) -> int:
        """How many times larger the side of the image is."""
        return 2 ** (len(self.channels) - 1)


class Denoising(Strict):
    """Run defaults of a diffusion model: sampling steps, image side in pixels, guidance."""

    steps: int = Field(ge=1, le=1000)
    image_size: Length
    guidance_scale: float = Field(ge=0, le=100, allow_inf_nan=False)


class Schedule(Strict):
    """How noise falls over the 1,000 timesteps of training: square roots of beta lie on a line."""

    kind: Literal["scaled-linear"]
    beta_start: float = Field(gt=0, lt=1)
    beta_end: float = Field(gt=0, lt=1)
    timesteps: int = Field(ge=1, le=100_000)
    prediction: Literal["noise", "velocity"]


class LatentDiffusion(Architecture):
    """Text to latents in many steps of one UNet, latents to pixels (latent diffusion, Stable Diffusion)."""

    kind: Literal["latent-diffusion"]
    text_encoder: TextEncoder
    unet: UNet
    decoder: KlDecoder
    schedule: Schedule
    run: Denoising

    @model_validator(mode="after")
    def _consistent(self) -> LatentDiffusion:
        width = self.unet.text_dim or self.unet.context_dim
        if self.text_encoder.stack.dim != width:
            raise ValueError(
                f"the UNet reads text of width {width}, text_encoder.stack.dim is {self.text_encoder.stack.dim}"
            )
        if self.unet.in_channels != self.decoder.latent_channels:
            raise ValueError(
                f"unet.in_channels {self.unet.in_channels} differ from "
                f"decoder.latent_channels {self.decoder.latent_channels}"
            )
        if self.unet.out_channels != self.unet.in_channels:
            raise ValueError(
                f"unet.out_channels {self.unet.out_channels} differ from in_channels {self.unet.in_channels}"
            )
        _divides(
            "run.image_size",
            self.run.image_size,
            "the shrinking of decoder and UNet,",
            self.decoder.grows * self.unet.shrinks,
        )
        if self.run.steps > self.schedule.timesteps:
            raise ValueError(f"run.steps {self.run.steps} exceed schedule.timesteps {self.schedule.timesteps}")
        return self

    @property
    def latent_size(self) -> int:
        """Side of the latents."""
        return self.run.image_size // self.decoder.grows
