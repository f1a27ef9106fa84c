"""What a network is given, held against what it takes: a ValueError that says both. Shapes alone, no values."""

from __future__ import annotations

import torch
from torch import Tensor

SEQUENCES = ("context", "second_context", "text")  # features of tokens; all else a network is told is one row a sample


def check_tokens(x: Tensor, shape: str = "(b, n)", what: str = "tokens") -> None:
    """Raise unless x is (b, n) of integers, or of another shape that is given."""
    if x.dim() != len(shape.split()):
        raise ValueError(f"{what} must be {shape}, not of shape {tuple(x.shape)}")
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise ValueError(f"{what} must be integers, not {str(x.dtype).removeprefix('torch.')}")


def check_count(what: str, given: int, wanted: int, shape: str) -> None:
    """Raise unless there are as many of something as there must be; `shape` says how that comes about."""
    if given != wanted:
        raise ValueError(f"{given} {what} are given, this network takes {wanted}: {shape}")


def check_features(what: str, x: Tensor | None, width: int) -> None:
    """Raise unless x is there, with features (b, n, width), or (b, width) where it is no sequence."""
    if x is None:
        raise ValueError(f"this network is told {what}: give it {what}, {width} wide")
    shape = f"(b, n, {width})" if what in SEQUENCES else f"(b, {width})"
    if x.dim() != len(shape.split()):
        raise ValueError(f"{what} must be {shape}, not of shape {tuple(x.shape)}")
    if x.shape[-1] != width:
        raise ValueError(f"{what} is {x.shape[-1]} wide, this network takes {width}")


def check_told(what: str, x: Tensor | float | None, width: int | None) -> None:
    """Raise unless x is there where the network is told of it, `width` wide, and is not where `width` is None.

    A width of 0 is a number per sample.
    """
    if width is None:
        if x is not None:
            raise ValueError(f"this network is not told {what}: leave it out")
    elif width == 0:
        if x is None:
            raise ValueError(f"this network is told {what}: give it {what}, a number or one for each sample")
    else:
        if isinstance(x, float | int):
            raise ValueError(f"{what} must be a tensor (b, {width}), not the number {x}")
        check_features(what, x, width)


def check_picture(what: str, x: Tensor, channels: int, factor: int = 1, *, video: bool = False) -> None:
    """Raise unless x is (b, channels, h, w), in a video (b, channels, f, h, w), with sides that `factor` divides."""
    shape = "(b, c, f, h, w)" if video else "(b, c, h, w)"
    if x.dim() != 4 + video:
        raise ValueError(f"{what} must be {shape}, not of shape {tuple(x.shape)}")
    if x.shape[1] != channels:
        raise ValueError(f"{what} has {x.shape[1]} channels, this network takes {channels}")
    if x.shape[-2] % factor or x.shape[-1] % factor:
        raise ValueError(f"{what} is {x.shape[-2]} x {x.shape[-1]}: both sides must be multiples of {factor}")


def check_fits(what: str, given: int, room: int, where: str) -> None:
    """Raise where there are more of something than there is room for."""
    if given > room:
        raise ValueError(f"{given} {what} exceed the {room} {where}")
