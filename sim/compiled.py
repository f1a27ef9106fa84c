"""What a trace of a compiled run tells: its kernels, in which stage and step each was launched, and what it does.

A compiler fuses operators, so that kernels no longer belong to one operator each. What is left is the kernel's name:
Inductor calls a kernel of its own after the operators fused in it (`triton_poi_fused_add_mul_silu_3`, on a CPU
`graph_0_cpp_fused_add_0`), and calls libraries through operators (`aten::mm`) that keep theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from minimodels.kernels.scope import STAGE
from minimodels.sim.profiler import STEP, Event, Path, path_of, still_open
from minimodels.sim.trace import Place

CALLS = ("cuda", "cu", "hip")  # how the names of CUDA's and ROCm's runtime calls begin
VIEWS = re.compile(  # operators in compiled graphs that only look at their argument in another shape
    r"view|_unsafe_view|slice|select|transpose|t|permute|expand|as_strided|(un)?squeeze|alias|detach|lift_fresh|"
    r"split|split_with_sizes|unbind|_reshape_alias"
)
FUSED = re.compile(r"(?:triton_(?P<kind>[a-z]+)|cpp)_fused_(?P<operators>\w*?)_?\d*$")
MOVING = re.compile(
    r"(?:_*(?:_unsafe_view|_to_copy|clone|cat|copy|permute|transpose|view|slice|expand|unsqueeze|squeeze|select|stack|"
    r"repeat|constant_pad_nd|full|zeros|zeros_like|new_zeros|split|split_with_sizes|lift_fresh|arange))+"
)
FUSED_INTO = {  # the first that occurs in the names of the operators fused
    "Attention": re.compile(r"_safe_softmax|scaled_dot_product|flex_attention"),
    "Norm": re.compile(r"layer_norm|group_norm|rms_norm|batch_norm|rsqrt|var_mean"),
    "Embedding": re.compile(r"embedding"),
}
TEMPLATES = {"Convolution": re.compile(r"convolution"), "Linear": re.compile(r"mm")}  # matrix kernels in Triton
PATTERNS = {  # the first that occurs in the names of a library's kernel and of the operator that called it
    "Attention": re.compile(r"flash|fmha|attention|sdpa"),
    "Convolution": re.compile(r"conv|fprop|dgrad|winograd|nchwtonhwc|nhwctonchw"),
    "Linear": re.compile(r"gemm|gemv|cutlass|xmma|nvjet|cublas|splitk|mm\b|linear|matmul"),
    "Norm": re.compile(r"layer_?norm|group_?norm|rms_?norm|batch_?norm|rowwisemoments"),
    "Embedding": re.compile(r"embedding|index_?select"),
    "Memory": re.compile(
        r"memcpy|memset|copy|clone|\bcat|gather|scatter|index|sort|fill|zero|ones|full|arange|shuffle|\bpad|_pad|empty|"
        r"view|reshape|alias|stride|expand|permute|transpose|\bt\b|slice|select|squeeze|split|repeat|roll|tri[lu]\b"
    ),
    "Elementwise": re.compile(
        r"elementwise|softmax|reduce|distribution|arg|max|min|sum|mean|add|mul|div|sub|pow|sqrt|exp|log|neg|abs|lerp|"
        r"where|\b[lg][te]\b|\beq\b|relu|gelu|silu|tanh|sigmoid|sin|cos|clamp|upsample|normal_|exponential_"
    ),
}


class Kernel(NamedTuple):
    """A kernel of a compiled run, or an operator on a CPU: where it was launched, when it ran; nanoseconds."""

    name: str
    operator: str | None  # the outermost that called it, if any
    stage: str
    path: Path  # the step it was launched in
    start: int
    end: int


def kernels(events: Sequence[Event], on_gpu: bool) -> tuple[list[Kernel], float]:
    """The kernels of a trace that is sorted by time, and seconds of device work that nothing in it launched.

    On a CPU they are Inductor's kernels and the outermost operators around or between them, views left out.
    """
    found: list[Kernel] = []
    places: dict[int, tuple[str, Path]] = {}
    callers: dict[int, str] = {}
    stages: list[tuple[str, int]] = []
    steps: list[tuple[Path, int]] = []
    busy, outer = 0, ""
    for event in events:
        if event.kind == "device":
            continue
        stages, steps = still_open(stages, event.start), still_open(steps, event.start)
        if event.kind == "label":
            if event.name.startswith(f"{STAGE}."):
                stages.append((event.name.removeprefix(f"{STAGE}."), event.end))
            elif event.name.startswith(STEP):
                steps.append((path_of(event), event.end))
            continue
        place = (stages[-1][0] if stages else Place().stage, steps[-1][0] if steps else ())
        if event.kind == "other" and event.name.startswith(CALLS):
            places.setdefault(event.number, place)
        elif event.kind == "operator" or FUSED.search(event.name):
            if event.start >= busy:
                busy, outer = event.end, event.name.removeprefix("aten::")
                if not on_gpu and not VIEWS.fullmatch(outer):
                    found.append(Kernel(event.name, outer, *place, event.start, event.end))
            callers[event.number] = outer
    if not on_gpu:
        return found, 0.0
    return _launched(events, places, callers)


def _launched(
    events: Iterable[Event], places: Mapping[int, tuple[str, Path]], callers: Mapping[int, str]
) -> tuple[list[Kernel], float]:
    """The device's work, each with the place of the call that launched it."""
    found, lost = [], 0
    for event in events:
        if event.kind != "device":
            continue
        if event.number in places:
            caller = callers.get(event.cause)
            found.append(Kernel(event.name, caller, *places[event.number], event.start, event.end))
        else:
            lost += event.end - event.start
    return found, lost * 1e-9


def category_of(kernel: str, operator: str | None, known: Mapping[str, str]) -> str:
    """What a kernel does, by its name and that of the operator that called it; `known` are operators' categories."""
    fused = FUSED.search(kernel)
    if fused is not None:
        return _fused(fused["kind"], fused["operators"])
    if operator is not None and operator in known:
        return known[operator]
    for name in filter(None, (operator, kernel)):
        for category, pattern in PATTERNS.items():
            if pattern.search(name.lower()):
                return category
    return "Other"


def _fused(kind: str | None, operators: str) -> str:
    """Of a fused kernel: a product where it is made from a template for one, else by the rarest operator in it.

    A product or convolution named in any other is one whose bias or result a loop over elements takes up.
    """
    if kind == "tem":
        return next((name for name, pattern in TEMPLATES.items() if pattern.search(operators)), "Linear")
    for category, pattern in FUSED_INTO.items():
        if pattern.search(operators):
            return category
    return "Memory" if MOVING.fullmatch(operators) else "Elementwise"
