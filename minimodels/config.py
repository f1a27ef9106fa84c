"""Architectures as data: the config types. `minimodels.load` reads them from TOML.

A config is one frozen record per architecture. `kind` says how the model generates (its pipeline); every
network as published is a *part*, with its published parameter count. Sizes have no defaults: what is not
written in the TOML file is an error. What may be left out is what not every network has (a projection, a second text, a
level's attention), and `head_dim`, which is `dim / num_heads` unless a model says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Depth = Annotated[int, Field(ge=1, le=4096)]
Width = Annotated[int, Field(ge=1, le=1 << 20)]
Vocabulary = Annotated[int, Field(ge=2, le=1 << 26)]
Length = Annotated[int, Field(ge=1, le=1 << 22)]
Factor = Annotated[int, Field(ge=1, le=64)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Strict(BaseModel):
    """Base of all config records: frozen, no unknown keys, no type coercion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Published(Strict):
    """The parameter count the authors state for a part, and where."""

    params: int = Field(gt=0)
    source: str


class PublishedTotal(Published):
    """The count the authors state for several parts together."""

    of: list[str] | None = Field(default=None, min_length=1, description="the parts; none: all")


class Norm(Strict):
    """Normalisation before each sublayer: LayerNorm with scale and shift, or RMSNorm with scale."""

    kind: Literal["layer", "rms"]
    eps: Positive


class Learned(Strict):
    """A trained vector per position, added to the embeddings."""

    kind: Literal["learned"]


class Relative(Strict):
    """T5: a trained bias per head and bucket of relative distance, added to the scores of every layer."""

    kind: Literal["relative"]
    buckets: int = Field(ge=4, le=4096)
    max_distance: Length
    shared: bool = Field(default=True, description="the same in all layers; umT5 has one of its own in each")

    @model_validator(mode="after")
    def _possible(self) -> Relative:
        if self.max_distance <= self.buckets // 2:
            raise ValueError(f"max_distance {self.max_distance} must exceed half the buckets ({self.buckets // 2})")
        return self


class Rotary(Strict):
    """RoPE: queries and keys are rotated by angles that fall geometrically from 1 to 1/theta."""

    kind: Literal["rotary"]
    theta: Positive


class LearnedAxes(Strict):
    """A trained vector per row, per column, and per frame where there are frames; their sum is added."""

    kind: Literal["learned-axes"]


Position = Annotated[Learned | LearnedAxes | Relative | Rotary, Field(discriminator="kind")]


class MultiAxis(Strict):
    """Self-attention on a square of tokens: half the heads inside blocks, half between them (HiT, Muse)."""

    side: Length = Field(description="tokens per side of the square")
    block: Length = Field(description="tokens per side of a block")

    @model_validator(mode="after")
    def _possible(self) -> MultiAxis:
        if self.side % self.block:
            raise ValueError(f"side {self.side} is not divisible by block {self.block}")
        return self


class Stack(Strict):
    """A stack of pre-norm transformer layers; widths are in features."""

    depth: Depth
    dim: Width
    num_heads: Width
    num_kv_heads: Width
    head_dim: Width | None = Field(default=None, description="dim / num_heads where not given")
    ff_dim: Width
    gated: bool = Field(description="GLU-style MLP with three matrices instead of two")
    bias: Literal["none", "out", "all"] = Field(description="on no layer; on MLP and output projections; on all")
    activation: Literal["gelu", "gelu_quick", "gelu_tanh", "relu", "silu"]
    scaled: bool = Field(description="scores divided by sqrt(head_dim); T5 leaves them as they are")
    norm: Norm
    position: Position
    multi_axis: MultiAxis | None = Field(default=None, description="how self-attention is split; none: it is not")

    @model_validator(mode="after")
    def _possible(self) -> Stack:
        if self.multi_axis is not None and (self.num_heads % 2 or self.num_kv_heads != self.num_heads):
            raise ValueError(
                f"multi_axis splits the heads in two: num_heads {self.num_heads} must be even "
                f"and num_kv_heads {self.num_kv_heads} the same"
            )
        if self.head_dim is None and self.dim % self.num_heads:
            raise ValueError(
                f"dim {self.dim} is not divisible by num_heads {self.num_heads}; change one or give head_dim"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}")
        if isinstance(self.position, Rotary) and self.head_width % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {self.head_width}")
        return self

    @property
    def head_width(self) -> int:
        """Features per head."""
        return self.head_dim or self.dim // self.num_heads


class Part(Strict):
    """One network as published."""

    published: Published | None = None


