"""Config types of diffusion models: in latents, or in pixels through a cascade, of images or of video."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from minimodels.autoencoder_config import KlDecoder
from minimodels.config import Architecture, Factor, Length, Positive, Strict, TextEncoder
from minimodels.unet_config import Denoiser, Motion, Prior, UNet, check_divides

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Schedule(Strict):
    """How noise falls over the timesteps of training.

    scaled-linear: square roots of beta lie on a line; linear: beta does; cosine: the signal is a squared cosine.
    """

    kind: Literal["scaled-linear", "linear", "cosine"]
    beta_start: float | None = Field(default=None, gt=0, lt=1)
    beta_end: float | None = Field(default=None, gt=0, lt=1)
    timesteps: int = Field(ge=1, le=100_000)
    below: int | None = Field(default=None, ge=1, description="timesteps that sampling visits; none: all of them")
    prediction: Literal["noise", "velocity", "clean"]

    @model_validator(mode="after")
    def _possible(self) -> Schedule:
        given = self.beta_start is not None, self.beta_end is not None
        if self.kind == "cosine" and any(given):
            raise ValueError("a cosine schedule has no beta_start or beta_end")
        if self.kind != "cosine" and not all(given):
            raise ValueError(f"a {self.kind} schedule needs beta_start and beta_end")
        if self.below is not None and self.below > self.timesteps:
            raise ValueError(f"below {self.below} exceeds timesteps {self.timesteps}")
        return self

    @property
    def visited(self) -> int:
        """Timesteps that sampling may visit."""
        return self.below or self.timesteps


class Denoising(Strict):
    """Run defaults of one denoising loop: steps, guidance, sampler."""

    steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0, le=100, allow_inf_nan=False)
    sampler: Literal["ddim", "ddpm", "euler"]
    dynamic_threshold: float | None = Field(
        default=None, gt=0, lt=1, description="quantile that pixels are clipped to at every step; none: they are not"
    )
    static_threshold: Positive | None = Field(
        default=None, description="size that values of the predicted image are clipped to at every step; none: not"
    )

    @model_validator(mode="after")
    def _one_threshold(self) -> Denoising:
        if self.dynamic_threshold is not None and self.static_threshold is not None:
            raise ValueError("dynamic_threshold and static_threshold both clip the image: give one of them")
        return self

    def check(self, where: str, schedule: Schedule) -> None:
        """Raise a ValueError unless the schedule has as many timesteps as there are steps."""
        if self.steps > schedule.visited:
            raise ValueError(f"{where}.steps {self.steps} exceed the {schedule.visited} timesteps of its schedule")


class LatentRun(Denoising):
    """Run defaults of latent diffusion."""

    image_size: Length


class LatentVideoRun(LatentRun):
    """Run defaults of latent diffusion of video."""

    frames: Length


class LatentModel(Architecture):
    """What latent diffusion of images and of video share: texts, one UNet over latents, a decoder of frames."""

    text_encoder: TextEncoder
    second_text_encoder: TextEncoder | None = Field(default=None, description="none where not given")
    unet: UNet
    decoder: KlDecoder
    schedule: Schedule
    run: LatentRun

    @model_validator(mode="after")
    def _fit_together(self) -> LatentModel:
        self._check_text()
        check_told("unet", self.unet, "vector", "second_context_dim")
        if self.unet.in_channels != self.decoder.latent_channels:
            raise ValueError(
                f"unet.in_channels {self.unet.in_channels} differ from "
                f"decoder.latent_channels {self.decoder.latent_channels}"
            )
        if self.unet.out_channels != self.unet.in_channels:
            raise ValueError(
                f"unet.out_channels {self.unet.out_channels} differ from in_channels {self.unet.in_channels}"
            )
        shrinks = self.decoder.grows * self.unet.shrinks
        check_divides("run.image_size", self.run.image_size, "the shrinking of decoder and UNet,", shrinks)
        self.run.check("run", self.schedule)
        return self

    def _check_text(self) -> None:
        unet, first, second = self.unet, self.text_encoder, self.second_text_encoder
        if second is None or unet.second_context_dim is not None:
            given, width = first.stack.dim, unet.text_dim or unet.context_dim
        else:
            given, width = first.stack.dim + second.stack.dim, unet.text_dim or unet.context_dim
            if first.text_len != second.text_len:
                raise ValueError("features of two text encoders can be joined where their text_len is the same")
        if given != width:
            raise ValueError(f"the UNet reads text of width {width}, text_encoder.stack.dim is {given}")
        if unet.second_context_dim is not None and (second is None or second.stack.dim != unet.second_context_dim):
            raise ValueError(f"unet.second_context_dim {unet.second_context_dim} needs a second_text_encoder that wide")
        if unet.vector is not None and self.pooled_dim != unet.vector.pooled_dim:
            raise ValueError(
                f"unet.vector.pooled_dim {unet.vector.pooled_dim} differs from the width that the last "
                f"text encoder projects to, {self.pooled_dim}"
            )

    @property
    def latent_size(self) -> int:
        """Side of the latents."""
        return self.run.image_size // self.decoder.grows

    @property
    def pooled_dim(self) -> int | None:
        """Width of the vector that stands for the whole text: that of the last encoder."""
        return (self.second_text_encoder or self.text_encoder).projection


class LatentDiffusion(LatentModel):
    """Text to latents in many steps of one UNet, latents to pixels (latent diffusion, Stable Diffusion)."""

    kind: Literal["latent-diffusion"]

    @model_validator(mode="after")
    def _consistent(self) -> LatentDiffusion:
        if self.unet.temporal is not None:
            raise ValueError("unet.temporal makes a network for video, which needs kind 'latent-video'")
        return self


class LatentVideo(LatentModel):
    """Text to the latents of all frames in many steps of one UNet, latents to frames (ModelScope, AnimateDiff)."""

    kind: Literal["latent-video"]
    run: LatentVideoRun  # type: ignore[assignment]  # narrower, in a frozen record

    @model_validator(mode="after")
    def _consistent(self) -> LatentVideo:
        temporal = self.unet.temporal
        if temporal is None:
            raise ValueError("unet has no section temporal: a network for video needs one")
        if isinstance(temporal, Motion) and self.run.frames > temporal.max_frames:
            raise ValueError(f"run.frames {self.run.frames} exceed unet.temporal.max_frames {temporal.max_frames}")
        return self


class CascadeRun(Strict):
    """Run defaults of a cascade: the side of the final image, and each network's loop."""

    image_size: Length
    augmentation: Share = Field(description="noise on low-resolution images, as a share of the timesteps")
    unet: Denoising
    super_resolution_1: Denoising
    super_resolution_2: Denoising


