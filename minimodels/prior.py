"""The diffusion prior: a causal transformer from text features to the CLIP embedding of an image.

One sequence holds the text's features, its CLIP embedding, the timestep, the noisy image embedding and a trained
query; what comes out at the query is the image embedding without its noise.

Source: Ramesh et al. 2022 (DALL-E 2), arXiv 2204.06125, section 2.2 and Table 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minimodels.checks import check_features
from minimodels.transformer import Stack
from minimodels.unet_blocks import Embedding, per_sample, timestep_features
from minimodels.unet_config import Prior as PriorConfig

EXTRA = 4  # tokens behind the text: its embedding, the timestep, the noisy embedding, the query


class Prior(nn.Module):
    """Noisy embedding x (b, e), timestep t (b,), context (b, m, text_dim), text embedding (b, e) -> (b, e)."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        dim, width = config.stack.dim, config.embedding_dim
        self.dim = dim
        self.time = Embedding(dim, dim, "silu")
        self.text = nn.Linear(config.text_dim, dim)
        self.text_embedding = nn.Linear(width, dim)
        self.image_embedding = nn.Linear(width, dim)
        self.query = nn.Parameter(torch.empty(1, 1, dim))
        self.stack = Stack(config.stack, config.text_len + EXTRA, causal=True)
        self.leave = nn.Linear(dim, width)

    def forward(self, x: Tensor, t: Tensor | float, context: Tensor, embedding: Tensor) -> Tensor:
        check_features("x", x, self.image_embedding.in_features)
        check_features("context", context, self.text.in_features)
        check_features("embedding", embedding, self.text_embedding.in_features)
        time = self.time(timestep_features(per_sample(t, x), self.dim).to(x.dtype))
        told = torch.stack([self.text_embedding(embedding), time, self.image_embedding(x)], dim=1)
        sequence = torch.cat([self.text(context), told, self.query.expand(len(x), -1, -1)], dim=1)
        return self.leave(self.stack(sequence)[:, -1])
