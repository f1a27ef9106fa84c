"""Fig. 9: sequence lengths of Stable Diffusion by image size, and the memory of their similarity matrices.

Lengths and bytes are those of the walk of one denoising step with attention written out. Beside the bytes stand the
study's equation 4 as printed, and its general form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt, log2
from typing import Any

from minimodels.options import HERE
from minimodels.sim import units
from minimodels.sim.paper import formulas
from minimodels.sim.paper.draw import CYCLE, Panel, figure
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.study import Study, of_device
from minimodels.sim.profile import Attention, Op, Profile

SIZES = range(64, 513, 64)  # pixels: what the UNet can halve
STAGE = "denoise"


@dataclass(frozen=True, slots=True)
class Step:
    """One denoising step at an image size.

    lengths: of the attention of pixels to themselves, and in how many calls; matrix: bytes of the similarity matrices
    of a call, by what the call is; bytes: of all calls; printed: by equation 4; general: by its general form.
    """

    lengths: Counter[int]
    matrix: dict[Attention, int]
    bytes: int
    printed: int
    general: int

    @property
    def side(self) -> int:
        """The side of the latents."""
        return isqrt(max(self.lengths))

    def first(self, role: str) -> tuple[Attention, int]:
        """The longest attention of a role, and the bytes of its similarity matrices."""
        calls = [item for item in self.matrix.items() if item[0].role == role]
        return max(calls, key=lambda item: item[0].query_length)


def counted(study: Study) -> Study:
    """A study that walks: what is counted, and not timed, needs no device to run on."""
    return of_device("a100-80gb", study.progress) if study.device in HERE else study


def step(profile: Profile) -> Step:
    """One denoising step of a profile with attention written out."""
    steps = next(stage.steps for stage in profile.stages if stage.name == STAGE) or 1
    matrices = [op for op in profile.ops if op.stage == STAGE and op.attention and op.name == "softmax"]
    lengths: Counter[int] = Counter()
    for op in matrices:
        if op.attention and op.attention.role == "self":
            lengths[op.attention.query_length] += round(op.weight / steps)
    printed, general = _by_formula(profile, isqrt(max(lengths)), matrices)
    return Step(
        lengths,
        {op.attention: op.bytes_written for op in matrices if op.attention},
        round(sum(op.weight * op.bytes_written for op in matrices) / steps),
        printed,
        general,
    )


def _by_formula(profile: Profile, side: int, matrices: list[Op]) -> tuple[int, int]:
    """Equation 4 as printed, and with the blocks, heads and batch of this UNet."""
    facts, levels = matrices[0].attention, profile.config["unet"]["levels"]
    assert facts is not None
    attend = [level for level in levels if level["attention"]]
    text_len, blocks = profile.config["text_encoder"]["text_len"], attend[0]["res_blocks"]
    return (
        formulas.unet_similarity_bytes(side, side, text_len, len(attend)),
        formulas.unet_similarity_bytes(
            side, side, text_len, len(attend), blocks=(blocks, blocks + 1), heads=facts.heads, batch=facts.batch
        ),
    )


def exponent(small: float, large: float, ratio: float) -> float:
    """By which power of x something grows, of which x has become `ratio` times as large."""
    return log2(large / small) / log2(ratio)


def fig9(study: Study) -> Result:
    """How long the sequences of Stable Diffusion are at image sizes from 64 to 512, and what their matrices take."""
    walked = counted(study)
    steps = {size: step(walked.profile("StableDiffusion", "baseline", image_size=size)) for size in SIZES}
    rows = [
        (size, length, calls, calls / sum(found.lengths.values()), found.bytes, found.printed, found.general)
        for size, found in steps.items()
        for length, calls in sorted(found.lengths.items())
    ]
    header = (
        "image size (pixels)", "length (tokens)", "calls in a step", "share of the calls",
        "similarity matrices of a step (bytes)", "equation 4 (bytes)", "its general form (bytes)",
    )  # fmt: skip
    text_len = next(facts.key_length for facts in steps[SIZES[-1]].matrix if facts.role == "cross")
    scores = [*_lengths(steps), *_definitions(steps[SIZES[-1]], text_len), *_memory(steps)]
    return Result(_figure(steps), header, rows, scores)


def _figure(steps: dict[int, Step]) -> Any:
    made, (lengths, memory) = figure(
        Panel(
            "Self-attention calls of a denoising step, by length (in the circles: how many)",
            "sequence length (tokens)", "image size (pixels)",
        ),
        Panel("Similarity matrices of a denoising step", "image size (pixels)", "bytes"),
        height=4.2,
    )  # fmt: skip
    for row, found in enumerate(steps.values()):
        for length, calls in found.lengths.items():
            lengths.scatter([length], [row], 70 * calls, color=CYCLE[0])
            lengths.annotate(str(calls), (length, row), ha="center", va="center", color="white", fontsize=8)
    lengths.set_yticks(range(len(steps)), list(map(str, steps)))
    lengths.set_xscale("log", base=4)
    lengths.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    lengths.set_ylim(-0.7, len(steps) - 0.3)
    facts, _ = next(iter(steps.values())).first("self")
    for values, look, label in (
        ([found.bytes for found in steps.values()], "o", f"walk: {facts.heads} heads, batch {facts.batch} (guidance)"),
        ([found.general for found in steps.values()], "-", "equation 4 with its blocks, heads and batch"),
        ([found.printed for found in steps.values()], "--", "equation 4 as printed"),
    ):
        memory.plot(list(steps), values, look, color=CYCLE[1] if look == "o" else CYCLE[0], label=label)
    low, high = SIZES[len(SIZES) // 2 - 1], SIZES[-1]
    slope = [steps[high].bytes * 3 * (size / high) ** 4 for size in (low, high)]
    memory.plot([low, high], slope, ":", color=CYCLE[6], label="fourth power")
    memory.set(xscale="log", yscale="log")
    memory.set_xticks(list(steps), list(map(str, steps)))
    memory.minorticks_off()
    memory.legend(frameon=False, fontsize=8)
    return made


def _lengths(steps: dict[int, Step]) -> Iterator[Score]:
    """Which lengths there are, how many of each, and how they move with the image."""
    small, large = steps[SIZES[0]], steps[SIZES[-1]]
    ratio = SIZES[-1] / SIZES[0]
    powers = [
        exponent(a, b, ratio) for a, b in zip(sorted(small.lengths), sorted(large.lengths), strict=True)
    ]  # level by level
    said = f"exponents {', '.join(f'{power:.2f}' for power in powers)}"
    for number in ("s5-01", "int-11"):
        yield Score(number, said, max(abs(power - 2) for power in powers) < 0.01, "level by level, 64 to 512 pixels")
    counts = sorted(large.lengths.items(), reverse=True)
    most = max(large.lengths.values())
    equal = sum(calls == most for _, calls in counts)
    yield Score(
        "f9-01", ", ".join(f"{length:,} x{calls}" for length, calls in counts), equal >= len(counts) - 1,
        "calls of one denoising step; all lengths but one equally often",
        why="" if equal == len(counts) else f"{len(counts) - equal} of {len(counts)} lengths, in the middle, is rarer",
    )  # fmt: skip
    ranges = [(min(found.lengths), max(found.lengths)) for found in steps.values()]
    right = all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(ranges))
    ends = ", ".join(
        f"{low:,} to {high:,} at {size} pixels"
        for size, (low, high) in zip(SIZES, ranges, strict=True)
        if size in (SIZES[0], SIZES[-1])
    )
    yield Score("f9-02", ends, right, "shortest and longest, at every step of the sweep")
    buckets = {len(found.lengths) for found in steps.values()}
    yield Score("f9-03", f"{', '.join(map(str, sorted(buckets)))} at every size", buckets == {4}, "distinct lengths")


def _definitions(found: Step, text_len: int) -> Iterator[Score]:
    """The study's equations 1 to 3 and what they assume, beside the longest calls of the walk."""
    (own, own_bytes), (cross, cross_bytes) = found.first("self"), found.first("cross")
    side, copies = found.side, own.heads * own.batch
    pairs, both = formulas.self_pairs(side, side), formulas.cross_pairs(side, side, text_len)
    yield Score("s5a-06", f"{pairs:,}", pairs == own.query_length * own.key_length, "the longest call at 512 pixels")
    yield Score("s5a-07", f"{both:,}", both == cross.query_length * cross.key_length, "the longest call at 512 pixels")
    each = own_bytes / (pairs * copies)
    yield Score("s5a-08", f"{each:g}", each == formulas.BYTES, "elements of the walk: bfloat16", each - formulas.BYTES)
    yield Score(
        "s5a-09", "1 head, batch 1 by default", True, "the formulas",
        why=f"a simplification: Stable Diffusion has {own.heads} heads, and guidance makes the batch {own.batch}",
    )  # fmt: skip
    one = formulas.similarity_bytes(side, side, text_len)
    yield Score(
        "s5a-10", f"{units.size(one)}, in the walk {units.size(own_bytes + cross_bytes)}",
        one * copies == own_bytes + cross_bytes, f"times {own.heads} heads and batch {own.batch}, at 512 pixels",
    )  # fmt: skip
    sides = sorted((isqrt(length) for length in found.lengths), reverse=True)
    factors = [side / other for other in sides]
    holds = factors == [2.0**n for n in range(len(sides))]
    yield Score("s5a-11", ", ".join(f"{factor:g}" for factor in factors), holds, "d = 2, stages from 0")


