"""Config types of diffusion transformers and of what they generate: images of a class, images and video of a text.

What the published ones differ in is said by five settings: how positions enter, where the modulation comes from, what
text is to the network, whether queries and keys are normed, and whether video is attended to at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from minimodels.autoencoder_config import CausalDecoder, KlDecoder
from minimodels.config import (
    Architecture,
    Depth,
    Factor,
    Length,
    Part,
    Positive,
    Stack,
    Strict,
    TextEncoder,
    Vocabulary,
    Width,
)
from minimodels.diffusion_config import LatentRun, Schedule
from minimodels.unet_config import check_divides


class SinusoidalGrid(Strict):
    """Sines and cosines of column and row, added to tokens: a fixed table of as many as the square has (DiT)."""

    kind: Literal["sinusoidal-grid"]
    side: Length = Field(description="tokens per side of the square")


class RotaryAxes(Strict):
    """RoPE whose features are shared out among frame, row and column (FLUX, Wan)."""

    kind: Literal["rotary-axes"]
    theta: Positive
    axis_dims: list[Factor] = Field(min_length=3, max_length=3, description="features for frame, row and column")


class PlainNorm(Strict):
    """LayerNorm without weights: what scales and shifts it comes from the modulation."""

    kind: Literal["layer"]
    eps: Positive


class ModulatedStack(Stack):
    """Layers whose norms are scaled and shifted, and whose results are gated, by what the network is told (adaLN)."""

    norm: PlainNorm  # type: ignore[assignment]  # narrower, in a frozen record
    position: Annotated[SinusoidalGrid | RotaryAxes, Field(discriminator="kind")]  # type: ignore[assignment]
    multi_axis: None = None  # type: ignore[assignment]

    @model_validator(mode="after")
    def _axes_fit(self) -> ModulatedStack:
        if isinstance(self.position, RotaryAxes):
            axes = self.position.axis_dims
            if sum(axes) != self.head_width or any(width % 2 for width in axes):
                raise ValueError(f"position.axis_dims {axes} must be even and add up to the head_dim {self.head_width}")
        else:
            check_divides("dim", self.dim, "4, for sines and cosines of two axes:", 4)
        return self


class CrossText(Strict):
    """Every layer attends to the text, projected by two linear layers (Wan)."""

    kind: Literal["cross"]
    dim: Width = Field(description="width of the text features")


class JointText(Strict):
    """Text is a second stream of tokens in layers of its own, all attending to all (FLUX).

    They come before those of the stack, in which text and image are one sequence, and attention and MLP stand side by
    side between one norm and one projection.
    """

    kind: Literal["joint"]
    dim: Width = Field(description="width of the text features")
    depth: Depth = Field(description="layers of two streams")


class DiffusionTransformer(Part):
    """A transformer over patches of latents, told the time and more by adaLN."""

    kind: Literal["diffusion-transformer"]
    in_channels: Width
    out_channels: Width
    patch: list[Factor] = Field(
        min_length=2, max_length=3, description="of a token: frames where there are, rows, columns"
    )
    time_dim: Width = Field(description="sines and cosines of the time")
    modulation: Literal["layer", "shared"] = Field(
        description="a projection of its own in each layer; one projection for all, to which each adds a table (Wan)"
    )
    query_norm: Literal["head", "width"] | None = Field(
        default=None, description="RMSNorm of queries and keys, of each head or all heads at once; none: there is none"
    )
    attention: Literal["full", "factorised"] = Field(
        default="full", description="over all tokens; or in turn within each frame and over the frames of each place"
    )
    classes: Vocabulary | None = Field(default=None, description="told one of them, or one more: none; none: not told")
    pooled_dim: Width | None = Field(default=None, description="width of the pooled text it is told; none: it is not")
    guidance: bool = Field(default=False, description="told the guidance it is to imitate, so that one pass will do")
    text: Annotated[CrossText | JointText, Field(discriminator="kind")] | None = Field(
        default=None, description="none where not given"
    )
    stack: ModulatedStack

    @model_validator(mode="after")
    def _possible(self) -> DiffusionTransformer:
        check_divides("time_dim", self.time_dim, "2, for sines and cosines:", 2)
        video, joint = len(self.patch) == 3, isinstance(self.text, JointText)
        if isinstance(self.stack.position, SinusoidalGrid) and (video or joint):
            raise ValueError("stack.position 'sinusoidal-grid' is of images alone: video and text need 'rotary-axes'")
        if self.attention == "factorised" and (joint or not video):
            raise ValueError("attention 'factorised' is of video, without text among its tokens")
        if joint and self.modulation == "shared":
            raise ValueError("modulation 'shared' is not for two streams: with text of kind 'joint' it is 'layer'")
        if joint and self.stack.gated:
            raise ValueError("stack.gated: attention and MLP side by side have no gate")
        return self


def check_transformer(part: DiffusionTransformer, latents: tuple[int, ...]) -> None:
    """Raise a ValueError unless a transformer takes latents of this shape: channels, frames of video, rows, columns."""
    channels, *lengths = latents
    if len(part.patch) != len(lengths):
        raise ValueError(
            f"transformer.patch {part.patch} must have {len(lengths)} numbers, one for each axis of latents"
        )
    for axis, length, patch in zip(("frames", "rows", "columns")[-len(lengths) :], lengths, part.patch, strict=True):
        check_divides(f"{axis} of latents,", length, "the patch", patch)
    position = part.stack.position
    grid = tuple(length // patch for length, patch in zip(lengths, part.patch, strict=True))
    if isinstance(position, SinusoidalGrid) and grid != (position.side, position.side):
        raise ValueError(
            f"the image is {grid[0]} x {grid[1]} tokens, transformer.stack.position.side is {position.side}"
        )
    if part.in_channels != channels:
        raise ValueError(f"transformer.in_channels {part.in_channels} differ from decoder.latent_channels {channels}")
    if part.out_channels not in (channels, 2 * channels):
        raise ValueError(
            f"transformer.out_channels {part.out_channels} are neither the {channels} of latents nor twice as "
            f"many, with a learned variance"
        )


def check_told(
    part: DiffusionTransformer,
    *,
    classes: bool = False,
    guidance: bool = False,
    pooled: int | None = None,
    text: int | None = None,
) -> None:
    """Raise a ValueError unless a transformer is told what its pipeline tells it: texts by their widths."""
    for key, wants, told in (("classes", part.classes is not None, classes), ("guidance", part.guidance, guidance)):
        if wants != told:
            nothing = "this kind of model tells the network of them" if told else "nothing here tells the network of it"
            raise ValueError(f"transformer.{key} is {'not ' * told}set, and {nothing}")
    for key, width, given in (("pooled_dim", part.pooled_dim, pooled), ("text.dim", part.text and part.text.dim, text)):
        if width != given:
            raise ValueError(f"transformer.{key} is {width}, and the text given to the network {given} wide")


def image_latents(decoder: KlDecoder, image_size: int) -> tuple[int, int, int]:
    """Channels, height and width of the latents of a square image; a ValueError where they do not come out even."""
    check_divides("run.image_size", image_size, "the growing of the decoder,", decoder.grows)
    return decoder.latent_channels, image_size // decoder.grows, image_size // decoder.grows


class ClassImage(Architecture):
    """A class to latents in many steps of one transformer, latents to pixels (DiT)."""

    kind: Literal["class-image"]
    transformer: DiffusionTransformer
    decoder: KlDecoder
    schedule: Schedule
    run: LatentRun

    @model_validator(mode="after")
    def _fit_together(self) -> ClassImage:
        check_transformer(self.transformer, self.latent_shape)
        check_told(self.transformer, classes=True)
        self.run.check("run", self.schedule)
        return self

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the latents."""
        return image_latents(self.decoder, self.run.image_size)


