"""From codes to pixels.

`VitDecoder` is the decoder of ViT-VQGAN: every code becomes a token, a transformer mixes them, and each token
is projected to its patch of pixels.

Source: Yu et al. 2021, Vector-quantized Image Modeling with Improved VQGAN, arXiv 2110.04627, section 3.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minimodels.config import VitDecoder as VitDecoderConfig
from minimodels.transformer import Stack


class VitDecoder(nn.Module):
    """Codes (b, grid * grid) of integers -> pixels (b, 3, h, w) with h = w = grid * patch_size."""

    def __init__(self, config: VitDecoderConfig) -> None:
        super().__init__()
        self.grid, self.patch_size = config.grid, config.patch_size
        self.codebook = nn.Embedding(config.codebook_size, config.code_dim)
        self.from_code = nn.Linear(config.code_dim, config.stack.dim)
        self.stack = Stack(config.stack, config.grid**2, causal=False)
        self.to_pixels = nn.Linear(config.stack.dim, 3 * config.patch_size**2)

    def forward(self, codes: Tensor) -> Tensor:
        code = F.normalize(self.codebook(codes), dim=-1)
        patches = self.to_pixels(self.stack(self.from_code(code)))
        return rearrange(
            patches, "b (h w) (c p q) -> b c (h p) (w q)", h=self.grid, p=self.patch_size, q=self.patch_size
        )
