"""The kinds of architecture: which record a config file's `kind` stands for."""

from __future__ import annotations

from minimodels.config import AutoregressiveImage, LanguageModel
from minimodels.diffusion_config import CascadedDiffusion, CascadedVideo, LatentDiffusion, LatentVideo
from minimodels.dit_config import ClassImage, FlowImage, FlowVideo
from minimodels.token_config import MaskedImage, ParallelImage, ParallelVideo

Config = (
    AutoregressiveImage
    | LanguageModel
    | LatentDiffusion
    | LatentVideo
    | CascadedDiffusion
    | CascadedVideo
    | ParallelImage
    | ParallelVideo
    | MaskedImage
    | ClassImage
    | FlowImage
    | FlowVideo
)
KINDS: dict[str, type[Config]] = {
    "autoregressive-image": AutoregressiveImage,
    "language-model": LanguageModel,
    "latent-diffusion": LatentDiffusion,
    "latent-video": LatentVideo,
    "cascaded-diffusion": CascadedDiffusion,
    "cascaded-video": CascadedVideo,
    "parallel-image": ParallelImage,
    "parallel-video": ParallelVideo,
    "masked-image": MaskedImage,
    "class-image": ClassImage,
    "flow-image": FlowImage,
    "flow-video": FlowVideo,
}
