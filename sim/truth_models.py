"""Rows of a truth table that measure a whole model.

For LLaMA-2-7B (LLaMA-7B is the same network), compiled: what was measured fuses its small kernels and has no Python between them:

- phase `prefill`, "input N tokens": seconds to the first token;
- phase `decode`, "input N tokens, output M tokens": tokens per second after the first;
- phase `prefill+decode`, "..., in N / out M": generated tokens per second of whole batches.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, Protocol

from minimodels.sim.truth_kernels import SCALE, Unpredicted


class Measured(Protocol):
    """The part of a row that is read here."""

    @property
    def model(self) -> str: ...
    @property
    def phase(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def batch(self) -> int | None: ...
    @property
    def settings(self) -> str: ...
    @property
    def unit(self) -> str: ...


PRECISIONS: dict[str, Literal["bfloat16", "float16", "float32"]] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}  # fmt: skip
LLAMA = {"llama-7b": "llama2-7b", "llama2-7b": "llama2-7b"}
GENERATION = ("prefill", "decode", "prefill+decode")


def claims(model: str, phase: str) -> bool:
    """Whether rows of this model and phase are predicted."""
    return family(model, phase) is not None


def family(model: str, phase: str) -> str | None:
    """The family of a whole-model row, None if it is not claimed."""
    if phase in GENERATION and model in LLAMA:
        return f"LLaMA {phase}"
    return None


def predicted(row: Measured, device: str) -> float:
    """What the row measured, as predicted for a device, in the row's unit.

    Raises:
        Unpredicted: it says too little, or what is not modelled.
    """
    return _generation(row, device)


def lengths(settings: str) -> list[int]:
    """Prompt and generated tokens, as far as a row's settings say."""
    return [int(number) for number in re.findall(r"\b(?:in|input|out|output) (\d{1,9})\b", settings)]


def _generation(row: Measured, device: str) -> float:
    """Seconds of the prefill, or generated tokens per second."""
    tokens = lengths(row.settings)
    if len(tokens) != (1 if row.phase == "prefill" else 2):
        raise Unpredicted(f"cannot read lengths from {row.settings!r}")
    if row.dtype not in PRECISIONS:
        raise Unpredicted(f"dtype {row.dtype!r} is not predicted for whole models")
    if (row.unit in SCALE) != (row.phase == "prefill") or row.unit not in (*SCALE, "tok/s"):
        raise Unpredicted(f"unit {row.unit!r} is not predicted for {row.phase}")
    prompt, generated, batch = (*tokens, 1)[0], (*tokens, 1)[1], row.batch or 1
    seconds = _stages(LLAMA[row.model], device, PRECISIONS[row.dtype], batch, prompt, generated)
    if row.phase == "prefill":
        return SCALE[row.unit] * seconds["prefill"]
    if row.phase == "prefill+decode":
        return batch * generated / sum(seconds.values())
    if "decode" not in seconds:
        raise Unpredicted("one generated token comes from the prefill: there is no decode")
    return batch * (generated - 1) / seconds["decode"]


@cache
def _stages(
    name: str, device: str, dtype: Literal["bfloat16", "float16", "float32"], batch: int, prompt: int, generated: int
) -> dict[str, float]:
    from minimodels import loader
    from minimodels.run import Run
    from minimodels.sim import views
    from minimodels.sim.simulate import simulate

    try:
        config = loader.load(name, [f"run.prompt_len={prompt}", f"run.gen_len={generated}"])
        profile = simulate(config, Run(device=device, dtype=dtype, batch=batch, mode="compiled"))
    except ValueError as error:
        raise Unpredicted(str(error)) from None
    return {stage: part.seconds or 0.0 for stage, part in views.by_stage(profile).items()}
