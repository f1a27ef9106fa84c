"""Rows of a truth table that measure a whole model.

LLaMA-2-7B (LLaMA-7B is the same network), compiled: what was measured fuses its small kernels and has no Python
between them:

- phase `prefill`, "input N tokens": seconds to the first token;
- phase `decode`, "input N tokens, output M tokens": tokens per second after the first; as gpt-fast compiles it, which
  tells torch's compiler to tune by coordinate descent: that writes products of one row as sums of its own
  (`torch/_inductor/decomposition.py`, mm);
- phase `prefill+decode`, "..., in N / out M": generated tokens per second of whole batches.

`UNet denoise loop` of a diffusers pipeline of 2023, in it/s or s/it, an iteration being one call of the UNet on twice
the batch (guidance). The settings hold the image's size as "512x512", "compile" or "eager", and "torch 2.0" or a
nightly of its time, whose flash attention was the first FlashAttention. Of DeepFloyd IF "stage I" (the size M) is
claimed; a row that names several stages has the number of the first. An inpainting UNet has five more input channels,
which are left out. Weights lie channels last, as in the benchmark's code (diffusers docs, optimization/torch2.0).
Eager pipelines spend `PYTHON` times the host seconds of lean code. Compiled ones leave the device idle for `AROUND`
operators' host time a step: diffusers' schedulers read the step's number back from the device, and only then does the
host take the step, check the guards of the compiled network and launch it again. Both numbers come from batch 1 of SD
1.5 on an A100, whatever the pipeline (text to image, image to image, inpainting); `AROUND` from those with the nightly
torch, since with torch 2.0 the A100, and no other GPU, is a fifth slower at every batch, which is not modelled. What
the tensor cores of Volta and Turing sustain comes from batch 4 of it, compiled (`sustained`). None of these rows is
reported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Protocol

from minimodels.sim import device as devices
from minimodels.sim.call import Call
from minimodels.sim.error_bar import PYTHON
from minimodels.sim.truth_kernels import SCALE, Unpredicted, precision

if TYPE_CHECKING:
    from minimodels.kernels.scope import AttentionCall
    from minimodels.sim.cost import Mode
    from minimodels.sim.device import Device


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


UNETS = {
    "stable_diffusion_1.5": "stable-diffusion-1.5",
    "stable_diffusion_1.5 inpainting": "stable-diffusion-1.5",
    "sdxl_base_1.0": "sdxl",
    "deepfloyd_IF (T5 pixel cascade; Imagen class)": "imagen",
    "deepfloyd_IF": "imagen",
}
IF_M = (  # DeepFloyd IF-I-M: Imagen's base network at a smaller width. Source: its released config
    "unet.levels.0.channels=192", "unet.levels.1.channels=384", "unet.levels.2.channels=576",
    "unet.levels.3.channels=768", "unet.levels.1.attention.num_heads=6", "unet.levels.2.attention.num_heads=9",
    "unet.levels.3.attention.num_heads=12", "unet.middle.num_heads=12", "unet.out_channels=6", "unet.time_dim=768",
    "unet.context_dim=768", "unet.activation=gelu", "unet.pooling.num_heads=64", "text_encoder.text_len=77",
)  # fmt: skip
AROUND = 172  # operators of lean code that take a host as long as what is around a compiled network
FITTED_TO = "stable-diffusion-1.5"
HOST_ROWS = ("a100-80gb", 1)  # device and batch of the rows that `PYTHON` and `AROUND` come from
RATE_BATCH = 4  # of the compiled rows that the rates of a GPU of these architectures come from
WITHOUT_FLASH = ("sm70", "sm75")
PRECISIONS = ("bfloat16", "float16", "float32")
LLAMA = {"llama-7b": "llama2-7b", "llama2-7b": "llama2-7b"}
GENERATION = ("prefill", "decode", "prefill+decode")
DENOISING = "UNet denoise loop"


def family(model: str, phase: str, settings: str) -> str | None:
    """The family of a whole-model row, None if it is not claimed."""
    if phase in GENERATION and model in LLAMA:
        return f"LLaMA {phase}"
    if phase != DENOISING or model not in UNETS:
        return None
    if UNETS[model] == "imagen" and not settings.startswith("stage I "):
        return None
    kind = "compiled" if compiled(settings) else "eager"
    return f"denoise {UNETS[model].replace('imagen', 'deepfloyd-if')} {kind}"


def compiled(settings: str) -> bool:
    """Whether a row was measured with torch.compile."""
    return "compile" in settings and "no compile" not in settings


def fitted(row: Measured, device: str) -> bool:
    """Whether a constant was fitted to the row."""
    if UNETS.get(row.model) != FITTED_TO or row.phase != DENOISING:
        return False
    return (device, row.batch) == HOST_ROWS or gives_rates(row) and devices.load(device).arch in WITHOUT_FLASH


def gives_rates(row: Measured) -> bool:
    """Whether the row is one that `calibrate` takes what tensor cores sustain from."""
    return UNETS.get(row.model) == FITTED_TO and row.batch == RATE_BATCH and compiled(row.settings)


def predicted(row: Measured, device: str) -> float:
    """What the row measured, as predicted for a device, in the row's unit.

    Raises:
        Unpredicted: it says too little, or what is not modelled.
    """
    return _generation(row, device) if row.phase in GENERATION else _denoising(row, device)


def lengths(settings: str) -> list[int]:
    """Prompt and generated tokens, as far as a row's settings say."""
    return [int(number) for number in re.findall(r"\b(?:in|input|out|output) (\d{1,9})\b", settings)]


