"""Config types of models that decode tokens in parallel: Muse and aMUSEd (images), Phenaki (video)."""

from __future__ import annotations

from math import prod
from typing import Literal

from pydantic import Field, model_validator

from minimodels.autoencoder_config import CVivitDecoder, VqDecoder
from minimodels.config import Architecture, Depth, Length, Part, Positive, Stack, Strict, TextEncoder, Vocabulary, Width
from minimodels.unet_config import Vector, check_divides


class MaskedTransformer(Part):
    """Bidirectional transformer that fills in masked tokens, cross-attending to the text."""

    kind: Literal["masked-transformer"]
    vocab: Vocabulary
    axes: list[Length] = Field(min_length=1, max_length=3, description="tokens per axis: frames, height, width")
    text_dim: Width = Field(description="width of the text features")
    project_text: bool = Field(description="to the width of the stack, before keys and values are made of it")
    stack: Stack
    condition: Stack | None = Field(
        default=None, description="encoder of low-resolution tokens, attended to beside the text; none: no such tokens"
    )
    condition_axes: list[Length] | None = Field(default=None, description="low-resolution tokens per axis")
    condition_vocab: Vocabulary | None = None

    @model_validator(mode="after")
    def _possible(self) -> MaskedTransformer:
        split = self.stack.multi_axis
        if split is not None and self.axes != [split.side, split.side]:
            raise ValueError(f"axes {self.axes} are not the square that multi_axis.side {split.side} names")
        given = [self.condition is not None, self.condition_axes is not None, self.condition_vocab is not None]
        if any(given) and not all(given):
            raise ValueError("condition, condition_axes and condition_vocab go together")
        if self.condition is not None and (self.condition.dim != self.stack.dim or not self.project_text):
            raise ValueError("condition needs project_text and the width of the stack: both are attended to as one")
        return self

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return prod(self.axes)


class UVit(Part):
    """Bidirectional transformer between two stages of convolutions, for masked tokens on a grid (aMUSEd)."""

    kind: Literal["uvit"]
    vocab: Vocabulary = Field(description="rows of the embedding; the last is the mask")
    codebook_size: Vocabulary = Field(description="tokens that can be drawn")
    embedding_dim: Width
    text_dim: Width = Field(description="width of the text features")
    vector: Vector = Field(description="pooled text, and the numbers told to the network")
    channels: Width = Field(description="of the stages of convolutions")
    res_blocks: Depth = Field(description="in each stage, each with two cross-attentions to the text")
    stage_heads: Width = Field(description="heads of the attentions in the stages")
    resample: bool = Field(description="the transformer works on half the side of the grid")
    depth: Depth
    dim: Width
    num_heads: Width
    ff_dim: Width
    norm_eps: Positive

    @model_validator(mode="after")
    def _possible(self) -> UVit:
        check_divides("dim", self.dim, "num_heads", self.num_heads)
        check_divides("channels", self.channels, "stage_heads", self.stage_heads)
        check_divides("vector.number_dim", self.vector.number_dim, "2, for sines and cosines:", 2)
        if self.codebook_size >= self.vocab:
            raise ValueError(f"vocab {self.vocab} must exceed codebook_size {self.codebook_size}: its last is the mask")
        return self


def _same(what: str, a: object, b: object) -> None:
    if a != b:
        raise ValueError(f"{what}: {a} and {b} differ")


class ParallelRun(Strict):
    """Run defaults of parallel decoding: steps, guidance, randomness of the tokens and of which are kept."""

    steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0, le=100, allow_inf_nan=False)
    temperature: Positive
    choice_temperature: float = Field(
        ge=0, le=1000, allow_inf_nan=False, description="noise on the confidence that decides which tokens stay"
    )


class ParallelImageRun(ParallelRun):
    """Those of an image in two resolutions."""

    super_resolution_steps: int = Field(ge=1, le=1000)


