"""The instructions of a plain matrix product's tile, counted in its compiled code for an A100.

    python tests/sim/tile_code.py > sim/cache/tiles.csv

The product is Triton's, of bfloat16, 64 elements of k a step, three stages in flight and every access inside the
matrices checked: what libraries do too. `step`: instructions of the loop over k, a warp; `outside`: all others.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.nvidia import driver as nvidia

from minimodels.kernels.launch import Launch, compile_for
from minimodels.sim.cost.gemm import TILES

COLUMNS = ("triton", "rows", "columns", "warps", "outside", "step")
TOOLS = Path(nvidia.__file__).parent / "bin"
CODE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\d\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
DEPTH = 64


@triton.jit
def product(a, b, c, m, n, k, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """c (m, n) = a (m, k) b (n, k) transposed, of every matrix of a batch."""
    batch = tl.program_id(2)
    i, j = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    along = tl.arange(0, DEPTH)
    left = a + batch * m * k + i[:, None] * k + along[None, :]
    right = b + batch * n * k + j[None, :] * k + along[:, None]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, k, DEPTH):
        x = tl.load(left, mask=(i[:, None] < m) & (along[None, :] + first < k), other=0.0)
        y = tl.load(right, mask=(j[None, :] < n) & (along[:, None] + first < k), other=0.0)
        total += tl.dot(x, y)
        left += DEPTH
        right += DEPTH
    here = c + batch * m * n + i[:, None] * n + j[None, :]
    tl.store(here, total.to(tl.bfloat16), mask=(i[:, None] < m) & (j[None, :] < n))


def warps(rows: int, columns: int) -> int:
    """Warps of a tile, as CUTLASS has them on this architecture."""
    return 8 if rows * columns > 128 * 128 else min(4, rows * columns // 1024)


def count(rows: int, columns: int) -> dict[str, Any]:
    """A row of the table."""
    x = torch.empty(16, 64 * 16, device="meta", dtype=torch.bfloat16)
    launch = Launch(product, (1, 1, 1), (x, x, x, 256, 256, 256), {"ROWS": rows, "COLUMNS": columns, "DEPTH": DEPTH},
                    warps(rows, columns), 3)  # fmt: skip
    compiled = compile_for(launch, "sm80")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run([TOOLS / "cuobjdump", "-sass", file.name], capture_output=True, text=True, check=True)
    code = [(int(at, 16), name, rest) for at, name, rest in CODE.findall(text.stdout)]
    first, last = _loop(code)
    inside = [name for at, name, _ in code if first <= at <= last]
    products = sum(name.startswith("HMMA") for name in inside)
    assert products * launch.num_warps == rows // 16 * columns // 8 * DEPTH // 16, "the loop holds the products"
    padding = sum(name == "NOP" for _, name, _ in code) + 1  # and the branch to itself behind the end
    outside = len(code) - padding - len(inside)
    return dict(zip(COLUMNS, (version(), rows, columns, launch.num_warps, outside, len(inside)), strict=True))


def _loop(code: list[tuple[int, str, str]]) -> tuple[int, int]:
    """The addresses of the first and last instruction of the loop that holds products."""
    for at, name, rest in code:
        target = re.search(r"0x([0-9a-f]+)", rest)
        if name == "BRA" and target and int(target[1], 16) < at:
            return int(target[1], 16), at
    raise AssertionError("no loop")


def version() -> str:
    """Triton's version, to the minor."""
    return ".".join(triton.__version__.split(".")[:2])


def table() -> Iterator[dict[str, Any]]:
    """A row for every tile of the cost model."""
    return (count(*tile) for tile in TILES)


if __name__ == "__main__":
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerows([COLUMNS, *(row.values() for row in table())])