def _generation(row: Measured, device: str) -> float:
    """Seconds of the prefill, or generated tokens per second."""
    tokens = lengths(row.settings)
    if len(tokens) != (1 if row.phase == "prefill" else 2):
        raise Unpredicted(f"cannot read lengths from {row.settings!r}")
    dtype = precision(row.dtype)
    if dtype not in (*PRECISIONS, "float8"):
        raise Unpredicted(f"dtype {row.dtype!r} is not predicted for whole models")
    if (row.unit in SCALE) != (row.phase == "prefill") or row.unit not in (*SCALE, "tok/s"):
        raise Unpredicted(f"unit {row.unit!r} is not predicted for {row.phase}")
    prompt, generated, batch = (*tokens, 1)[0], (*tokens, 1)[1], row.batch or 1
    seconds = _stages(LLAMA[row.model], device, dtype, batch, prompt, generated, row.phase == "decode")
    if row.phase == "prefill":
        return SCALE[row.unit] * seconds["prefill"]
    if row.phase == "prefill+decode":
        return batch * generated / sum(seconds.values())
    if "decode" not in seconds:
        raise Unpredicted("one generated token comes from the prefill: there is no decode")
    return batch * (generated - 1) / seconds["decode"]


@cache
def _stages(
    name: str, device: str, dtype: str, batch: int, prompt: int, generated: int, row_by_row: bool
) -> dict[str, float]:
    """Seconds of each stage; in float8 products and the KV cache are of low precision, the rest bfloat16.

    row_by_row: products of one row are sums that the compiler writes.
    """
    from minimodels import loader
    from minimodels.options import parse
    from minimodels.run import Run
    from minimodels.sim.cost import predict
    from minimodels.sim.simulate import walk_config

    file = devices.load(device)
    if dtype not in file.datasheet.flops:
        raise Unpredicted(f"{device} has no rate for {dtype}")
    low = dtype == "float8"
    options = {"device": device, "dtype": "bfloat16" if low else dtype, "batch": batch, "mode": "compiled"}
    try:
        config = loader.load(name, [f"run.prompt_len={prompt}", f"run.gen_len={generated}"])
        calls = walk_config(config, parse(Run, options), file).calls
    except ValueError as error:
        raise Unpredicted(str(error)) from None
    calls = [_low(call) for call in calls] if low else calls
    calls = [replace(call, attention=_of_one_query(call.attention)) for call in calls]
    calls = [_summed(call) for call in calls] if row_by_row else calls
    seconds: dict[str, float] = {}
    for call, timing in zip(calls, predict(calls, file, "compiled"), strict=True):
        spent = call.weight * (timing.device_seconds + timing.gap_seconds)
        seconds[call.stage] = seconds.get(call.stage, 0.0) + spent
    return seconds


def _of_one_query(call: AttentionCall | None) -> AttentionCall | None:
    """One query attends in a kernel of the engine's own, without tiles of queries."""
    return replace(call, backend="mmha") if call is not None and call.query_length == 1 else call


def _summed(call: Call) -> Call:
    """A product of one row as a kernel that streams its weights and sums."""
    if call.work.gemm is None or call.work.gemm[:2] != (1, 1):
        return call
    return replace(call, work=replace(call.work, kernel="other", gemm=None))