class CascadeSchedules(Strict):
    """Noise of each network of a cascade."""

    unet: Schedule
    super_resolution_1: Schedule
    super_resolution_2: Schedule


class CascadedDiffusion(Architecture):
    """Text to a small image, enlarged twice, each in a denoising loop of its own (Imagen)."""

    kind: Literal["cascaded-diffusion"]
    text_encoder: TextEncoder
    unet: Denoiser
    super_resolution_1: Denoiser
    super_resolution_2: Denoiser
    scales: list[Factor] = Field(min_length=2, max_length=2, description="how much larger each enlargement is")
    schedules: CascadeSchedules
    run: CascadeRun

    @model_validator(mode="after")
    def _consistent(self) -> CascadedDiffusion:
        check_divides("run.image_size", self.run.image_size, "scales", prod(self.scales))
        for name, side, colors in zip(self.networks, self.sides, (3, 6, 6), strict=True):
            network: Denoiser = getattr(self, name)
            check_divides(f"the side of {name}", side, "its shrinking", network.shrinks)
            check_channels(name, network, colors)
            check_told(name, network, *(() if name == "unet" else ("noise_level",)))
            width = network.text_dim or network.context_dim
            if width not in (None, self.text_encoder.stack.dim):
                raise ValueError(
                    f"{name} reads text of width {width}, text_encoder.stack.dim is {self.text_encoder.stack.dim}"
                )
            getattr(self.run, name).check(f"run.{name}", getattr(self.schedules, name))
        return self

    @property
    def networks(self) -> tuple[str, str, str]:
        """The names of the denoising networks, in order."""
        return "unet", "super_resolution_1", "super_resolution_2"

    @property
    def sides(self) -> tuple[int, int, int]:
        """Side in pixels that each network denoises."""
        last = self.run.image_size
        return last // prod(self.scales), last // self.scales[1], last