def _memory(steps: dict[int, Step]) -> Iterator[Score]:
    """The study's equation 4, and how memory grows with the length and with the side."""
    found, half = steps[SIZES[-1]], steps[SIZES[-1] // 2]
    own, _ = found.first("self")
    copies = own.heads * own.batch
    equal = "the walk to the byte" if found.general == found.bytes else units.times(found.general / found.bytes)
    yield Score(
        "s5a-12", f"{units.size(found.printed)}; the walk, of one head and sample, {units.size(found.bytes / copies)}",
        found.printed * copies == found.bytes, "as printed, against a step of Stable Diffusion at 512 pixels",
        why=f"it counts one block a level and way; with Stable Diffusion's blocks it is {equal}",
    )  # fmt: skip
    matrix = sorted((facts.query_length, size) for facts, size in found.matrix.items() if facts.role == "self")
    powers = [exponent(a[1], b[1], b[0] / a[0]) for a, b in pairwise(matrix)]
    yield Score(
        "s5a-13", f"quadratic: exponents {', '.join(f'{power:.2f}' for power in powers)} from length to length",
        max(powers) - min(powers) > 0.01, "bytes of a call against its length",
        why="of exponential growth the exponents would rise",
    )  # fmt: skip
    least = steps[SIZES[0]], steps[2 * SIZES[0]]
    last, first = exponent(half.bytes, found.bytes, 2), exponent(least[0].bytes, least[1].bytes, 2)
    for number in ("s5a-14", "int-20"):
        yield Score(
            number, f"exponent {last:.2f} from 256 to 512 pixels", round(last) == 4, "the walk of one step, rounded",
            last - 4, f"the text's term grows by the square: from 64 to 128 pixels the exponent is {first:.2f}",
        )  # fmt: skip