class ParallelImage(Architecture):
    """Text to image tokens, many a step, at two resolutions; tokens to pixels (Muse)."""

    kind: Literal["parallel-image"]
    text_encoder: TextEncoder
    transformer: MaskedTransformer
    super_resolution: MaskedTransformer
    decoder: VqDecoder
    run: ParallelImageRun

    @model_validator(mode="after")
    def _consistent(self) -> ParallelImage:
        upper = self.super_resolution
        for name, part in (("transformer", self.transformer), ("super_resolution", upper)):
            _same(f"text_encoder.stack.dim and {name}.text_dim", self.text_encoder.stack.dim, part.text_dim)
        _same("transformer.axes and super_resolution.condition_axes", self.transformer.axes, upper.condition_axes)
        _same("transformer.vocab and super_resolution.condition_vocab", self.transformer.vocab, upper.condition_vocab)
        _same("super_resolution.vocab and decoder.codebook_size", upper.vocab, self.decoder.codebook_size)
        if len(upper.axes) != 2:
            raise ValueError(f"super_resolution.axes are height and width, not {upper.axes}")
        return self


class MaskedImageRun(ParallelRun):
    """Those of an image in one resolution, with its side."""

    image_size: Length


class MaskedImage(Architecture):
    """Text to image tokens, many a step, at one resolution; tokens to pixels (aMUSEd)."""

    kind: Literal["masked-image"]
    text_encoder: TextEncoder
    transformer: UVit
    decoder: VqDecoder
    run: MaskedImageRun

    @model_validator(mode="after")
    def _consistent(self) -> MaskedImage:
        text, part = self.text_encoder, self.transformer
        _same("text_encoder.stack.dim and transformer.text_dim", text.stack.dim, part.text_dim)
        _same("text_encoder.projection and transformer.vector.pooled_dim", text.projection, part.vector.pooled_dim)
        _same("transformer.codebook_size and decoder.codebook_size", part.codebook_size, self.decoder.codebook_size)
        if part.vector.numbers != 5:
            raise ValueError(
                f"transformer.vector.numbers are size, crop and score, 5 in all, not {part.vector.numbers}"
            )
        shrinks = self.decoder.grows * (2 if part.resample else 1)
        check_divides("run.image_size", self.run.image_size, "the shrinking of decoder and transformer,", shrinks)
        return self

    @property
    def mask(self) -> int:
        """The token that stands for none."""
        return self.transformer.vocab - 1

    @property
    def side(self) -> int:
        """Tokens per side of the image."""
        return self.run.image_size // self.decoder.grows


class ParallelVideoRun(ParallelRun):
    """Those of a video, with its frames."""

    frames: Length


class ParallelVideo(Architecture):
    """Text to video tokens, many a step; tokens to frames (Phenaki)."""

    kind: Literal["parallel-video"]
    text_encoder: TextEncoder
    transformer: MaskedTransformer
    decoder: CVivitDecoder
    run: ParallelVideoRun

    @model_validator(mode="after")
    def _consistent(self) -> ParallelVideo:
        part, decoder = self.transformer, self.decoder
        _same("text_encoder.stack.dim and transformer.text_dim", self.text_encoder.stack.dim, part.text_dim)
        _same("transformer.vocab and decoder.codebook_size", part.vocab, decoder.codebook_size)
        if len(part.axes) != 3:
            raise ValueError(f"transformer.axes are frames, height and width, not {part.axes}")
        _same("transformer.axes and decoder.grid", part.axes[1:], [decoder.grid, decoder.grid])
        patch, room = decoder.frame_patch, min(part.axes[0], decoder.max_frames)
        most = 1 + (room - 1) * patch
        if self.run.frames > most:
            raise ValueError(
                f"run.frames {self.run.frames} exceed {most}: 1 and then {patch} for each further frame of tokens, of "
                f"which transformer.axes has {part.axes[0]} and decoder.max_frames is {decoder.max_frames}"
            )
        if (self.run.frames - 1) % patch:
            below = 1 + (self.run.frames - 1) // patch * patch
            raise ValueError(
                f"run.frames {self.run.frames} is not 1 and a multiple of decoder.frame_patch {patch}; "
                f"nearest are {below} and {below + patch}"
            )
        return self

    @property
    def token_frames(self) -> int:
        """Frames of tokens: the first frame, then one per `frame_patch` frames."""
        return 1 + (self.run.frames - 1) // self.decoder.frame_patch
