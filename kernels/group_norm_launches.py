"""The launches of `group_norm`: one for small groups, else by turns (channels first), or statistics, fold and apply.

x (b, c, pixels) or (b, pixels, c) in memory; partial statistics are (mean, sum of squared deviations) of a chunk,
folded (b, 2, c) a factor and a summand per channel, both float32.
"""

from __future__ import annotations

from minimodels.kernels.fast_math import silu
from minimodels.kernels.launch import jit, tl


@jit
def _join(mean, m2, count, new_mean, new_m2, new_count):
    """Mean and sum of squared deviations of two sets together."""
    total = tl.maximum(count + new_count, 1.0)
    delta = new_mean - mean
    return mean + delta * new_count / total, m2 + new_m2 + delta * delta * count * new_count / total, total


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
        result = silu(result)
    tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)


@jit
def _count(x, partial, program, length, per_chunk, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    """Mean and squared deviation of a chunk of a group, which lies in one piece of `length` elements.

    Both are taken about the mean of the chunk's first block: what that is off from the chunk's mean the group's
    deviation has in it too, so that nothing cancels but what rounding of the group's deviation is allowed.
    """
    slab, chunk = program // CHUNKS, program % CHUNKS
    first = chunk * per_chunk
    last = tl.minimum(first + per_chunk, length)
    base = x + slab * length
    count = (last - first).to(tl.float32)
    at = first + tl.arange(0, BLOCK)
    values = tl.load(base + at, mask=at < last, other=0.0).to(tl.float32)
    near = tl.sum(values, 0) / tl.minimum(count, BLOCK)
    apart = tl.where(at < last, values - near, 0.0)
    total, squares = apart, apart * apart
    for start in range(first + BLOCK, last, BLOCK):
        at = start + tl.arange(0, BLOCK)
        values = tl.load(base + at, mask=at < last, other=0.0).to(tl.float32)
        apart = tl.where(at < last, values - near, 0.0)
        total += apart
        squares += apart * apart
    shift = tl.sum(total, 0) / count
    mean, m2 = near + shift, tl.maximum(tl.sum(squares, 0) - count * shift * shift, 0.0)
    tl.store(partial + program * 2, mean)
    tl.store(partial + program * 2 + 1, m2)


@jit
def _joined(partial, group, length, per_chunk, eps, CHUNKS: tl.constexpr, SPLITS: tl.constexpr, ALONE: tl.constexpr):
    """Mean and 1 / deviation of some groups, of one where ALONE, whose chunks are joined."""
    chunk = tl.arange(0, SPLITS) if ALONE else tl.arange(0, SPLITS)[None, :]
    axis: tl.constexpr = 0 if ALONE else 1
    inside = chunk < CHUNKS
    counts = tl.minimum(per_chunk, tl.maximum(length - chunk * per_chunk, 0)).to(tl.float32)
    at = partial + ((group if ALONE else group[:, None]) * CHUNKS + chunk) * 2
    means = tl.load(at, mask=inside, other=0.0)
    squares = tl.load(at + 1, mask=inside, other=0.0)
    mean = tl.sum(means * counts, axis) / length
    apart = means - (mean if ALONE else mean[:, None])
    m2 = tl.sum(squares + apart * apart * counts, axis)
    return mean, tl.rsqrt(m2 / length + eps)


@jit
def _folded(weight, bias, scale, shift, batch, channel, real, mean, deviation, scale_b, scale_c, shift_b, shift_c):
    """Factor and summand of some channels."""
    factor = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32) * deviation
    summand = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32) - mean * factor
    if scale is not None:
        more = 1.0 + tl.load(scale + batch * scale_b + channel * scale_c, mask=real, other=0.0).to(tl.float32)
        moved = tl.load(shift + batch * shift_b + channel * shift_c, mask=real, other=0.0).to(tl.float32)
        factor, summand = factor * more, summand * more + moved
    return factor, summand