def _low(call: Call) -> Call:
    """The call with operands of one byte: products, and keys and values of attention."""
    if call.work.kernel not in ("gemm", "attention"):
        return call
    work = replace(call.work, bytes_read=call.work.bytes_read // 2)
    return replace(call, work=work, dtype="float8" if work.kernel == "gemm" else call.dtype)


def _denoising(row: Measured, device: str) -> float:
    """Iterations per second of a UNet, or seconds per iteration."""
    seconds = _on_shipped(iteration(row), device)
    return 1 / seconds if row.unit == "it/s" else seconds


@dataclass(frozen=True, slots=True)
class Iteration:
    """One iteration of a denoising loop: what runs, and how."""

    name: str
    overrides: tuple[str, ...]
    dtype: str
    batch: int
    mode: Mode
    old: bool  # with the first FlashAttention


def iteration(row: Measured) -> Iteration:
    """What a row of a denoising loop measured.

    Raises:
        Unpredicted: it says too little, or what is not modelled.
    """
    dtype = precision(row.dtype)
    if dtype not in PRECISIONS:
        raise Unpredicted(f"dtype {row.dtype!r} is not predicted for whole models")
    if row.unit not in ("it/s", "s/it"):
        raise Unpredicted(f"unit {row.unit!r} is not predicted for {row.phase}")
    size = re.search(r"\b(\d{2,4})x\1\b", row.settings)
    if size is None:
        raise Unpredicted(f"cannot read an image size from {row.settings!r}")
    name, mode = UNETS[row.model], "compiled" if compiled(row.settings) else "eager"
    overrides = IF_M if name == "imagen" else (f"run.image_size={size[1]}",)
    old = re.search(r"torch (2\.[01]\b|nightly \(mid-2023\))", row.settings) is not None
    return Iteration(name, overrides, dtype, row.batch or 1, mode, old)


@cache
def _on_shipped(one: Iteration, device: str) -> float:
    return seconds_of(one, devices.load(device))


def seconds_of(one: Iteration, device: Device) -> float:
    """Seconds of one iteration of the denoising loop.

    Raises:
        Unpredicted: the device cannot run it.
    """
    if one.dtype not in device.datasheet.flops:
        raise Unpredicted(f"{device.name} has no rate for {one.dtype}")
    calls = [
        replace(call, attention=_as_in_2023(call.attention, one.old))
        for call in _calls(one.name, one.overrides, device.arch, one.dtype, one.batch)
    ]
    per_op = device.constants.host_per_op + device.constants.host_per_launch
    around = AROUND * per_op if one.mode == "compiled" else 0.0
    if one.mode == "eager":
        slow = {key: PYTHON * getattr(device.constants, key) for key in ("host_per_op", "host_per_launch")}
        device = device.with_constants(**slow)
    from minimodels.sim.cost import predict

    timings = predict(calls, device, one.mode)
    seconds = sum(call.weight * (t.device_seconds + t.gap_seconds) for call, t in zip(calls, timings, strict=True))
    return around + seconds / max(call.steps or 1 for call in calls)


def _as_in_2023(call: AttentionCall | None, old: bool) -> AttentionCall | None:
    """The kernel that torch of 2023 took for FlashAttention, which had no heads of more than 128 features."""
    if not old or call is None or call.backend != "flash":
        return call
    return replace(call, backend="flash1" if call.head_dim <= 128 else "efficient")


@cache
def _calls(name: str, overrides: tuple[str, ...], arch: str, dtype: str, batch: int) -> list[Call]:
    """The calls of the loop on a GPU of this architecture."""
    from minimodels import loader
    from minimodels.options import parse
    from minimodels.run import Run
    from minimodels.sim.job import of_config
    from minimodels.sim.simulate import run_walk
    from minimodels.sim.trace import Walk

    try:
        config = loader.load(name, overrides)
        run = parse(Run, {"batch": batch, "dtype": dtype, "layout": "channels-last"})
    except ValueError as error:
        raise Unpredicted(str(error)) from None
    prepared = of_config(config, run).prepare("meta")
    walk = Walk(prepared.parts)
    run_walk(walk, prepared, run, arch, name)
    stage = "unet" if name == "imagen" else "denoise"
    return [call for call in walk.calls if call.stage == stage and call.steps]
