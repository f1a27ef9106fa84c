"""Where models meet operators of ours other than attention: one entrance an operator.

Under `kernel_backend("triton")` an entrance calls our operator where its limits allow. Otherwise, and wherever they
do not (float64, say), it runs torch's own operators, which a profile shows by name. Norms copy what does not lie
together, as torch's do inside.
Operators are imported where they are called, since importing Triton takes 0.2 s.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimodels.kernels.activations import ACTIVATIONS
from minimodels.kernels.backend import ours
from minimodels.kernels.layout import channels_last, pixel_rows
from minimodels.kernels.operator import DTYPES


def takes(*tensors: Tensor) -> bool:
    """Whether our kernels are asked for, and take tensors like these: of one dtype, not float64."""
    return ours() and tensors[0].dtype in DTYPES and all(x.dtype == tensors[0].dtype for x in tensors)


def gated(gate: Tensor, value: Tensor, activation: str) -> Tensor:
    """activation(gate) * value, both (..., d); activation: a name of `ACTIVATIONS`."""
    if takes(gate, value):
        from minimodels.kernels import glu

        if glu.row_stride(gate) is not None and glu.row_stride(value) is not None:
            return glu.gated(gate, value, activation)
    return value * ACTIVATIONS[activation](gate)


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, pos: int) -> tuple[Tensor, Tensor]:
    """Rotate q (b, heads, n, d), k (b, kv_heads, n, d), whose first rows are position `pos`, by a table (length, d)."""
    if takes(q, k, cos, sin) and q.dim() == 4 and q.stride(-1) == k.stride(-1) == 1:
        from minimodels.kernels import rotary

        rows = slice(pos, pos + q.shape[-2])
        return rotary.rotate(q, k, cos[rows], sin[rows])
    return _rotated(q, cos, sin, pos), _rotated(k, cos, sin, pos)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, pos: int) -> Tensor:
    n, head_dim = x.shape[-2:]
    cos, sin = cos[pos : pos + n], sin[pos : pos + n]
    return torch.addcmul(x * cos, x.roll(head_dim // 2, -1), sin)


def group_norm(
    x: Tensor, norm: nn.GroupNorm, activation: str | None = None, scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """norm(x) * (1 + scale) + shift through an activation; x (b, c, *pixels), scale and shift (b, c, 1, ...)."""
    silu = activation == "silu"
    if takes(x, norm.weight):
        from minimodels.kernels import group_norm as module

        x = x if module.is_channels_last(x) else x.contiguous()  # as torch does unseen
        result = module.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, scale, shift, silu)
        return result if silu or activation is None else ACTIVATIONS[activation](result)
    result = norm(x)
    if scale is not None and shift is not None:
        result = result * (1 + scale) + shift
    return result if activation is None else ACTIVATIONS[activation](result)


class Residual(NamedTuple):
    """What is added to the result of a convolution: x, laid out as it is, and a bias (c,) that x still lacks."""

    x: Tensor
    bias: Tensor | None = None


def _takes_epilogue(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether the bias of a convolution is better added afterwards: its result is channels-last."""
    return takes(x, conv.weight) and conv.bias is not None and channels_last(conv.weight)


def _unbiased(x: Tensor, conv: nn.Conv2d) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)  # type: ignore[arg-type]


def shortcut(x: Tensor, conv: nn.Module) -> Residual:
    """conv(x), a convolution or nothing, to be added to the result of another one."""
    if isinstance(conv, nn.Conv2d) and _takes_epilogue(x, conv):
        return Residual(_unbiased(x, conv), conv.bias)
    return Residual(conv(x))


def complete(residual: Residual) -> Tensor:
    """What is added, with its bias."""
    return residual.x if residual.bias is None else _epilogue(residual.x, residual.bias)


def convolve(x: Tensor, conv: nn.Conv2d, residual: Residual | None = None, divisor: float | None = None) -> Tensor:
    """(residual + conv(x)) / divisor."""
    if _takes_epilogue(x, conv):
        return _epilogue(_unbiased(x, conv), conv.bias, residual, divisor)
    result = nn.Conv2d.forward(conv, x)
    result = result if residual is None else complete(residual) + result
    return result if divisor is None else result / divisor


def _epilogue(x: Tensor, bias: Tensor | None, residual: Residual | None = None, divisor: float | None = None) -> Tensor:
    """What follows a convolution without its bias."""
    from minimodels.kernels import bias_residual as module

    assert bias is not None, "checked"
    last = torch.channels_last
    x = x.contiguous(memory_format=last)  # of itself, but for libraries that have no such convolution
    if residual is None:
        return module.bias_residual(x, bias, None, None, divisor)
    return module.bias_residual(x, bias, residual.x.contiguous(memory_format=last), residual.bias, divisor)


def upsample(x: Tensor) -> Tensor:
    """Twice the side of x (b, c, h, w) by nearest neighbour."""
    if takes(x) and channels_last(x) and pixel_rows(x):
        from minimodels.kernels import upsample as module

        return module.upsample(x)
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def upsample_conv(x: Tensor, folded: Tensor, bias: Tensor) -> Tensor:
    """Twice the side of x (b, c, h, w) by nearest neighbour, then a 3x3 convolution of a folded weight (c, n, 4, 4)."""
    from minimodels.kernels import upsample_conv as module

    if takes(x, folded, bias) and channels_last(folded):
        return _epilogue(module.upsample_conv(x.contiguous(memory_format=torch.channels_last), folded, None), bias)
    return module.upsample_conv(x, folded, bias)


