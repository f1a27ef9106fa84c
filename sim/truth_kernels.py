"""Rows of a truth table that measure one kernel: what they say, as calls that the cost model prices.

`shape_or_settings` holds NAME=VALUE pairs, in any order and with anything between them. By phase_or_kernel:

- `gemm`: M= N= K= of (M, K) x (K, N), times the batch. fp8 and fp4 take bf16 and convert it to low precision first,
  as TensorRT-LLM's linear layers do (`_converted`). Times are of a kernel that runs again and again, with as many sets
  of weights in turn as fill the L2 cache, five at most: what it holds of them is warm.
- `attention ...`: seqlen= (or kv_len= for a decode step, which has one query) heads= kv_heads= headdim= causal=
  impl=, of a batch. Without heads, 2048 / headdim. impl is PyTorch (unfused: a product, a mask if causal, softmax,
  a product), FA1, FA2, FA3, FA-Triton, Triton, cuDNN, xformers, or vllm_..._flash_attn(_fa2|_fa3), which writes
  keys and values to its cache too when it is a causal prefill. `fwd+bwd` adds a backward pass.
  TFLOP/s count 4 x batch x heads x seqlen^2 x headdim, half if causal, times 3.5 for fwd+bwd.
- `conv2d fwd`, `conv2d bwd-data`: Cin= Cout= HxW= (height x width) k= stride= pad= (one number, or height x width);
  the kernels of the tables' time took tensors as they lay, without reordering them.
- `softmax`, `layernorm`: rows= cols=; `gelu`, `copy`: elements=. G elements/s are timed by the clock of a host that
  waits for each call (LLMCompass): `WAITS`, unless clock=device. `groupnorm`: C= HxW= groups=, torch's kernels.
- single kernels of a LLaMA-2 layer: tokens=, sizes in the name of the kernel (Vidur). RMSNorm, RoPE and SiLU*mul are
  those of vLLM in 2023: a block per row, an element per thread and load; RMSNorm reads a row twice. A layer runs as
  a whole, so that these find in the L2 cache what another has just written.

dtype: bf16, fp16, fp32, tf32, fp8, fp4, also as torch names them, or several of one size ("fp16/bf16", "fp16 in, mixed
math"). Products of fp32, tf32, fp8 and fp4 are families of their own: `gemm fp8`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from minimodels.kernels.work import Conv, Work, is_direct
from minimodels.sim.call import Call, L2State
from minimodels.sim.truth_attention import attention_calls

DTYPES = {
    "bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "tf32": "tf32", "fp8": "float8", "fp4": "float4",
    "nvfp4": "float4", "float16": "float16", "bfloat16": "bfloat16", "float32": "float32", "float8": "float8",
    "fp8_e4m3": "float8", "fp8_e5m2": "float8", "float8_e4m3fn": "float8", "float8_e5m2": "float8",
}  # fmt: skip
SIZES = {"float32": 4.0, "tf32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8": 1.0, "float4": 0.5}
CLASSES = {"float8": "fp8", "float4": "fp4", "float32": "fp32", "tf32": "tf32"}  # of products, reported apart
SCALE = {"s": 1.0, "ms": 1e3, "us": 1e6, "\u00b5s": 1e6, "\u03bcs": 1e6}  # per second; micro has two characters
# Seconds that a host adds, and that a call takes at least; then the clocks of a load that nothing hides: fitted to the
# A100's rows that are not reported, as tests/sim/test_waits.py holds. Softmax is fitted no better with a least.
WAITS = {"gelu": (36.1e-6, 47.8e-6), "softmax": (10.7e-6, 0.0), "layernorm": (38.0e-6, 52.4e-6)}
LOAD = 722
THREADS = 1024  # per row
ATTENTION = (
    "attention fwd",
    "attention fwd (bidirectional)",
    "attention prefill (causal)",
    "attention decode",
    "attention fwd+bwd",
)
ROUNDS = 4  # that the blocks looking for the largest value take, however few values there are: 1,024 of 1,024 threads


class Unpredicted(Exception):
    """Why a row has no prediction."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel, or a few behind each other: its family, and what a rate counts (FLOPs or elements) per execution."""

    family: str
    calls: tuple[Call, ...]
    amount: float | None = None
    wait: float = 0.0  # seconds of the host around it
    least: float = 0.0  # seconds it takes however small it is
    key: str = field(default="", compare=False)  # what rows held out of a fit have in common
    loads: float = 0.0  # after one another: it takes at least their time
    loads_before: float = 0.0  # after one another, before it begins

    @property
    def dtype(self) -> str:
        """In which the kernel itself computes."""
        return self.calls[-1].dtype


def kernel(phase: str, dtype: str, batch: int, settings: str) -> Kernel:
    """What a row measured.

    Raises:
        Unpredicted: the row says too little, or nothing that is known.
    """
    found = precision(dtype)
    if found is None:
        raise Unpredicted(f"dtype {dtype!r} is not predicted")
    pairs = dict(re.findall(r"(\w+)=([^\s,;]+)", settings))
    for names, read in READERS.items():
        if phase in names:
            return read(phase, found, batch, pairs)
    if phase in ATTENTION:
        return _attention(phase, found, batch, pairs)
    return _llama(phase, found, pairs)


