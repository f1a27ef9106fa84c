"""What training asks of an architecture: the network that trains, a batch, the loss, the blocks that are sharded.

The UNet of latent diffusion learns to predict noise, velocity or the clean latents, as its schedule says; a language
model the next token. Text encoders and autoencoders are frozen: a batch holds random latents and text features in the
place of what they make.

Source: Ho et al. 2020, arXiv 2006.11239, algorithm 1; Rombach et al. 2022, arXiv 2112.10752, eq. 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.config import LanguageModel
from minimodels.diffusion_config import LatentDiffusion, LatentVideo
from minimodels.kinds import Config
from minimodels.run import parameters
from minimodels.samplers import signals
from minimodels.transformer import Layer
from minimodels.unet import PixelAttention
from minimodels.unet_attention import TransformerBlock
from minimodels.unet_blocks import Downsample, ResBlock, Upsample

BLOCKS = (ResBlock, PixelAttention, TransformerBlock, Downsample, Upsample, Layer)  # gathered and freed as one each
KINDS = ("latent-diffusion", "latent-video", "language-model")

Trainable = LatentDiffusion | LatentVideo | LanguageModel
Batch = dict[str, Tensor]


def trainable(config: Config) -> Trainable:
    """The config, if its network can be trained here.

    Raises:
        ValueError: this kind of architecture has no training step.
    """
    if isinstance(config, LatentDiffusion | LatentVideo | LanguageModel):
        return config
    raise ValueError(
        f"{config.name} is of kind {config.kind}, which has no training step here; allowed: {', '.join(KINDS)}"
    )


def trained(config: Trainable) -> str:
    """The name of the part that trains."""
    return "language_model" if isinstance(config, LanguageModel) else "unet"


def blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a network by name, those within another after it; what is in none of them is sharded as one more.

    A block that is more than half of another is not gathered apart from it.
    """
    found: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        if isinstance(module, BLOCKS):
            outer, own = block_of(name, found), parameters(module)
            if own and (outer is None or 2 * own <= parameters(found[outer])):
                found[name] = module
    return found


def block_of(name: str, names: Iterable[str]) -> str | None:
    """The innermost of the blocks of these names that holds what has this name, if any does."""
    return max((block for block in names if name.startswith(f"{block}.")), key=len, default=None)


def example_batch(
    config: Trainable, batch: int, dtype: torch.dtype, device: str | torch.device, generator: torch.Generator | None
) -> Batch:
    """A random batch, drawn on the CPU, so that every device is given the same; on `meta` without content."""

    def drawn(of: Callable[..., Tensor], *shape: int) -> Tensor:
        if torch.device(device).type == "meta":
            return of(*shape, device="meta")
        return of(*shape, generator=generator).to(device)

    def normal(*shape: int) -> Tensor:
        return drawn(torch.randn, *shape).to(dtype)

    def below(limit: int) -> Callable[..., Tensor]:
        return lambda *shape, **options: torch.randint(limit, shape, **options)

    if isinstance(config, LanguageModel):
        length = config.run.prompt_len + config.run.gen_len
        return {"tokens": drawn(below(config.language_model.vocab), batch, length)}
    frames = (config.run.frames,) if isinstance(config, LatentVideo) else ()
    shape = (batch, config.unet.in_channels, *frames, config.latent_size, config.latent_size)
    width = config.unet.text_dim or config.unet.context_dim
    assert width is not None, "latent diffusion is told a text"
    made = {
        "latents": normal(*shape),
        "noise": normal(*shape),
        "timestep": drawn(below(config.schedule.timesteps), batch),
        "context": normal(batch, config.text_encoder.text_len, width),
    }
    second, vector = config.unet.second_context_dim, config.unet.vector
    if second is not None and config.second_text_encoder is not None:
        made["second_context"] = normal(batch, config.second_text_encoder.text_len, second)
    if vector is not None:
        made["vector"] = normal(batch, vector.dim)
    return made


def loss(config: Trainable, network: nn.Module, batch: Batch) -> Tensor:
    """The mean loss of a batch of `example_batch`, a scalar in float32 at least."""
    if isinstance(config, LanguageModel):
        tokens = batch["tokens"]
        logits = _wide(network(tokens[:, :-1]))
        return F.cross_entropy(rearrange(logits, "b n vocab -> (b n) vocab"), tokens[:, 1:].flatten())
    x, noise, timestep = batch["latents"], batch["noise"], batch["timestep"]
    left = torch.tensor(signals(config.schedule), dtype=torch.float64, device=x.device)[timestep]
    keep, spread = (rearrange(share.sqrt().to(x.dtype), f"b -> b{' 1' * (x.dim() - 1)}") for share in (left, 1 - left))
    told = {name: batch[name] for name in ("second_context", "vector") if name in batch}
    predicted = network(keep * x + spread * noise, timestep, batch["context"], **told)
    target = {"noise": noise, "velocity": keep * noise - spread * x, "clean": x}[config.schedule.prediction]
    return F.mse_loss(_wide(predicted), _wide(target))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