def takes_temporal_conv(x: Tensor, conv: nn.Conv3d) -> bool:
    """Whether our kernel takes a convolution over the frames of x (b, c, f, h, w)."""
    if not takes(x, conv.weight):
        return False
    from minimodels.kernels import temporal_conv as module

    assert conv.padding == (conv.kernel_size[0] // 2, 0, 0) and conv.stride == conv.dilation == (1, 1, 1), conv
    return module.fits(x, conv.weight)


def temporal_conv(x: Tensor, conv: nn.Conv3d, residual: Residual | None = None) -> Tensor:
    """residual + conv(x), a convolution over the frames of x (b, c, f, h, w)."""
    if takes_temporal_conv(x, conv):
        from minimodels.kernels import temporal_conv as module

        added, more = residual or (None, None)
        added = None if added is None else added.contiguous(memory_format=torch.channels_last_3d)
        return module.temporal_conv(x, conv.weight, conv.bias, added, more)
    result = nn.Conv3d.forward(conv, x)
    return result if residual is None else complete(residual) + result


def layer_norm(x: Tensor, norm: nn.Module, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """norm(x) * (1 + scale) + shift, norm a LayerNorm or RMSNorm over the last dimension of x (b, ..., d).

    scale, shift: (b, 1, ..., d), one row a sample (adaLN), or neither.
    """
    weight, bias, eps, rms = _settings(norm)
    if takes(*_present(x, weight, scale)):
        from minimodels.kernels import layer_norm as module

        return module.layer_norm(x.contiguous(), weight, bias, *_rows(scale, shift), eps, rms)
    return _modulated(norm(x), scale, shift)


def add_norm(
    x: Tensor, delta: Tensor, norm: nn.Module, scale: Tensor | None = None, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x + delta, and `layer_norm` of it: what lies between two blocks of a transformer; both (b, ..., d)."""
    weight, bias, eps, rms = _settings(norm)
    if takes(*_present(x, delta, weight, scale)):
        from minimodels.kernels import layer_norm as module

        rows = _rows(scale, shift)
        return module.add_layer_norm(x.contiguous(), delta.contiguous(), weight, bias, *rows, eps, rms)
    x = x + delta
    return x, _modulated(norm(x), scale, shift)


def _modulated(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    return x if scale is None or shift is None else x * (1 + scale) + shift


def _present(*tensors: Tensor | None) -> list[Tensor]:
    return [x for x in tensors if x is not None]


def _rows(*modulation: Tensor | None) -> tuple[Tensor | None, ...]:
    """Scale and shift (b, 1, ..., d) as the kernel reads them: rows (b, d) that lie together."""
    return tuple(None if x is None else x.flatten(0, -2).contiguous() for x in modulation)


def _settings(norm: nn.Module) -> tuple[Tensor | None, Tensor | None, float, bool]:
    """Weight, bias and epsilon of a LayerNorm or RMSNorm, and whether it is the latter."""
    assert isinstance(norm, nn.LayerNorm | nn.RMSNorm) and norm.eps is not None, norm
    rms = isinstance(norm, nn.RMSNorm)
    return norm.weight, None if isinstance(norm, nn.RMSNorm) else norm.bias, norm.eps, rms


def takes_step(x: Tensor, predicted: Tensor) -> bool:
    """Whether `guided_step` takes x and a prediction like these."""
    if not takes(x, predicted):
        return False
    from minimodels.kernels import guided_step

    return guided_step.fits(x, predicted)


def guided_step(x: Tensor, predicted: Tensor, scale: float | None, affine: tuple[float, float, float]) -> Tensor:
    """The next x (b, ...) by a sampler's factors of x, the prediction and new noise; `takes_step` says yes.

    scale: of guidance, the prediction being (2b, ...), conditional half first; None: there is none.
    """
    from minimodels.kernels import guided_step

    noise = torch.empty_like(x).normal_() if affine[2] else None
    return guided_step.guided_step(x, predicted, noise, scale, *affine)


def draw_token(logits: Tensor, temperature: float) -> Tensor:
    """Draw from softmax(logits / temperature), (b, vocab) -> (b); `takes` says yes."""
    from minimodels.kernels import maskgit_step

    return maskgit_step.draw_token(logits, None, _seed(logits), temperature)


def unmask_step(
    tokens: Tensor, logits: Tensor, mask: int, masked: int, temperature: float, strength: float
) -> Tensor:  # fmt: skip
    """`samplers.unmask` of tokens (b, n), logits (b, n, vocab); `takes` says yes."""
    from minimodels.kernels import maskgit_step

    seed = _seed(logits)
    return maskgit_step.unmask_step(tokens, logits, None, None, seed, mask, masked, temperature, strength)


def _seed(x: Tensor) -> Tensor:
    """A seed from torch's generator, on the device: neither a sync nor the same noise at every replay of a graph."""
    return torch.empty((), dtype=torch.int64, device=x.device).random_()