def claims(phase: str) -> bool:
    """Whether rows of this phase are of a family that is predicted."""
    return any(phase in names for names in READERS) or phase in ATTENTION or _llama_family(phase) is not None


def precision(dtype: str) -> str | None:
    """The dtype that a row names, by torch's name; None if it is not known."""
    return DTYPES.get(re.split(r"[/ ,]", dtype.strip().lower())[0])


def family(phase: str, dtype: str) -> str:
    """The family that rows of a phase and dtype belong to."""
    found = _llama_family(phase) or phase
    apart = CLASSES.get(precision(dtype) or "") if found == "gemm" else None
    return found if apart is None else f"{found} {apart}"


def call(work: Work, dtype: str, l2: L2State = "cold") -> Call:
    """A call of some work, with everything else plain."""
    return Call("kernel", (), dtype, work, "", "", None, "Other", None, None, l2=l2)


def number(pairs: Mapping[str, str], *names: str) -> int:
    """The whole number under the first of these names that is there.

    Raises:
        Unpredicted: none of them is, or it is no number above 0.
    """
    for name in names:
        if name in pairs:
            if re.fullmatch(r"[1-9]\d{0,11}", pairs[name]) is None:
                raise Unpredicted(f"{name}={pairs[name]!r} is not a whole number above 0")
            return int(pairs[name])
    raise Unpredicted(f"the settings lack {names[0]}=")


def product(batch: int, m: int, n: int, k: int, dtype: str) -> Work:
    """A product of dense operands; results of low precision are written in half precision."""
    size = SIZES[dtype]
    read, written = size * batch * (m * k + k * n), max(2.0, size) * batch * m * n
    return Work("gemm", 2 * batch * m * n * k, round(read), round(written), gemm=(batch, m, n, k))


def _gemm(phase: str, dtype: str, batch: int, pairs: Mapping[str, str]) -> Kernel:
    m, n, k = (number(pairs, name) for name in "MNK")
    calls = [*_converted(batch * m * k, dtype), call(product(batch, m, n, k, dtype), dtype, "warm")]
    before, key = ROUNDS if dtype == "float8" else 0, f"{n} {k}" if SIZES[dtype] == 2 else ""
    return Kernel("gemm", tuple(calls), 2.0 * batch * m * n * k, key=key, loads_before=before)


