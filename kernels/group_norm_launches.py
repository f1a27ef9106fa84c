"""The launches of `group_norm`: one for small groups, else statistics, fold and apply, channels first or last.

x (b, c, pixels) or (b, pixels, c) in memory; partial statistics are (mean, sum of squared deviations) of a chunk,
folded (b, 2, c) a factor and a summand per channel, both float32.
"""

from __future__ import annotations

from minimodels.kernels.launch import jit, tl


@jit
def _join(mean, m2, count, new_mean, new_m2, new_count):
    """Mean and sum of squared deviations of two sets together."""
    total = tl.maximum(count + new_count, 1.0)
    delta = new_mean - mean
    return mean + delta * new_count / total, m2 + new_m2 + delta * delta * count * new_count / total, total


@jit
def _silu(x):
    return x / (1.0 + tl.exp(-x))


@jit
def whole(
    x, out, weight, bias, scale, shift, channels, pixels, scale_b, scale_c, shift_b, shift_c, eps,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, C: tl.constexpr, S: tl.constexpr, SILU: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """One group of channels-first x a program: (C, S) of WIDTH channels and all pixels."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    batch, group = program // GROUPS, program % GROUPS
    row, column = tl.arange(0, C)[:, None], tl.arange(0, S)[None, :]
    inside = (row < WIDTH) & (column < pixels)
    at = (batch * channels + group * WIDTH) * pixels + row * pixels + column
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    count = WIDTH * pixels
    mean = tl.sum(tl.sum(values, 1), 0) / count
    centred = tl.where(inside, values - mean, 0.0)
    deviation = tl.rsqrt(tl.sum(tl.sum(centred * centred, 1), 0) / count + eps)
    channel = group * WIDTH + row
    real = row < WIDTH
    result = centred * deviation * tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)
    result += tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)
    if scale is not None:
        factor = tl.load(scale + batch * scale_b + channel * scale_c, mask=real, other=0.0).to(tl.float32)
        result = result * (1.0 + factor)
        result += tl.load(shift + batch * shift_b + channel * shift_c, mask=real, other=0.0).to(tl.float32)
    if SILU:
        result = _silu(result)
    tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)


@jit
def statistics_first(x, partial, length, per_chunk, CHUNKS: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Mean and squared deviation of a chunk of a group, which lies in one piece of `length` elements."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    slab, chunk = program // CHUNKS, program % CHUNKS
    first = chunk * per_chunk
    last = tl.minimum(first + per_chunk, length)
    base = x + slab * length
    mean, m2, count = 0.0, 0.0, 0.0
    for start in range(first, last, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < last
        values = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
        number = tl.minimum(last - start, BLOCK).to(tl.float32)
        middle = tl.sum(values, 0) / number
        centred = tl.where(inside, values - middle, 0.0)
        mean, m2, count = _join(mean, m2, count, middle, tl.sum(centred * centred, 0), number)
    tl.store(partial + program * 2, mean)
    tl.store(partial + program * 2 + 1, m2)


@jit
def statistics_last(
    x, partial, channels, pixels, per_chunk, blocks,
    CHUNKS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Mean and squared deviation of COLUMNS channels over a chunk of the pixels of channels-last x."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    block, rest = program % blocks, program // blocks
    chunk, batch = rest % CHUNKS, rest // CHUNKS
    first = chunk * per_chunk
    last = tl.minimum(first + per_chunk, pixels)
    channel = block * COLUMNS + tl.arange(0, COLUMNS)
    real = channel < channels
    mean, m2, count = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32), 0.0
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < last)[:, None] & real[None, :]
        at = (batch * pixels + row[:, None]) * channels + channel[None, :]
        values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        number = tl.minimum(last - start, ROWS).to(tl.float32)
        middle = tl.sum(values, 0) / number
        centred = tl.where(inside, values - middle[None, :], 0.0)
        mean, m2, count = _join(mean, m2, count, middle, tl.sum(centred * centred, 0), number)
    to = partial + ((batch * CHUNKS + chunk) * channels + channel) * 2
    tl.store(to, mean, mask=real)
    tl.store(to + 1, m2, mask=real)


@jit
def fold(
    partial, folded, weight, bias, scale, shift, channels, length, per_chunk, scale_b, scale_c, shift_b, shift_c, eps,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, C: tl.constexpr, CHUNKS: tl.constexpr, SPLITS: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """Join the chunks of a group; factor and summand of each of its channels. LAST: chunks are per channel."""
    program = tl.program_id(0)
    batch, group = program // GROUPS, program % GROUPS
    chunk, own = tl.arange(0, SPLITS), tl.arange(0, C)
    real = own < WIDTH
    channel = group * WIDTH + own
    size = tl.minimum(per_chunk, tl.maximum(length - chunk * per_chunk, 0)).to(tl.float32)
    if LAST:
        inside = (chunk < CHUNKS)[:, None] & real[None, :]
        at = partial + ((batch * CHUNKS + chunk[:, None]) * channels + channel[None, :]) * 2
        counts = tl.where(inside, size[:, None], 0.0)
        total = tl.sum(tl.sum(counts, 1), 0)
        means = tl.load(at, mask=inside, other=0.0)
        squares = tl.load(at + 1, mask=inside, other=0.0)
        mean = tl.sum(tl.sum(means * counts, 1), 0) / total
        apart = tl.where(inside, means - mean, 0.0)
        m2 = tl.sum(tl.sum(squares + apart * apart * counts, 1), 0)
    else:
        inside = chunk < CHUNKS
        at = partial + (program * CHUNKS + chunk) * 2
        counts = tl.where(inside, size, 0.0)
        total = tl.sum(counts, 0)
        means = tl.load(at, mask=inside, other=0.0)
        squares = tl.load(at + 1, mask=inside, other=0.0)
        mean = tl.sum(means * counts, 0) / total
        apart = tl.where(inside, means - mean, 0.0)
        m2 = tl.sum(squares + apart * apart * counts, 0)
    deviation = tl.rsqrt(m2 / total + eps)
    factor = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32) * deviation
    summand = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32) - mean * factor
    if scale is not None:
        more = 1.0 + tl.load(scale + batch * scale_b + channel * scale_c, mask=real, other=0.0).to(tl.float32)
        moved = tl.load(shift + batch * shift_b + channel * shift_c, mask=real, other=0.0).to(tl.float32)
        factor, summand = factor * more, summand * more + moved
    to = folded + batch * 2 * channels + channel
    tl.store(to, factor, mask=real)
    tl.store(to + channels, summand, mask=real)


@jit
def apply_first(
    x, out, folded, channels, pixels, column_blocks, rows,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SILU: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """ROWS channels (of all samples' channels in turn) and COLUMNS pixels of channels-first x."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    row = (program // column_blocks) * ROWS + tl.arange(0, ROWS)
    column = (program % column_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    real = row < rows
    batch = row // channels
    at = folded + batch * channels + row  # a sample has `channels` factors, then as many summands
    factor, summand = tl.load(at, mask=real, other=0.0), tl.load(at + channels, mask=real, other=0.0)
    inside = real[:, None] & (column < pixels)[None, :]
    place = row[:, None] * pixels + column[None, :]
    result = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * factor[:, None] + summand[:, None]
    if SILU:
        result = _silu(result)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)


@jit
def apply_last(
    x, out, folded, channels, pixels, row_blocks, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SILU: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """ROWS pixels and COLUMNS channels of channels-last x."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    block, rest = program % blocks, program // blocks
    row = (rest % row_blocks) * ROWS + tl.arange(0, ROWS)
    batch = rest // row_blocks
    channel = block * COLUMNS + tl.arange(0, COLUMNS)
    real = channel < channels
    at = folded + batch * 2 * channels + channel
    factor, summand = tl.load(at, mask=real, other=0.0), tl.load(at + channels, mask=real, other=0.0)
    inside = (row < pixels)[:, None] & real[None, :]
    place = (batch * pixels + row[:, None]) * channels + channel[None, :]
    result = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * factor[None, :] + summand[None, :]
    if SILU:
        result = _silu(result)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)
