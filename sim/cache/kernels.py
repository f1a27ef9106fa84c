"""The kernels of attention written out: what their blocks touch, and the instructions they execute.

Matrix products are tiles of a library; softmaxes, elementwise kernels and copies are torch's. Instructions are those
that a warp executes. Those of products are counted in the compiled code of a plain Triton product with the same tile
(`tiles.csv`, made by tests/sim/tile_code.py), since the library's is not at hand. Those of torch's kernels are
MODELLED: counted by hand along their inner loops, the counts beside each formula.

Sources: CUTLASS, `gemm/threadblock/mma_multistage.h`; PyTorch, `aten/src/ATen/native/cuda`: `PersistentSoftmax.cuh`,
`SoftMax.cu`, `CUDALoops.cuh`, `Loops.cuh`.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np

from minimodels.sim.cache.blocks import Layout, Step
from minimodels.sim.cache.gpu import THREADS
from minimodels.sim.cache.lru import Ints
from minimodels.sim.cost.gemm import STEP, TILES, product
from minimodels.sim.device import Device

WARP = 32
BLOCK = 128  # threads of a block of torch's elementwise kernels and softmaxes
VECTOR = 4  # elements that a thread of an elementwise kernel takes
IN_REGISTERS = 1024  # elements of a row that torch's softmax of a warp takes at most
ASYNC = 16  # bytes that an asynchronous copy takes at once: what rows are aligned to


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel on a part of its batch: what its blocks touch, and the warp instructions of all of them.

    resident: blocks of a compute unit at a time; through_l1: whether loads go through the L1 cache.
    """

    steps: list[Step]
    resident: int
    instructions: float
    through_l1: bool = True


def matmul(a: Layout, b: Layout, out: Layout, batch: int, device: Device) -> Kernel:
    """`batch` products a (m, k) x b (k, n) of a batched product, tile by tile; either operand may be transposed."""
    m, k, n = *a.sizes[-2:], b.sizes[-1]
    rows, columns = tile((int(np.prod(a.sizes[:-2])), m, n, k), device)
    depth = STEP // a.itemsize
    places = np.stack(np.meshgrid(range(batch), range(0, n, columns), range(0, m, rows), indexing="ij"), -1)
    which, right, down = places.reshape(-1, 3).T  # a column of tiles after the other
    steps = []
    for first in range(0, k, depth):
        last = min(first + depth, k)
        both = (
            _panel(a, which, down, min(m, rows), m, (first, last)),
            _panel(_transposed(b), which, right, min(n, columns), n, (first, last)),
        )
        steps.append(Step(*(np.concatenate(column, 1) for column in zip(*both, strict=True)), store=False))
    line = np.arange(min(m, rows))
    start = out.matrices(batch)[which][:, None] + out.itemsize * (
        (down[:, None] + line) * out.strides[-2] + right[:, None]
    )
    length = out.itemsize * np.minimum(columns, n - right)[:, None] * (down[:, None] + line < m)
    steps.append(Step(start, length, store=True))
    aligned = all(x.itemsize * stride % ASYNC == 0 for x in (a, b) for stride in x.strides if stride > 1)
    instructions = len(which) * _of_tile(rows, columns, len(steps) - 1)
    return Kernel(steps, 2 if rows * columns <= 128 * 64 else 1, instructions, through_l1=not aligned)


def tile(shape: tuple[int, int, int, int], device: Device) -> tuple[int, int]:
    """Rows and columns of the tile that the cost model takes for a product (batch, m, n, k), no split."""
    constants = device.constants
    own = constants.gemm_floor, constants.gemm_efficiency, constants.gemm_bandwidth
    batch, m, n, k = shape
    moved = 2.0 * batch * (m * k + k * n + m * n)
    priced = {
        choice: product(shape, moved, "bfloat16", device, own, "cold", "gemm", ((choice,), (1,))).seconds
        for choice in TILES
    }
    return min(priced, key=priced.__getitem__)


def _transposed(b: Layout) -> Layout:
    return Layout((*b.sizes[:-2], b.sizes[-1], b.sizes[-2]), (*b.strides[:-2], b.strides[-1], b.strides[-2]), b.base,
                  b.itemsize)  # fmt: skip


def _panel(x: Layout, which: Ints, first: Ints, count: int, rows: int, depth: tuple[int, int]) -> tuple[Ints, Ints]:
    """Requests for `count` rows from `first` on of a matrix (rows, k), elements `depth` of each.

    Where k runs across lines, it is elements `first` and on of rows `depth` that lie in one piece.
    """
    start, size = x.matrices(int(which.max()) + 1)[which][:, None], x.itemsize
    if x.strides[-1] == 1:
        row = first[:, None] + np.arange(count)
        return start + size * (row * x.strides[-2] + depth[0]), size * (depth[1] - depth[0]) * (row < rows)
    row = np.arange(*depth)[None, :]
    length = np.broadcast_to(size * np.minimum(count, rows - first)[:, None], (len(which), row.shape[1]))
    return start + size * (row * x.strides[-1] + first[:, None]), length