@jit
def _apply(
    x, out, partial, weight, bias, scale, shift, number, channels, pixels, length, per_chunk, blocks, scale_b,
    scale_c, shift_b, shift_c, eps, applied, end,
    CHUNKS: tl.constexpr, SPLITS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    SILU: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """ROWS channels (of all samples' channels in turn, from those of group `applied` on) and COLUMNS pixels."""
    column = (number % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    alone: tl.constexpr = ROWS == 1  # then what is per channel is one number, and x stays in the lanes that load it
    if alone:
        row = applied * WIDTH + number // blocks
        real = row < end * WIDTH
        inside = column < pixels
        place = row * pixels + column
    else:
        row = applied * WIDTH + (number // blocks) * ROWS + tl.arange(0, ROWS)
        real = row < end * WIDTH
        inside = real[:, None] & (column < pixels)[None, :]
        place = row[:, None] * pixels + column[None, :]
    values = tl.load(x + place, mask=inside, other=0.0, eviction_policy="evict_first" if STREAM else "").to(tl.float32)
    group = tl.where(real, row // WIDTH, applied)
    mean, deviation = _joined(partial, group, length, per_chunk, eps, CHUNKS, SPLITS, alone)
    factor, summand = _folded(
        weight, bias, scale, shift, row // channels, row % channels, real, mean, deviation, scale_b, scale_c, shift_b,
        shift_c,
    )  # fmt: skip
    result = values * (factor if alone else factor[:, None]) + (summand if alone else summand[:, None])
    if SILU:
        result = silu(result)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside, cache_modifier=".cs" if STREAM else "")


@jit(varying=("counted", "counting", "applied", "end", "every"))
def turn_first(
    x, out, partial, weight, bias, scale, shift, channels, pixels, length, per_chunk, blocks, scale_b, scale_c,
    shift_b, shift_c, eps, counted, counting, applied, end, every,
    CHUNKS: tl.constexpr, SPLITS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, SILU: tl.constexpr, COUNT: tl.constexpr, APPLY: tl.constexpr, STREAM: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """COUNT: statistics of groups from `counted` on, in `counting` programs. APPLY: groups `applied` to `end`.

    Both: every `every`-th program counts, so that what is read for the first time goes along with what is read again.
    Alone, what is applied goes from the end of x to its front, since its end was read last.
    """
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    if not APPLY:
        _count(x, partial, counted * CHUNKS + program, length, per_chunk, CHUNKS, BLOCK)
    elif COUNT and (program % every == 0) & (program // every < counting):
        _count(x, partial, counted * CHUNKS + program // every, length, per_chunk, CHUNKS, BLOCK)
    else:
        number = program - tl.minimum(program // every + 1, counting) if COUNT else tl.num_programs(0) - 1 - program
        _apply(
            x, out, partial, weight, bias, scale, shift, number, channels, pixels, length, per_chunk, blocks,
            scale_b, scale_c, shift_b, shift_c, eps, applied, end,
            CHUNKS, SPLITS, WIDTH, ROWS, COLUMNS, SILU, STREAM,
        )  # fmt: skip


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
def fold_last(
    partial, folded, weight, bias, scale, shift, channels, length, per_chunk, scale_b, scale_c, shift_b, shift_c, eps,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, C: tl.constexpr, CHUNKS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Join the chunks of a group's channels; factor and summand of each channel."""
    program = tl.program_id(0)
    batch, group = program // GROUPS, program % GROUPS
    chunk, own = tl.arange(0, SPLITS), tl.arange(0, C)
    real = own < WIDTH
    channel = group * WIDTH + own
    size = tl.minimum(per_chunk, tl.maximum(length - chunk * per_chunk, 0)).to(tl.float32)
    inside = (chunk < CHUNKS)[:, None] & real[None, :]
    at = partial + ((batch * CHUNKS + chunk[:, None]) * channels + channel[None, :]) * 2
    counts = tl.where(inside, size[:, None], 0.0)
    total = tl.sum(tl.sum(counts, 1), 0)
    means = tl.load(at, mask=inside, other=0.0)
    squares = tl.load(at + 1, mask=inside, other=0.0)
    mean = tl.sum(tl.sum(means * counts, 1), 0) / total
    apart = tl.where(inside, means - mean, 0.0)
    m2 = tl.sum(tl.sum(squares + apart * apart * counts, 1), 0)
    deviation = tl.rsqrt(m2 / total + eps)
    factor, summand = _folded(
        weight, bias, scale, shift, batch, channel, real, mean, deviation, scale_b, scale_c, shift_b, shift_c
    )
    to = folded + batch * 2 * channels + channel
    tl.store(to, factor, mask=real)
    tl.store(to + channels, summand, mask=real)


@jit
def apply_last(
    x, out, folded, channels, pixels, row_blocks, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SILU: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """ROWS pixels and COLUMNS channels of channels-last x, from its end to its front: its end was read last."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    program = program.to(tl.int64) if WIDE else program
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
        result = silu(result)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)
