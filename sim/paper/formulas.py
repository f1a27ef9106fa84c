"""The formulas of the study: memory of similarity matrices over a UNet (section V-A), FLOPs of attention (VI-B).

Sides are those of the features attention sees: of the latents, or of the pixels where a model denoises those.
"""

from __future__ import annotations

BYTES = 2  # of an element: FP16, or bfloat16


def self_pairs(height: int, width: int) -> int:
    """Elements of the similarity matrix of pixels with pixels, one head: equation 1."""
    return (height * width) ** 2


def cross_pairs(height: int, width: int, text_len: int) -> int:
    """Elements of the similarity matrix of pixels with tokens of the text, one head: equation 2."""
    return height * width * text_len


def similarity_bytes(height: int, width: int, text_len: int, *, heads: int = 1, batch: int = 1) -> int:
    """Bytes of the similarity matrices of a self-attention and the cross-attention behind it: equation 3.

    The study omits heads and batch; classifier-free guidance doubles the batch.
    """
    return BYTES * heads * batch * (self_pairs(height, width) + cross_pairs(height, width, text_len))


def unet_similarity_bytes(
    height: int, width: int, text_len: int, depth: int, *,
    factor: int = 2, blocks: tuple[int, int] = (1, 1), heads: int = 1, batch: int = 1,
) -> int:  # fmt: skip
    """Bytes of the similarity matrices of one pass of a UNet, added up: equation 4 with the defaults.

    height, width: at the first of `depth` levels that attend, each `factor` times smaller than the one before; once
    more so is the middle, which attends once. blocks: attention blocks of a level on the way down and on the way up.

    Raises:
        ValueError: a side cannot be divided so often.
    """
    if height % factor**depth or width % factor**depth:
        raise ValueError(f"{height} x {width} cannot be divided by {factor} {depth} times")
    levels = [(height // factor**n, width // factor**n) for n in range(depth + 1)]
    sizes = [similarity_bytes(*side, text_len, heads=heads, batch=batch) for side in levels]
    return sum(blocks) * sum(sizes[:-1]) + sizes[-1]


def spatial_flops(frames: int, height: int, width: int, dim: int, *, text_len: int = 0) -> int:
    """FLOPs of the two matrix products of attention over the pixels of each frame; dim: of all heads together.

    text_len: tokens that stand beside the pixels among the keys.
    """
    return 4 * frames * height * width * (height * width + text_len) * dim


def temporal_flops(frames: int, height: int, width: int, dim: int) -> int:
    """FLOPs of the two matrix products of attention over the frames of each pixel; dim: of all heads together."""
    return 4 * height * width * frames**2 * dim


def crossover(height: int, width: int) -> int:
    """Frames from which attention over frames takes more FLOPs than over pixels, in a layer without text."""
    return height * width