class Code(NamedTuple):
    """Instructions of a warp of a tile's code: in the loop over k, and outside it."""

    warps: int
    outside: int
    step: int


@cache
def code() -> dict[tuple[int, int], Code]:
    """The code of every tile, by its rows and columns."""
    text = (resources.files("minimodels.sim.cache") / "tiles.csv").read_text("utf-8")
    return {
        (int(row["rows"]), int(row["columns"])): Code(int(row["warps"]), int(row["outside"]), int(row["step"]))
        for row in csv.DictReader(io.StringIO(text))
    }


def _of_tile(rows: int, columns: int, steps: int) -> float:
    """Warp instructions of one tile that takes so many steps over k."""
    own = code()[rows, columns]
    return own.warps * (own.outside + steps * own.step)


def softmax(x: Layout, out: Layout, batch: int) -> Kernel:
    """Softmax over the last dimension of `batch` matrices: of a row in the registers of a warp, or by a block."""
    rows, length = batch * x.sizes[-2], x.sizes[-1]
    first, last = x.rows(rows * length, length), out.rows(rows * length, length)
    if length > IN_REGISTERS:
        return _by_block(first, last, length, x.itemsize)
    width = 1 << (length - 1).bit_length()
    lanes, each = min(width, WARP), 2 if width <= BLOCK else 1  # threads of a row, rows of these threads
    rounds = width // lanes
    per_block = BLOCK // lanes * each
    steps = []
    for start, store in ((first, False), (last, True)):
        padded = _in_blocks(start, per_block)
        for turn in range(rounds):
            size = x.itemsize * min(lanes, max(0, length - turn * lanes))
            steps.append(Step(padded + x.itemsize * turn * lanes, size * (padded >= 0), store))
    reductions = 2 * 2 * max(1, (lanes - 1).bit_length())  # a maximum and a sum: exchange and combine
    of_warp = each * (rounds * 13 + reductions) + 30  # 13: load, widen, max, subtract, scale, exp, add, ... store
    blocks = -(-rows // per_block)
    return Kernel(steps, THREADS // BLOCK, blocks * BLOCK / WARP * of_warp)


def _by_block(first: Ints, last: Ints, length: int, itemsize: int) -> Kernel:
    """A row by a block that reads it three times: for the maximum, for the sum, and to write the result."""
    vector = 16 * WARP  # bytes
    pieces = np.arange(0, itemsize * length, vector)
    size = np.minimum(vector, itemsize * length - pieces)
    sizes = np.broadcast_to(size, (len(first), len(pieces)))
    read = Step(first[:, None] + pieces, sizes)
    steps = [read, read, read, Step(last[:, None] + pieces, sizes, store=True)]
    items = 16 / itemsize
    of_piece = (4 + 2 * items) + (4 + 5 * items) + (6 + 6 * items)  # widen, max; exp, add; exp, divide, narrow
    warps = BLOCK / WARP
    return Kernel(steps, THREADS // BLOCK, len(first) * (len(pieces) * of_piece + warps * (2 * 20 + 60)))


def scale(x: Layout, out: Layout, batch: int) -> Kernel:
    """A product with a number, or a sum with a bias, over `batch` matrices in one piece, four elements a thread."""
    elements = batch * x.sizes[-1] * x.sizes[-2]
    chunk = VECTOR * WARP  # elements of a warp
    per_block = BLOCK // WARP
    steps = []
    for y, store in ((x, False), (out, True)):
        start = _in_blocks(y.base + y.itemsize * np.arange(0, elements, chunk), per_block)
        steps.append(Step(start, y.itemsize * np.minimum(chunk, elements) * (start >= 0), store))
    of_warp = 14 + 2 + VECTOR * 1.5 + VECTOR  # index and bounds, load and store, widen and narrow, multiply
    return Kernel(steps, THREADS // BLOCK, len(steps[0].start) * per_block * of_warp)


def copy(x: Layout, out: Layout, batch: int) -> Kernel:
    """A copy of `batch` matrices of any strides into one piece, element by element, in the order of the result."""
    elements = batch * x.sizes[-1] * x.sizes[-2]
    piece = min(WARP, x.sizes[-1])
    per_block = BLOCK * VECTOR // piece
    steps = []
    for y, store in ((x, False), (out, True)):
        start = _in_blocks(y.rows(elements, piece), per_block)
        steps.append(Step(start, y.itemsize * piece * (start >= 0), store))
    dims = sum(size > 1 for size in x.sizes)
    of_warp = 12 + VECTOR * (5 * dims + 4)  # five to divide by a size and add up an offset; load, store, bounds
    return Kernel(steps, THREADS // BLOCK, len(steps[0].start) * BLOCK / WARP * of_warp)


def _in_blocks(start: Ints, per_block: int) -> Ints:
    """First bytes in rows of `per_block`, the last row filled up with -1."""
    rows = -(-len(start) // per_block)
    filled = np.full(rows * per_block, -1)
    filled[: len(start)] = start
    return filled.reshape(rows, per_block)
