"""Formulas of single operators, as torch dispatches them: FLOPs by torch's counter, bytes by hand; odd sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from minimodels.sim.call import Call
from minimodels.sim.trace import Walk


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def walked(run: Callable[[], Any]) -> Call:
    """The last operator that `run` calls."""
    walk = Walk()
    with torch.inference_mode(), walk:
        run()
    assert [call.name for call in walk.calls if call.work.flops is None] == []
    return walk.calls[-1]


ROWS, PLANES, VOLUME = empty(2, 3, 7), empty(2, 3, 5, 7), empty(2, 3, 4, 5, 7)  # 42, 210 and 840 elements
INDEX = empty(2, 3, 2, dtype=torch.int64)  # 12 indices of 8 bytes
FLAGS = empty(2, 3, 7, dtype=torch.bool)
HALF = empty(2, 3, 5, 7, dtype=torch.bfloat16)

# name, kernel, what is run, bytes read, bytes written, launches
CASES: list[tuple[str, str, Callable[[], Any], int, int, int]] = [
    ("upsample_nearest1d", "gather", lambda: F.interpolate(ROWS, scale_factor=3), 4 * 42, 4 * 126, 1),
    ("upsample_nearest2d", "gather", lambda: F.interpolate(PLANES, size=(9, 11)), 4 * 210, 4 * 594, 1),
    ("upsample_nearest2d", "gather", lambda: F.interpolate(PLANES.mT, size=(9, 11)), 8 * 210, 4 * 594 + 4 * 210, 2),
    ("upsample_nearest3d", "gather", lambda: F.interpolate(VOLUME, scale_factor=2), 4 * 840, 4 * 6720, 1),
    ("upsample_linear1d", "gather", lambda: F.interpolate(ROWS, scale_factor=3, mode="linear"), 4 * 42, 4 * 126, 1),
    ("upsample_bilinear2d", "gather", lambda: F.interpolate(HALF, scale_factor=2, mode="bilinear"), 420, 1680, 1),
    ("upsample_bilinear2d", "gather", lambda: F.interpolate(HALF.mT, scale_factor=2, mode="bilinear"), 420, 1680, 1),
    ("upsample_trilinear3d", "gather", lambda: F.interpolate(VOLUME, scale_factor=2, mode="trilinear"), 3360, 26880, 1),
    ("upsample_bicubic2d", "gather", lambda: F.interpolate(PLANES, scale_factor=2, mode="bicubic"), 840, 3360, 1),
    ("upsample_bicubic2d", "gather", lambda: F.interpolate(PLANES.mT, scale_factor=2, mode="bicubic"), 840, 3360, 1),
    ("_upsample_bicubic2d_aa", "gather",
     lambda: F.interpolate(PLANES, size=(3, 2), mode="bicubic", antialias=True), 840, 4 * 36, 1),
    ("avg_pool1d", "norm", lambda: F.avg_pool1d(ROWS, 2), 168, 4 * 18, 1),
    ("avg_pool3d", "norm", lambda: F.avg_pool3d(VOLUME, 2), 3360, 4 * 72, 1),
    ("max", "norm", lambda: ROWS.max(), 168, 4, 1),
    ("max", "norm", lambda: ROWS.max(-1), 168, 6 * (4 + 8), 1),
    ("max", "elementwise", lambda: torch.max(ROWS, ROWS[0]), 168 + 84, 168, 1),
    ("min", "norm", lambda: ROWS.min(0), 168, 21 * (4 + 8), 1),
    ("amax", "norm", lambda: ROWS.amax(-1), 168, 24, 1),
    ("aminmax", "norm", lambda: torch.aminmax(ROWS), 168, 8, 1),
    ("std", "norm", lambda: ROWS.std(-1), 168, 24, 1),
    ("var", "norm", lambda: ROWS.var((1, 2)), 168, 8, 1),
    ("var_mean", "norm", lambda: torch.var_mean(ROWS, -1), 168, 48, 1),
    ("cumsum", "norm", lambda: ROWS.cumsum(-1), 168, 168, 1),
    ("softmax", "softmax", lambda: ROWS.softmax(-1), 168, 168, 1),
    ("softmax", "softmax", lambda: ROWS.mT.softmax(-1), 2 * 168, 2 * 168, 2),
    ("sort", "gather", lambda: ROWS.sort(-1), 168 + 42 * (4 + 8), 2 * 42 * (4 + 8), 3),
    ("argsort", "gather", lambda: ROWS.argsort(-1), 168 + 42 * (4 + 8), 2 * 42 * (4 + 8), 3),
    ("topk", "gather", lambda: ROWS.topk(2), 168, 12 * (4 + 8), 1),
    ("quantile", "gather", lambda: ROWS.quantile(0.9, dim=-1), 2 * 168 + 42 * 12 + 42, 2 * 42 * 12 + 42 + 24, 14),
    ("gather", "gather", lambda: ROWS.gather(-1, INDEX), 12 * (8 + 4), 12 * 4, 1),
    ("gather", "gather", lambda: empty(2, 3, 7, dtype=torch.int64).gather(-1, INDEX), 12 * (8 + 8), 12 * 8, 1),
    ("scatter", "gather", lambda: ROWS.scatter(-1, INDEX, empty(2, 3, 2)), 168 + 12 * (8 + 4), 168 + 12 * 4, 2),
    ("scatter_", "gather", lambda: ROWS.clone().scatter_(-1, INDEX, empty(2, 3, 2)), 12 * (8 + 4), 12 * 4, 1),
    ("scatter_", "gather", lambda: ROWS.clone().scatter_(-1, INDEX, 1.5), 12 * 8, 12 * 4, 1),
    ("index_fill", "gather", lambda: ROWS.index_fill(1, INDEX[0, 0], 0.0), 168 + 16, 168 + 2 * 2 * 7 * 4, 2),
    ("index_fill_", "gather", lambda: ROWS.clone().index_fill_(1, INDEX[0, 0], 0.0), 16, 2 * 2 * 7 * 4, 1),
    ("one_hot", "gather", lambda: F.one_hot(INDEX, 9), 96, 12 * 9 * 8 + 12 * 8, 2),
    ("where", "elementwise", lambda: torch.where(FLAGS, ROWS, 0.0), 42 + 168, 168, 1),
    ("masked_fill_", "elementwise", lambda: ROWS.clone().masked_fill_(FLAGS, 0.0), 168 + 42, 168, 1),
    ("__and__", "elementwise", lambda: FLAGS & FLAGS[0], 42 + 21, 42, 1),
    ("promote_types", "none", lambda: torch.promote_types(torch.float32, torch.bfloat16), 0, 0, 0),
    ("flip", "copy", lambda: ROWS.flip(-1), 168, 168, 1),
    ("stack", "copy", lambda: torch.stack([ROWS, ROWS]), 2 * 168, 2 * 168, 1),
    ("repeat", "copy", lambda: ROWS.repeat(2, 1, 1), 168, 2 * 168, 1),
    ("pixel_unshuffle", "copy", lambda: F.pixel_unshuffle(empty(2, 3, 4, 6), 2), 4 * 144, 4 * 144, 1),
    ("pad", "copy", lambda: F.pad(PLANES, (1, 1, 2, 0)), 840, 4 * 6 * 9 * 7 + 840, 2),
    ("pad", "copy", lambda: F.pad(PLANES, (-1, -2)), 4 * 120, 4 * 120, 1),
    ("pad", "gather", lambda: F.pad(PLANES, (1, 1, 2, 0), mode="reflect"), 840, 4 * 6 * 9 * 7, 1),
    ("constant_pad_nd", "copy", lambda: torch.constant_pad_nd(PLANES, (1, -2)), 4 * 150, 4 * 180 + 4 * 150, 2),
    ("cdist", "norm", lambda: torch.cdist(ROWS, empty(2, 5, 7)), 168 + 280, 4 * 30, 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kernel", "run", "read", "written", "launches"), CASES, ids=[c[0] for c in CASES])
def test_bytes_are_those_counted_by_hand(
    name: str, kernel: str, run: Callable[[], Any], read: int, written: int, launches: int
) -> None:
    call = walked(run)
    assert (call.name, call.work.kernel, call.work.flops) == (name, kernel, 0)
    assert (call.work.bytes_read, call.work.bytes_written, call.work.launches) == (read, written, launches)


PRODUCTS: list[tuple[str, tuple[int, ...], Callable[[], Any]]] = [
    ("conv1d", (1, 14, 5, 3 * 3), lambda: F.conv1d(ROWS, empty(5, 3, 3), padding=1)),
    ("conv2d", (1, 70, 5, 3), lambda: F.conv2d(PLANES, empty(5, 3, 1, 1))),
    ("conv2d", (3, 30, 2, 9), lambda: F.conv2d(PLANES, empty(6, 1, 3, 3), groups=3)),
    ("conv_transpose2d", (1, 70, 5 * 4, 3), lambda: F.conv_transpose2d(PLANES, empty(3, 5, 2, 2), stride=2)),
    ("conv_transpose2d", (3, 70, 2 * 9, 1), lambda: F.conv_transpose2d(PLANES, empty(3, 2, 3, 3), groups=3)),
    ("conv3d", (1, 2 * 2 * 3 * 5, 5, 3 * 27), lambda: F.conv3d(VOLUME, empty(5, 3, 3, 3, 3))),
    ("conv3d", (1, 280, 5, 9), lambda: F.conv3d(VOLUME, empty(5, 3, 3, 1, 1), padding="same")),
]


@pytest.mark.parametrize(("name", "gemm", "run"), PRODUCTS)
def test_flops_are_those_of_the_product_and_of_torch(name: str, gemm: tuple[int, ...], run: Callable[[], Any]) -> None:
    call, counter = walked(run), FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        run()
    batch, m, n, k = gemm
    assert (call.name, call.work.gemm) == (name, gemm)
    assert call.work.flops == 2 * batch * m * n * k == counter.get_total_flops()


def test_many_distances_are_a_product_that_the_counter_of_torch_does_not_see() -> None:
    """torch multiplies inside one operator: a trace of a CPU run shows bmm of (2, 27, 9) and (2, 9, 31)."""
    work = walked(lambda: torch.cdist(empty(2, 27, 7), empty(2, 31, 7))).work
    assert (work.gemm, work.flops) == ((2, 27, 31, 9), 2 * 2 * 27 * 31 * 9)
    asked = walked(lambda: torch.cdist(ROWS, ROWS, compute_mode="use_mm_for_euclid_dist")).work
    assert (asked.gemm, asked.flops) == ((2, 3, 3, 9), 2 * 2 * 3 * 3 * 9)


def test_distances_move_the_extended_points_and_the_result_three_times() -> None:
    n, m, d = 27, 31, 7
    work = walked(lambda: torch.cdist(empty(n, d), empty(m, d))).work
    a, b, rows, result, joined = n * d, m * d, n + m, n * m, (n + m) * (d + 2)
    assert work.bytes_read == 4 * ((a + b) + (a + b) + a + (a + b + 2 * rows) + joined + 2 * result)
    assert work.bytes_written == 4 * ((a + b) + rows + rows + a + joined + 3 * result)