def check_channels(name: str, network: Denoiser, colors: int) -> None:
    """Raise a ValueError unless a network takes `colors` channels and gives three, or six with a learned variance."""
    if network.in_channels != colors:
        raise ValueError(f"{name}.in_channels is {network.in_channels}, the cascade gives it {colors}")
    if network.out_channels not in (3, 6):
        raise ValueError(f"{name}.out_channels is 3, or 6 with a learned variance, not {network.out_channels}")


def check_told(name: str, network: Denoiser, *told: str) -> None:
    """Raise a ValueError where a UNet is to be told what its pipeline does not tell; `told` is what it does."""
    if not isinstance(network, UNet):
        return
    for key in ("noise_level", "frame_rate", "vector", "image_tokens", "second_context_dim"):
        if getattr(network, key) and key not in told:
            raise ValueError(f"{name}.{key} is set, and nothing in this kind of model tells the network of it")


class VideoRun(Strict):
    """Run defaults of Make-A-Video: side, frames before interpolation, and each network's loop."""

    image_size: Length = Field(description="side in pixels after the last enlargement")
    frames: Length = Field(description="frames that the decoder makes, before interpolation")
    frame_skip: Factor = Field(description="interpolation puts frame_skip - 1 frames between each two")
    frame_rate: float = Field(gt=0, le=1000, description="frames per second that networks are told")
    augmentation: Share = Field(description="noise on low-resolution images, as a share of the timesteps")
    prior: Denoising
    decoder: Denoising
    interpolation: Denoising
    super_resolution_1: Denoising
    super_resolution_2: Denoising


class VideoSchedules(Strict):
    """Noise of each network of Make-A-Video."""

    prior: Schedule
    decoder: Schedule
    interpolation: Schedule
    super_resolution_1: Schedule
    super_resolution_2: Schedule


class CascadedVideo(Architecture):
    """Text to an image embedding, to a few small frames, to more frames, enlarged twice (Make-A-Video)."""

    kind: Literal["cascaded-video"]
    text_encoder: TextEncoder
    prior: Prior
    decoder: UNet
    interpolation: UNet
    super_resolution_1: UNet
    super_resolution_2: UNet
    scales: list[Factor] = Field(min_length=2, max_length=2, description="how much larger each enlargement is")
    schedules: VideoSchedules
    run: VideoRun

    @model_validator(mode="after")
    def _consistent(self) -> CascadedVideo:
        text, prior = self.text_encoder, self.prior
        if (text.stack.dim, text.projection, text.text_len) != (prior.text_dim, prior.embedding_dim, prior.text_len):
            raise ValueError(
                f"the prior reads text of width {prior.text_dim}, length {prior.text_len} and embedding "
                f"{prior.embedding_dim}; text_encoder gives {text.stack.dim}, {text.text_len} and {text.projection}"
            )
        check_divides("run.image_size", self.run.image_size, "scales", prod(self.scales))
        first, second, last = self.sides
        for name, side, colors in (
            ("decoder", first, 3),
            ("interpolation", first, 7),
            ("super_resolution_1", second, 6),
            ("super_resolution_2", last, 6),
        ):
            network: UNet = getattr(self, name)
            check_divides(f"the side of {name}", side, "its shrinking", network.shrinks)
            check_channels(name, network, colors)
            of_video = ("frame_rate", "image_tokens") if name != "super_resolution_2" else ()
            check_told(name, network, *of_video, *(("noise_level",) if colors == 6 else ()))
            if network.context_dim is not None and network.image_tokens is None:
                raise ValueError(f"{name}.context_dim needs image_tokens: no text reaches this network")
            told = network.image_tokens
            if told is not None and told.dim != prior.embedding_dim:
                raise ValueError(f"{name}.image_tokens.dim {told.dim} differs from prior.embedding_dim")
            if (network.temporal is None) != (name == "super_resolution_2"):
                raise ValueError(f"{name} has a section temporal: all networks but super_resolution_2 have one")
        for name in VideoSchedules.model_fields:
            getattr(self.run, name).check(f"run.{name}", getattr(self.schedules, name))
        return self

    @property
    def sides(self) -> tuple[int, int, int]:
        """Side in pixels of decoder and interpolation, and of both enlargements."""
        last = self.run.image_size
        return last // prod(self.scales), last // self.scales[1], last

    @property
    def total_frames(self) -> int:
        """Frames after interpolation."""
        return (self.run.frames - 1) * self.run.frame_skip + 1
