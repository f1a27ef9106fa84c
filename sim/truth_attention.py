"""Attention as benchmarks run it: which kernels an implementation launches, forward and backward."""

from __future__ import annotations

from minimodels.kernels.scope import AttentionCall
from minimodels.kernels.work import Work
from minimodels.sim.call import Call, L2State

BACKENDS = {
    "FA2": "flash", "FA3": "flash3", "cuDNN": "cudnn", "Triton": "triton", "xformers": "efficient", "FA1": "flash1",
    "FA-Triton": "flash1-triton",
}  # fmt: skip
SIZES = {"float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2, "float8": 1}
Shape = tuple[int, int, int, int, int, int]  # batch, heads, kv_heads, queries, keys, head_dim


def attention_calls(shape: Shape, causal: bool, dtype: str, implementation: str, phase: str) -> list[Call]:
    """The kernels of one attention, in order.

    Raises:
        LookupError: the implementation is unknown.
    """
    backward = phase == "attention fwd+bwd"
    if implementation == "PyTorch":
        return _unfused(shape, causal, dtype, backward)
    if "flash_attn" in implementation:  # vllm_flash_attn, vllm_vit_flash_attn_fa3, ...
        image, third = "_vit_" in implementation, implementation.endswith("fa3")  # of an image keys are not in pages
        backend = f"flash3-{'varlen' if image else 'paged'}" if third else "flash" if image else "flash-paged"
    else:
        backend = BACKENDS[implementation]
    calls = [_fused(shape, causal, dtype, backend)]
    batch, _, kv_heads, queries, keys, head_dim = shape
    if "flash_attn" in implementation and causal and queries > 1:  # keys and values go to the paged cache
        moved = 2 * SIZES[dtype] * batch * kv_heads * keys * head_dim
        calls.append(_call(Work("copy", 0, moved, moved), dtype, "warm"))
    if backward:
        calls.append(_fused(shape, causal, dtype, backend + "-backward"))
    return calls


def _fused(shape: Shape, causal: bool, dtype: str, backend: str) -> Call:
    batch, heads, kv_heads, queries, keys, head_dim = shape
    size, own, theirs = SIZES[dtype], batch * heads * queries * head_dim, batch * kv_heads * keys * head_dim
    work = Work("attention", 4 * batch * heads * queries * keys * head_dim, size * (own + 2 * theirs), size * own)
    facts = AttentionCall(backend, batch, queries, keys, heads, kv_heads, head_dim, causal, False)
    one = _call(work, dtype, "warm")
    one.attention = facts
    return one


def _unfused(shape: Shape, causal: bool, dtype: str, backward: bool) -> list[Call]:
    """baddbmm with the scale, a mask added if causal, softmax, einsum; backward: their gradients.

    Queries, keys and values lie in one tensor, head after head in each position. They are copied before they are
    multiplied, and their gradients are put together again. The mask is made anew each time, in float32.

    Source: benchmarks/benchmark_flash_attention.py of flash-attention.
    """
    batch, heads, _, n, m, d = shape
    size, pairs = SIZES[dtype], batch * heads * n * m
    matrix, queries, keys = size * pairs, size * batch * heads * n * d, size * batch * heads * m * d

    def multiply(rows: int, columns: int, k: int) -> Call:
        read, written = size * batch * heads * k * (rows + columns), size * batch * heads * rows * columns
        gemm = (batch * heads, rows, columns, k)
        return _call(Work("gemm", 2 * batch * heads * rows * columns * k, read, written, gemm=gemm), dtype)

    def copy(read: int, written: int, *, strided: bool = False) -> Call:
        return _call(Work("copy", 0, read, written, strided=strided), dtype)

    def elementwise(read: int, written: int, *, strided: bool = False) -> Call:
        return _call(Work("elementwise", 0, read, written, strided=strided), dtype)

    def gathered(moved: int) -> Call:
        return copy(moved, moved, strided=True)

    mask = [elementwise(0, 4 * n * m), copy(4 * n * m, 4 * n * m), copy(4 * n * m, size * n * m)]
    added = [*mask, elementwise(matrix + size * n * m, matrix, strided=True)] if causal else []
    softmax = _call(Work("softmax", 0, matrix, matrix), dtype)
    calls = [gathered(queries), gathered(keys), multiply(n, m, d), *added, softmax, gathered(keys), multiply(n, d, m)]
    if backward:
        calls += [multiply(m, d, n), multiply(n, m, d), _call(Work("softmax", 0, 2 * matrix, matrix), dtype)]
        calls += [multiply(n, d, m), elementwise(queries, queries), multiply(m, d, n), elementwise(keys, keys)]
        calls.append(gathered(queries + 2 * keys))
    return calls


def _call(work: Work, dtype: str, l2: L2State = "cold") -> Call:
    return Call("kernel", (), dtype, work, "", "", None, "Other", None, None, l2=l2)
