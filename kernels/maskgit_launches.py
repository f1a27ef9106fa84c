"""The launches of `maskgit_step`: a race by given noise, or a pick by a seed; and the rank of what is less sure.

tokens (b, n), logits (b, n, vocab) of any strides, noise (b, n, vocab), choice (b, n), sure (b, n) float32.
"""

from __future__ import annotations

from minimodels.kernels.fast_math import exp
from minimodels.kernels.launch import jit, tl
from minimodels.kernels.philox import exponential_row, uniforms_row


@jit
def race(
    tokens, logits, noise, choice, out, sure, batch_stride, row_stride, vocab_stride, n, vocab, row_blocks,
    inverse, strength, mask,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Draw ROWS tokens of a sample by given noise; `sure`: where their confidence goes, infinite for known tokens."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    batch = program // row_blocks
    row = (program % row_blocks) * ROWS + tl.arange(0, ROWS)
    here = row < n
    number = batch * n + row
    asked, end = here, vocab
    if tokens is not None:
        known = tl.load(tokens + number, mask=here, other=0)
        asked = here & (known == mask)
        end = tl.where(tl.max(asked.to(tl.int32), 0) > 0, vocab, 0)
    best = tl.full((ROWS, COLUMNS), float("-inf"), tl.float32)
    index = tl.zeros((ROWS, COLUMNS), tl.int32)
    top = tl.full((ROWS, COLUMNS), -3.0e38, tl.float32)  # finite, so that no difference of infinities arises
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    base = logits + batch * batch_stride + row * row_stride
    for start in range(0, end, COLUMNS):
        column = (start + tl.arange(0, COLUMNS))[None, :]
        inside = asked[:, None] & (column < vocab)
        at = column.to(tl.int64) if WIDE else column
        value = tl.load(base[:, None] + at * vocab_stride, mask=inside, other=float("-inf")).to(tl.float32) * inverse
        drawn = tl.load(noise + number[:, None] * vocab + column, mask=inside, other=1.0).to(tl.float32)
        score = value - tl.log(drawn)
        better = score > best
        best, index = tl.where(better, score, best), tl.where(better, column, index)
        above = value - top
        factor = tl.exp(-tl.abs(above))
        total = tl.where(above > 0, total * factor + 1.0, total + factor)
        top = tl.maximum(top, value)
    most = tl.max(best, 1)
    chosen = tl.min(tl.where(best == most[:, None], index, 2147483647), 1)
    if tokens is not None:
        token = tl.where(asked, chosen, known)
    else:
        token = chosen.to(tl.int64)
    tl.store(out + number, token, mask=here)
    if sure is not None:
        highest = tl.max(top, 1)
        mass = tl.sum(total * tl.exp(top - highest[:, None]), 1)
        mass = tl.where(asked, mass, 1.0)
        own = tl.load(base + chosen.to(batch.dtype) * vocab_stride, mask=asked, other=0.0).to(tl.float32) * inverse
        luck = tl.load(choice + number, mask=here, other=1.0).to(tl.float32)
        confidence = own - highest - tl.log(mass) - strength * tl.log(luck)
        tl.store(sure + number, tl.where(asked, confidence, float("inf")), mask=here)


@jit
def _values(base, vocab_stride, column, asked, vocab, inverse, WIDE: tl.constexpr):
    """Some columns of rows of logits over the temperature; -inf where there is none, or none is asked for."""
    inside = asked[:, None] & (column < vocab)
    at = column.to(tl.int64) if WIDE else column
    value = tl.load(base[:, None] + at * vocab_stride, mask=inside, other=float("-inf"))
    return value.to(tl.float32) * inverse


@jit
def _masses(
    base, vocab_stride, asked, vocab, end, inverse, reference,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CLASSES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Sums (ROWS, CLASSES) of exp(value - reference) over the columns of a class, then over it and those before."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, end, COLUMNS):
        column = (start + tl.arange(0, COLUMNS))[None, :]
        total += exp(_values(base, vocab_stride, column, asked, vocab, inverse, WIDE) - reference[:, None])
    return tl.cumsum(tl.sum(tl.reshape(total, (ROWS, COLUMNS // CLASSES, CLASSES)), 1), 1)


@jit
def _place(sums, uniform):
    """Where `uniform` falls in sums (ROWS, n) that grow: how many do not exceed its share of the last."""
    return tl.sum((sums <= (uniform * tl.max(sums, 1))[:, None]).to(tl.int32), 1)


@jit
def pick(
    tokens, logits, seed, out, sure, batch_stride, row_stride, vocab_stride, n, vocab, row_blocks,
    inverse, strength, mask,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CLASSES: tl.constexpr, MEMBERS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Draw ROWS tokens of a sample by a seed; `sure`: where their confidence goes, infinite for known tokens."""
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    batch = program // row_blocks
    row = (program % row_blocks) * ROWS + tl.arange(0, ROWS)
    here = row < n
    number = batch * n + row
    asked, end = here, vocab
    if tokens is not None:
        known = tl.load(tokens + number, mask=here, other=0)
        asked = here & (known == mask)
        end = tl.where(tl.max(asked.to(tl.int32), 0) > 0, vocab, 0)
    base = logits + batch * batch_stride + row * row_stride
    first = tl.arange(0, CLASSES)[None, :]
    reference = tl.max(_values(base, vocab_stride, first, asked, vocab, inverse, WIDE), 1)
    reference = tl.maximum(reference, -3.0e38)  # finite, so that no difference of infinities arises
    sums = _masses(base, vocab_stride, asked, vocab, end, inverse, reference, ROWS, COLUMNS, CLASSES, WIDE)
    if tl.max(tl.max(sums, 1), 0) == float("inf"):
        for start in range(0, end, COLUMNS):
            column = (start + tl.arange(0, COLUMNS))[None, :]
            later = tl.max(_values(base, vocab_stride, column, asked, vocab, inverse, WIDE), 1)
            reference = tl.maximum(reference, later)
        sums = _masses(base, vocab_stride, asked, vocab, end, inverse, reference, ROWS, COLUMNS, CLASSES, WIDE)
    one, other, third = uniforms_row(tl.load(seed), number)
    of_class = tl.minimum(_place(sums, one), CLASSES - 1)  # of a row that is not asked for, nothing
    member = tl.arange(0, MEMBERS)[None, :]
    column = of_class[:, None] + CLASSES * member
    value = _values(base, vocab_stride, column, asked, vocab, inverse, WIDE)
    at = _place(tl.cumsum(exp(value - reference[:, None]), 1), other)
    at = tl.minimum(at, tl.maximum(vocab - 1 - of_class, 0) // CLASSES)  # a class may have a member less than others
    chosen = of_class + CLASSES * at
    if tokens is not None:
        token = tl.where(asked, chosen, known)
    else:
        token = chosen.to(tl.int64)
    tl.store(out + number, token, mask=here)
    if sure is not None:
        own = tl.max(tl.where(member == at[:, None], value, float("-inf")), 1)
        mass = tl.where(asked, tl.max(sums, 1), 1.0)
        confidence = own - reference - tl.log(mass) - strength * tl.log(exponential_row(third))
        tl.store(sure + number, tl.where(asked, confidence, float("inf")), mask=here)


@jit
def rank(sure, out, n, masked, mask, row_blocks, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Mask those of ROWS tokens of a sample that are among its `masked` least sure."""
    program = tl.program_id(0)
    base = (program // row_blocks) * n
    row = (program % row_blocks) * ROWS + tl.arange(0, ROWS)
    own = tl.load(sure + base + row, mask=row < n, other=float("inf"))
    counts = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, n, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        other = tl.load(sure + base + column, mask=column < n, other=float("inf"))[None, :]
        before = (other < own[:, None]) | ((other == own[:, None]) & (column[None, :] < row[:, None]))
        counts += before.to(tl.int32)
    least = (tl.sum(counts, 1) < masked) & (own < float("inf"))
    tl.store(out + base + row, tl.zeros((ROWS,), tl.int64) + mask, mask=least & (row < n))