class Flow(Strict):
    """Noise of rectified flow: x = (1 - s) image + s noise, the network predicting noise - image.

    Steps are evenly spaced in u from 1, with s = shift u / (1 + (shift - 1) u).
    """

    kind: Literal["flow"]
    shift: Positive = Field(description="more than 1 spends more steps where there is much noise")
    timesteps: Length = Field(description="what the network is told is s times this")


class FlowRun(Strict):
    """Run defaults of a flow: Euler's method, with guidance where its scale is not 1."""

    steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0, le=100, allow_inf_nan=False)


class FlowImageRun(FlowRun):
    """Those of an image."""

    image_size: Length
    told_guidance: float | None = Field(
        default=None,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="told to a network that imitates it; none: it is not",
    )


class FlowImage(Architecture):
    """Text to latents by a transformer and a flow, latents to pixels (FLUX)."""

    kind: Literal["flow-image"]
    pooled_text_encoder: TextEncoder
    text_encoder: TextEncoder
    transformer: DiffusionTransformer
    decoder: KlDecoder
    schedule: Flow
    run: FlowImageRun

    @model_validator(mode="after")
    def _fit_together(self) -> FlowImage:
        check_transformer(self.transformer, self.latent_shape)
        guidance, pooled, text = self.run.told_guidance, self.pooled_text_encoder.stack, self.text_encoder.stack
        check_told(self.transformer, guidance=guidance is not None, pooled=pooled.dim, text=text.dim)
        return self

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the latents."""
        return image_latents(self.decoder, self.run.image_size)


class FlowVideoRun(FlowRun):
    """Those of a video: sides in pixels."""

    height: Length
    width: Length
    frames: Length


class FlowVideo(Architecture):
    """Text to the latents of all frames by a transformer and a flow, latents to frames (Wan)."""

    kind: Literal["flow-video"]
    text_encoder: TextEncoder
    transformer: DiffusionTransformer
    decoder: CausalDecoder
    schedule: Flow
    run: FlowVideoRun

    @model_validator(mode="after")
    def _fit_together(self) -> FlowVideo:
        run, decoder = self.run, self.decoder
        for name, side in (("height", run.height), ("width", run.width)):
            check_divides(f"run.{name}", side, "the growing of the decoder,", decoder.grows)
        if (run.frames - 1) % decoder.grows_in_time:
            below = 1 + (run.frames - 1) // decoder.grows_in_time * decoder.grows_in_time
            raise ValueError(
                f"run.frames {run.frames} is not 1 and a multiple of {decoder.grows_in_time}, the growing of the "
                f"decoder in time; nearest are {below} and {below + decoder.grows_in_time}"
            )
        check_transformer(self.transformer, self.latent_shape)
        check_told(self.transformer, text=self.text_encoder.stack.dim)
        return self

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels, frames, height and width of the latents."""
        run, decoder = self.run, self.decoder
        frames = 1 + (run.frames - 1) // decoder.grows_in_time
        return decoder.latent_channels, frames, run.height // decoder.grows, run.width // decoder.grows
