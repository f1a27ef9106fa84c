"""Config types of the networks that denoise: the UNet as a list of levels, Imagen's Efficient UNet, the prior.

Text enters a UNet in one of two ways, and parameter counts tell them apart: through cross-attention of its own
inside transformer blocks (`transformer`: latent diffusion, SD, SDXL, Emu), or appended to the keys and values
of every self-attention (`appended`: GLIDE, DALL-E 2, Imagen, DeepFloyd IF).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from minimodels.config import Depth, Length, Part, Positive, Stack, Strict, Width


def check_divides(what: str, value: int, by: str, divisor: int) -> None:
    """Raise a ValueError unless `divisor` divides `value`."""
    if value % divisor:
        raise ValueError(f"{what} {value} is not divisible by {by} {divisor}")


class TransformerAttention(Strict):
    """Transformer blocks: self-attention, cross-attention to the text, GEGLU."""

    kind: Literal["transformer"]
    depth: Depth
    num_heads: Width


class LayerTextNorm(Strict):
    """LayerNorm of each text token (Imagen)."""

    kind: Literal["layer"]


class GroupTextNorm(Strict):
    """GroupNorm over all text tokens (DeepFloyd IF)."""

    kind: Literal["group"]
    groups: Width


TextNorm = Annotated[LayerTextNorm | GroupTextNorm, Field(discriminator="kind")]


class AppendedAttention(Strict):
    """Self-attention to whose keys and values the text is appended."""

    kind: Literal["appended"]
    num_heads: Width
    only_text: bool = Field(default=False, description="attends to the text alone (DeepFloyd IF's super-resolution)")
    text_norm: TextNorm | None = Field(default=None, description="of the text, in each attention; none: it has none")


LevelAttention = Annotated[TransformerAttention | AppendedAttention, Field(discriminator="kind")]


class Level(Strict):
    """One resolution; the up path has one residual block more than the down path."""

    channels: Width
    res_blocks: Depth
    attention: LevelAttention | None = Field(default=None, description="none where not given")

    @model_validator(mode="after")
    def _possible(self) -> Level:
        if self.attention is not None:
            check_divides("channels", self.channels, "num_heads", self.attention.num_heads)
        return self


class Pooling(Strict):
    """Text features pooled by attention into one vector that is added to the time embedding (Imagen)."""

    num_heads: Width
    projected: bool = Field(description="pooled once they are projected to context_dim, not as the encoder gives them")


class Vector(Strict):
    """A vector per sample added to the time embedding: pooled text, then sinusoids of sizes and crops (SDXL)."""

    pooled_dim: Width = Field(description="width of the text encoder's pooled vector")
    numbers: int = Field(ge=0, le=64, description="sizes and crops told to the network")
    number_dim: Width = Field(description="sines and cosines of each number")

    @property
    def dim(self) -> int:
        """Width of the whole vector."""
        return self.pooled_dim + self.numbers * self.number_dim


class ImageTokens(Strict):
    """A CLIP image embedding, added to the time embedding and projected to tokens of context (DALL-E 2)."""

    dim: Width = Field(description="width of the image embedding")
    tokens: int = Field(ge=1, le=256)


Kernel = Literal[3, 5, 7]


class Pseudo3d(Strict):
    """Make-A-Video: a convolution over frames after each over pixels, attention over frames after each over pixels."""

    kind: Literal["pseudo-3d"]
    conv: bool
    attention: bool
    kernel: Kernel = Field(description="frames that a convolution over frames sees")


class TextToVideo(Strict):
    """ModelScope: convolutions over frames after each residual block, a transformer over frames after each over pixels.

    One more transformer over frames follows the first convolution; the others have the heads of their level.
    """

    kind: Literal["text-to-video"]
    convs: Depth = Field(description="convolutions over frames after each residual block")
    kernel: Kernel = Field(description="frames that a convolution over frames sees")
    depth: Depth = Field(description="blocks of each transformer over frames")
    stem_num_heads: Width = Field(description="of the transformer behind the first convolution")
    stem_head_dim: Width = Field(description="of the transformer behind the first convolution")


class Motion(Strict):
    """AnimateDiff: a transformer over frames, the motion module, after each residual block and its attention."""

    kind: Literal["motion"]
    num_heads: Width
    depth: Depth = Field(description="blocks of each motion module")
    middle_depth: Depth | None = Field(
        default=None, description="blocks of the motion module in the middle; none: it has none"
    )
    max_frames: Length = Field(description="frames that have positions")


Temporal = Annotated[Pseudo3d | TextToVideo | Motion, Field(discriminator="kind")]


class UNet(Part):
    """The denoiser; levels run from high to low resolution, each half the side of the one before."""

    kind: Literal["unet"]
    in_channels: Width
    out_channels: Width
    time_dim: Width
    context_dim: Width | None = Field(
        default=None, description="width of the text features where attention meets them; none: no text"
    )
    second_context_dim: Width | None = Field(
        default=None, description="a second text, attended to by the same queries (Emu)"
    )
    text_dim: Width | None = Field(default=None, description="width of the text encoder, projected to context_dim")
    pooling: Pooling | None = None
    vector: Vector | None = None
    image_tokens: ImageTokens | None = None
    noise_level: bool = Field(default=False, description="told how much noise its low-resolution input carries")
    frame_rate: bool = Field(default=False, description="told the frames per second (Make-A-Video)")
    temporal: Temporal | None = Field(default=None, description="none: images")
    activation: Literal["silu", "gelu"]
    scale_shift: bool = Field(description="the time embedding scales and shifts the second norm, not only adds")
    resample: Literal["conv", "res_block"]
    residual_scale: Positive | None = Field(
        default=None, description="what residual blocks divide their sum by (DeepFloyd IF's super-resolution); none: 1"
    )
    projection: Literal["conv", "linear"] | None = Field(
        default=None, description="into and out of transformer blocks; none where there are none"
    )
    norm_groups: Width
    norm_eps: Positive
    levels: list[Level] = Field(min_length=1, max_length=16)
    middle: LevelAttention | None = Field(default=None, description="attention in the middle; none where not given")

    @model_validator(mode="after")
    def _possible(self) -> UNet:
        for index, level in enumerate(self.levels):
            check_divides(f"levels.{index}.channels", level.channels, "norm_groups", self.norm_groups)
        if self.middle is not None:
            last = self.levels[-1].channels
            check_divides("the channels of the last level", last, "middle.num_heads", self.middle.num_heads)
        check_divides("the channels of the first level", self.levels[0].channels, "2, for sines and cosines:", 2)
        attends = [level.attention for level in self.levels if level.attention] + ([self.middle] if self.middle else [])
        if self.projection is None and any(attention.kind == "transformer" for attention in attends):
            raise ValueError("attention of kind 'transformer' needs a projection: 'conv' or 'linear'")
        if self.context_dim is None:
            if self.text_dim or self.pooling or self.second_context_dim or self.image_tokens:
                raise ValueError("text needs a context_dim")
            if any(attention.kind == "transformer" or attention.only_text for attention in attends):
                raise ValueError("attention of kind 'transformer', or only_text, needs a context_dim to attend to")
        for attention in attends:
            if attention.kind == "appended" and isinstance(attention.text_norm, GroupTextNorm) and self.context_dim:
                check_divides("context_dim", self.context_dim, "text_norm.groups", attention.text_norm.groups)
        if self.second_context_dim and any(attention.kind == "appended" for attention in attends):
            raise ValueError("second_context_dim needs attention of kind 'transformer' everywhere")
        if isinstance(self.temporal, Motion):
            self._check_motion(self.temporal)
        return self

    def _check_motion(self, motion: Motion) -> None:
        for index, level in enumerate(self.levels):
            check_divides(f"levels.{index}.channels", level.channels, "temporal.num_heads", motion.num_heads)
            check_divides(f"levels.{index}.channels", level.channels, "2, for sines and cosines:", 2)
        if motion.middle_depth is not None and self.middle is None:
            raise ValueError("temporal.middle_depth needs attention in the middle, which its motion module follows")

    @property
    def shrinks(self) -> int:
        """How many times smaller the side is in the middle."""
        return 2 ** (len(self.levels) - 1)


class Block(Strict):
    """One resolution of an Efficient UNet, half the side of the one before: residual blocks, then attention."""

    channels: Width
    res_blocks: Depth
    self_attention: bool
    cross_attention: bool


class EfficientUNet(Part):
    """Imagen's super-resolution network: most residual blocks at low resolution, resampling at the blocks' borders.

    Every attention to the text has a LayerNorm of it.
    """

    kind: Literal["efficient-unet"]
    in_channels: Width = Field(description="noisy pixels and the enlarged low-resolution image")
    out_channels: Width
    stem_channels: Width = Field(description="of the first and last convolution, at full resolution")
    time_dim: Width
    text_dim: Width
    context_dim: Width = Field(description="text features are projected to it")
    pooling: Pooling
    num_heads: Width
    ff_mult: int = Field(ge=1, le=16, description="width of the MLP behind attention, in channels")
    norm_groups: Width
    norm_eps: Positive
    levels: list[Block] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _possible(self) -> EfficientUNet:
        check_divides("stem_channels", self.stem_channels, "norm_groups", self.norm_groups)
        for index, block in enumerate(self.levels):
            check_divides(f"levels.{index}.channels", block.channels, "norm_groups", self.norm_groups)
            if block.self_attention or block.cross_attention:
                check_divides(f"levels.{index}.channels", block.channels, "num_heads", self.num_heads)
        return self

    @property
    def shrinks(self) -> int:
        """How many times smaller the side is in the last block."""
        return 2 ** len(self.levels)


Denoiser = Annotated[UNet | EfficientUNet, Field(discriminator="kind")]


class Prior(Part):
    """A causal transformer that turns text features into a CLIP image embedding (DALL-E 2)."""

    kind: Literal["prior"]
    text_dim: Width
    text_len: Length
    embedding_dim: Width = Field(description="width of CLIP's text and image embeddings")
    stack: Stack
