"""From a network's output to the next state: guidance and token sampling.

Nothing here reads a tensor's value, so that all of it walks on `meta` and runs without a device sync.
"""

from __future__ import annotations

import torch
from torch import Tensor


def guide(x: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of x (2b, ...), conditional half first -> (b, ...): u + scale (c - u).

    Source: Ho and Salimans 2022, arXiv 2207.12598, eq. 6.
    """
    conditional, unconditional = x.chunk(2)
    return torch.lerp(unconditional, conditional, scale)


def sample_token(logits: Tensor, temperature: float) -> Tensor:
    """Draw one token from softmax(logits / temperature): (b, vocab) -> (b,).

    By exponential race: argmax of p / e, e exponential, is a draw from p.
    """
    probability = torch.softmax(logits / temperature, dim=-1)
    return (probability / torch.empty_like(probability).exponential_()).argmax(dim=-1)
