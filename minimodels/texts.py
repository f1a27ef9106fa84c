"""What pipelines tell their networks beside the picture: empty text for guidance, sizes and scores as numbers."""

from __future__ import annotations

import torch
from torch import Tensor

AESTHETIC_SCORE = 6.0  # the released pipelines' default


def beside_empty(text: Tensor, guided: bool) -> Tensor:
    """Text tokens (b, n), under guidance followed by as many texts without content, rows of zeros: (2b, n)."""
    return torch.cat([text, text.new_zeros(text.shape)]) if guided else text


def sizes_told(like: Tensor, count: int, side: int) -> Tensor:
    """The numbers (b, count) that SDXL, its refiner and aMUSEd are told of a picture that was never cropped.

    Width and height, two zeros for the crop, then width and height again (6 numbers) or an aesthetic score (5).
    """
    numbers = like.new_zeros(len(like), count)
    numbers[:, :2].fill_(side)
    numbers[:, 4:].fill_(AESTHETIC_SCORE if count == 5 else side)
    return numbers