def _converted(elements: int, dtype: str) -> list[Call]:
    """What brings operands of half precision to a low one.

    Source of fp8: cudaFp8Utils.cu of TensorRT-LLM, which clears the scale, looks for the largest value and converts,
    an element at a time.
    """
    if dtype == "float8":
        largest = Work("elementwise", 0, 2 * elements, 4, strided=True)
        works = [Work("elementwise", 0, 0, 4), largest, Work("elementwise", 0, 2 * elements, elements, strided=True)]
    else:
        works = [Work("elementwise", 0, 2 * elements, elements // 2)] if dtype == "float4" else []
    return [call(work, dtype) for work in works]


def _attention(phase: str, dtype: str, batch: int, pairs: Mapping[str, str]) -> Kernel:
    head_dim = number(pairs, "headdim", "head_dim", "hdim")
    heads = number(pairs, "heads") if "heads" in pairs else max(1, 2048 // head_dim)
    kv_heads = number(pairs, "kv_heads") if "kv_heads" in pairs else heads
    keys = number(pairs, "kv_len", "seqlen", "seq_len")
    queries = 1 if phase == "attention decode" else number(pairs, "seqlen", "q_len", "seq_len")
    if heads % kv_heads:
        raise Unpredicted(f"{heads} heads do not share {kv_heads} of keys evenly")
    causal = pairs.get("causal", str("causal" in phase)).lower() == "true"
    backward = phase == "attention fwd+bwd"
    flops = 4.0 * batch * heads * queries * keys * head_dim * (0.5 if causal else 1) * (3.5 if backward else 1)
    shape = (batch, heads, kv_heads, queries, keys, head_dim)
    try:
        calls = attention_calls(shape, causal, dtype, pairs.get("impl", "FA2"), phase)
    except LookupError as error:
        raise Unpredicted(f"attention by {error.args[0]!r} is not predicted") from None
    return Kernel(phase, tuple(calls), flops, key=f"{heads}/{kv_heads}x{head_dim}")


def _pair(pairs: Mapping[str, str], name: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", pairs.get(name, ""))
    if match is None:
        raise Unpredicted(f"the settings lack {name}=")
    return int(match[1]), int(match[2] or match[1])


def _conv(phase: str, dtype: str, batch: int, pairs: Mapping[str, str]) -> Kernel:
    """The backward pass to the data is a convolution of the gradient, whose pixels are those of the input."""
    channels, filters = number(pairs, "Cin"), number(pairs, "Cout")
    (height, width), window = _pair(pairs, "HxW"), _pair(pairs, "k")
    stride, pad = _pair(pairs, "stride"), _pair(pairs, "pad")
    if 0 in (*window, *stride):
        raise Unpredicted("a window or stride of 0")
    out = [(n + 2 * p - w) // s + 1 for n, p, w, s in zip((height, width), pad, window, stride, strict=True)]
    if min(out) < 1:
        raise Unpredicted("the window is larger than the image")
    size, taps, pixels = int(SIZES[dtype]), window[0] * window[1], batch * out[0] * out[1]
    x, weight, y = size * batch * channels * height * width, size * channels * filters * taps, size * pixels * filters
    flops, direct = 2 * pixels * channels * filters * taps, is_direct(window, stride)
    if phase == "conv2d bwd-data":
        conv = Conv(filters, y, weight, x, True, False, True, direct)
        gemm = (1, batch * height * width, channels, -(-filters * taps // (stride[0] * stride[1])))
    else:
        gemm, conv = (1, pixels, filters, channels * taps), Conv(channels, x, weight, y, True, False, direct=direct)
    exact = "sgemm" in pairs.get("kernel", "") or "scudnn" in pairs.get("kernel", "")  # no TF32 in these kernels
    work = Work("conv", flops, conv.input + weight, conv.output, gemm=gemm, conv=conv)
    one = call(work, dtype)
    one.tf32 = not exact
    return Kernel(phase, (one,), float(flops), key=f"{channels}x{filters}x{window[0]}")


def _rows(phase: str, dtype: str, batch: int, pairs: Mapping[str, str]) -> Kernel:
    """A pass over memory."""
    if phase in ("gelu", "copy"):
        elements, key = number(pairs, "elements"), pairs["elements"]
    else:
        rows, columns = number(pairs, "rows"), number(pairs, "cols")
        elements, key = rows * columns, f"{rows}x{columns}"
    moved = round(SIZES[dtype] * batch * elements)
    kind = {"gelu": "elementwise", "copy": "copy", "softmax": "softmax", "layernorm": "norm"}[phase]
    one = call(Work(kind, 0, moved, moved), dtype)  # type: ignore[arg-type]
    waits = (0.0, 0.0) if pairs.get("clock") == "device" else WAITS.get(phase, (0.0, 0.0))
    return Kernel(phase, (one,), float(batch * elements), *waits, key)


def _group_norm(phase: str, dtype: str, batch: int, pairs: Mapping[str, str]) -> Kernel:
    """torch's kernels on pixels channels first."""
    channels, groups, (height, width) = number(pairs, "C"), number(pairs, "groups"), _pair(pairs, "HxW")
    if channels % groups:
        raise Unpredicted(f"{channels} channels are no multiple of {groups} groups")
    moved = round(SIZES[dtype] * batch * channels * height * width)
    work = Work("norm", 0, moved, moved, blocks=batch * groups)
    return Kernel(phase, (call(work, dtype),), float(batch * channels * height * width), key=f"{channels}x{height}")


READERS: dict[tuple[str, ...], Callable[[str, str, int, Mapping[str, str]], Kernel]] = {
    ("gemm",): _gemm,
    ("conv2d fwd", "conv2d bwd-data"): _conv,
    ("softmax", "layernorm", "gelu", "copy"): _rows,
    ("groupnorm",): _group_norm,
}


def _llama_family(phase: str) -> str | None:
    if re.search(r"projection (\d+)->(\d+)$", phase):
        return "gemm"
    if re.match(r"RMSNorm \d+$", phase):
        return "norm"
    return "elementwise" if re.match(r"(SiLU\*mul \d+|residual add \d+|RoPE)$", phase) else None


def _llama(phase: str, dtype: str, pairs: Mapping[str, str]) -> Kernel:
    """One kernel of a LLaMA-2 layer on `tokens` rows, as a serving engine fuses it."""
    family = _llama_family(phase)
    if family is None:
        raise Unpredicted(f"kernel {phase!r} is not predicted")
    tokens, size = number(pairs, "tokens"), SIZES[dtype]
    if family == "gemm":
        k, n = map(int, re.findall(r"\d+", phase))
        one = call(product(1, tokens, n, k, dtype), dtype)
        return Kernel("gemm", (one,), 2.0 * tokens * n * k)  # without a key: no constant is fitted to it
    width = re.search(r"(\d+)$", phase)
    columns = int(width[1]) if width else 2 * 4096  # queries and keys of 32 heads of 128
    row, passes = size * tokens * columns, 1 if phase == "RoPE" else 2
    strided = not phase.startswith("residual")
    read, loads = passes * row, passes * columns / THREADS if strided else 0.0
    work = Work(family, 0, round(read), round(row), strided=strided)  # type: ignore[arg-type]
    return Kernel(family, (call(work, dtype, "fed"),), None, loads=loads, key=f"{tokens}")
