"""Architectures as data: the config types. `minimodels.load` reads them from TOML.

A config is one frozen record per architecture. `kind` says how the model generates (its pipeline); every
network as published is a *part*, with its published parameter count. Sizes have no defaults: what is not
written in the TOML file is an error. The only optional size is `head_dim`, which is `dim / num_heads`
unless a model says otherwise.
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

    @model_validator(mode="after")
    def _possible(self) -> Relative:
        if self.max_distance <= self.buckets // 2:
            raise ValueError(f"max_distance {self.max_distance} must exceed half the buckets ({self.buckets // 2})")
        return self


class Rotary(Strict):
    """RoPE: queries and keys are rotated by angles that fall geometrically from 1 to 1/theta."""

    kind: Literal["rotary"]
    theta: Positive


Position = Annotated[Learned | Relative | Rotary, Field(discriminator="kind")]


class Stack(Strict):
    """A stack of pre-norm transformer layers; widths are in features."""

    depth: Depth
    dim: Width
    num_heads: Width
    num_kv_heads: Width
    head_dim: Width | None = Field(default=None, description="dim / num_heads where not given")
    ff_dim: Width
    gated: bool = Field(description="GLU-style MLP with three matrices instead of two")
    bias: bool = Field(description="projections and MLP have biases")
    activation: Literal["gelu", "gelu_quick", "gelu_tanh", "relu", "silu"]
    scaled: bool = Field(description="scores divided by sqrt(head_dim); T5 leaves them as they are")
    norm: Norm
    position: Position

    @model_validator(mode="after")
    def _possible(self) -> Stack:
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
    encoder: Stack
    decoder: Stack


class DecoderOnly(Part):
    """Causal language model: embedding, decoder stack, untied output head."""

    kind: Literal["decoder-only"]
    vocab: Vocabulary
    context_len: Length
    decoder: Stack


class TextEncoder(Part):
    """Token embedding and a stack of layers with a final norm; CLIP's is causal, T5's is not."""

    kind: Literal["text-encoder"]
    vocab: Vocabulary
    text_len: Length
    causal: bool
    stack: Stack


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