class EncoderDecoder(Part):
    """Text encoder and causal decoder over image tokens, with cross-attention."""

    kind: Literal["encoder-decoder"]
    text_vocab: Vocabulary
    text_len: Length
    image_vocab: Vocabulary
    image_tokens: Length
    shared: Literal["embedding", "all"] | None = Field(
        default=None,
        description="one embedding for text and image tokens, or for the output head too, which then sees features "
        "times dim**-0.5 (T5); none: each has its own, and image tokens one more, which starts",
    )
    encoder: Stack
    decoder: Stack

    @model_validator(mode="after")
    def _possible(self) -> EncoderDecoder:
        if self.shared and (self.text_vocab, self.encoder.dim) != (self.image_vocab, self.decoder.dim):
            raise ValueError(
                "a shared embedding needs text_vocab and image_vocab, and both stacks' dim, to be the same"
            )
        return self


class DecoderOnly(Part):
    """Causal language model: embedding, decoder stack, output head."""

    kind: Literal["decoder-only"]
    vocab: Vocabulary
    context_len: Length
    tied: bool = Field(default=False, description="the output head is the embedding")
    decoder: Stack


class TextEncoder(Part):
    """Token embedding and a stack of layers with a final norm; CLIP's is causal, T5's is not."""

    kind: Literal["text-encoder"]
    vocab: Vocabulary
    text_len: Length
    causal: bool
    features: Literal["last", "penultimate"] = Field(
        description="given to what follows: the last layer's, normed, or those of the layer before it as they are"
    )
    projection: Width | None = Field(
        default=None, description="width that the last token is projected to, to stand for the text; none: it is not"
    )
    end: int | None = Field(
        default=None, ge=0, description="number of the token that ends a text; none: the highest number in it"
    )
    stack: Stack

    @model_validator(mode="after")
    def _possible(self) -> TextEncoder:
        if self.features == "penultimate" and self.stack.depth < 2:
            raise ValueError("features of the layer before the last need a depth of 2 or more")
        return self


class VitDecoder(Part):
    """ViT-VQGAN decoder: code lookup, transformer over the grid of codes, one linear layer to pixels."""

    kind: Literal["vit-vqgan-decoder"]
    codebook_size: Vocabulary
    code_dim: Width
    grid: Length = Field(description="codes per side")
    patch_size: Factor = Field(description="pixels per code and side")
    stack: Stack


class ConvUpscaler(Part):
    """WDSR-style convolution networks in cascade, each doubling the image side."""

    kind: Literal["wdsr"]
    doublings: int = Field(ge=1, le=4)
    res_blocks: Depth
    channels: Width
    expansion: Factor


class Architecture(Strict):
    """What every architecture says of itself."""

    name: str = Field(min_length=1, description="from the file's name")
    title: str
    family: str
    paper: str
    published: PublishedTotal | None = Field(default=None, description="of parts together, where the authors state it")

    @model_validator(mode="after")
    def _of_its_parts(self) -> Architecture:
        own = [key for key, _ in self.parts()]
        for key in (self.published and self.published.of) or ():
            if key not in own:
                raise ValueError(f"published.of: {key!r} is no part; parts are {', '.join(own)}")
        return self

    def parts(self) -> Iterator[tuple[str, Part]]:
        """The networks of the architecture in the order they run, by section name."""
        for key in type(self).model_fields:
            value = getattr(self, key)
            if isinstance(value, Part):
                yield key, value


class Guidance(Strict):
    """Run defaults of a guided token model."""

    guidance_scale: float = Field(ge=0, le=100, allow_inf_nan=False)
    temperature: Positive


class AutoregressiveImage(Architecture):
    """Text to image tokens one by one, tokens to pixels, pixels to larger pixels (Parti)."""

    kind: Literal["autoregressive-image"]
    transformer: EncoderDecoder
    detokenizer: VitDecoder
    super_resolution: ConvUpscaler
    run: Guidance

    @model_validator(mode="after")
    def _consistent(self) -> AutoregressiveImage:
        tokens, grid = self.transformer.image_tokens, self.detokenizer.grid
        if tokens != grid * grid:
            raise ValueError(f"transformer.image_tokens {tokens} is not detokenizer.grid {grid} squared")
        if self.transformer.image_vocab != self.detokenizer.codebook_size:
            raise ValueError(
                f"transformer.image_vocab {self.transformer.image_vocab} differs from "
                f"detokenizer.codebook_size {self.detokenizer.codebook_size}"
            )
        return self


class Generation(Strict):
    """Run defaults of a language model: lengths in tokens."""

    prompt_len: Length
    gen_len: Length
    temperature: Positive


class LanguageModel(Architecture):
    """Prompt in one pass, then token by token (LLaMA)."""

    kind: Literal["language-model"]
    language_model: DecoderOnly
    run: Generation

    @model_validator(mode="after")
    def _fits_context(self) -> LanguageModel:
        total, context = self.run.prompt_len + self.run.gen_len, self.language_model.context_len
        if total > context:
            raise ValueError(
                f"run.prompt_len {self.run.prompt_len} + run.gen_len {self.run.gen_len} = {total} tokens "
                f"exceed language_model.context_len {context}"
            )
        return self
