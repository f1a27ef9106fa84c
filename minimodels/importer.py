"""Directories of diffusers and transformers -> the TOML of an architecture of ours: sizes alone, no weights are read.

A pipeline and a language model become whole architectures, any other model a section of one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from minimodels import toml_writer
from minimodels.config import DecoderOnly, Part
from minimodels.loader import parse
from minimodels.peers import Settings, Table
from minimodels.unet_config import UNet
from minimodels.weights import read, read_json

PIPELINES = {  # their defaults: steps, guidance scale
    "StableDiffusionPipeline": (50, 7.5),
    "StableDiffusionXLPipeline": (50, 5.0),
}
SAMPLERS = {"DDIMScheduler": "ddim", "DDPMScheduler": "ddpm", "EulerDiscreteScheduler": "euler"}
ONE_PASS = {  # schedulers that run the network once a step, as ours do
    "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler", "SASolverScheduler", "TCDScheduler",
    "UniPCMultistepScheduler",
}  # fmt: skip
TWO_PASSES = {"HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler"}  # but the last
SCHEDULES = {"scaled_linear": "scaled-linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "noise", "v_prediction": "velocity", "sample": "clean"}
SECTIONS = {"kl-decoder": "decoder", "vq-decoder": "decoder", "encoder-decoder": "transformer"}  # else as the kind
PROMPT_LEN, GEN_LEN = 2048, 128  # tokens, at most: those of our LLaMA-2 configs


class Imported(NamedTuple):
    """TOML text; section: what it is a section of an architecture for, None where it is a whole one."""

    text: str
    section: str | None


def to_toml(directory: Path) -> Imported:
    """The config of a directory as TOML, with comments that say where its numbers are from.

    Raises:
        ValueError: it cannot be read, or has what ours lacks.
    """
    if (directory / "model_index.json").is_file():
        return _pipeline(directory)
    part = read(directory)[1]
    source = f"from {directory / 'config.json'}"
    if isinstance(part, DecoderOnly):
        return _language_model(directory, part, source)
    kind = str(getattr(part, "kind", ""))
    section = SECTIONS.get(kind, kind.replace("-", "_"))
    head = (
        'A section of an architecture, not a whole one: add a line `base = "NAME"` above, an architecture of '
        f"`minibench list`, in which it takes the place of [{section}]."
    )
    table = {"replace": [section], section: _sizes(part)}
    return Imported(toml_writer.dumps(table, {"": head, section: source}), section)


def _sizes(part: Part) -> Table:
    sizes = part.model_dump(exclude_defaults=True)
    return {"kind": sizes["kind"], **sizes}


def _whole(directory: Path, table: Table, comments: dict[str, str]) -> Imported:
    """An architecture, once it is one by the rules of its kind."""
    parse(table | {"name": directory.resolve().name or "imported"}, str(directory))
    return Imported(toml_writer.dumps(table, comments), None)


def _language_model(directory: Path, part: DecoderOnly, source: str) -> Imported:
    gen_len = max(min(GEN_LEN, part.context_len // 2), 1)
    prompt_len = min(PROMPT_LEN, part.context_len - gen_len)
    table = {
        "title": directory.resolve().name, "family": "llama", "kind": "language-model", "paper": f"from {directory}",
        "run": {"prompt_len": prompt_len, "gen_len": gen_len, "temperature": 1.0}, "language_model": _sizes(part),
    }  # fmt: skip
    chosen = "chosen: config.json gives no lengths of a run"
    comments = {
        "run.prompt_len": chosen, "run.gen_len": chosen, "run.temperature": "chosen: does not change the work",
        "language_model": source,
    }  # fmt: skip
    return _whole(directory, table, comments)


def _pipeline(directory: Path) -> Imported:
    """A Stable Diffusion or SDXL pipeline as latent diffusion."""
    index = read_json(directory / "model_index.json")
    name = index.get("_class_name")
    if name not in PIPELINES:
        raise ValueError(
            f"{directory / 'model_index.json'}: pipeline {name!r} is not supported, only {', '.join(PIPELINES)}; "
            f"import one of its components, such as {directory / 'unet'}"
        )
    large = name == "StableDiffusionXLPipeline"
    steps, guidance_scale = PIPELINES[name]
    sections = {"text_encoder": "text_encoder", "unet": "unet", "decoder": "vae"}
    if large:
        sections = {"text_encoder": "text_encoder", "second_text_encoder": "text_encoder_2"} | sections
    parts = {section: read(directory / folder)[1] for section, folder in sections.items()}
    comments = {section: f"from {directory / folder / 'config.json'}" for section, folder in sections.items()}
    tables = {section: _sizes(part) for section, part in parts.items()}
    if large:
        for section in ("text_encoder", "second_text_encoder"):
            tables[section]["features"] = "penultimate"
            comments[f"{section}.features"] = "as the pipeline takes them"
    schedule, sampler, passes = _schedule(directory / "scheduler" / "scheduler_config.json", steps, comments)
    run = {
        "steps": passes, "image_size": _image_size(directory, parts["unet"], parts["decoder"]), "sampler": sampler,
        "guidance_scale": guidance_scale,
    }  # fmt: skip
    comments |= {
        "run.steps": f"default of {name}" + ("" if passes == steps else f": {steps}, in {passes} passes of the UNet"),
        "run.guidance_scale": f"default of {name}; batch doubled",
        "run.image_size": f"from {directory}: sample_size of the UNet, enlarged by the decoder",
    }
    table = {
        "title": directory.resolve().name, "family": "stable-diffusion", "kind": "latent-diffusion",
        "paper": f"from {directory}", "run": run, "schedule": schedule, **tables,
    }  # fmt: skip
    return _whole(directory, table, comments)


def _image_size(directory: Path, unet: Part, decoder: Part) -> int:
    """Side of the images that a pipeline makes."""
    path = directory / "unet" / "config.json"
    sample_size = read_json(path).get("sample_size")
    if not isinstance(sample_size, int) or sample_size < 1 or not isinstance(unet, UNet):
        raise ValueError(f"{path}: sample_size must be the side of the latents, not {sample_size!r}")
    return sample_size * getattr(decoder, "grows", 1)


def _schedule(path: Path, steps: int, comments: dict[str, str]) -> tuple[Table, str, int]:
    """The noise schedule of a scheduler, the sampler nearest to it, and the passes of the network that its steps take."""
    table = read_json(path)
    settings, name = Settings(table), table.get("_class_name")
    try:
        for setting, neutral in (("trained_betas", None), ("rescale_betas_zero_snr", False)):
            settings.one_of(setting, neutral)
        kind = SCHEDULES[settings.one_of("beta_schedule", "linear", "scaled_linear", "squaredcos_cap_v2")]
        schedule: dict[str, Any] = {"kind": kind}
        if kind != "cosine":
            schedule["beta_start"] = settings.number("beta_start", 0.0001)
            schedule["beta_end"] = settings.number("beta_end", 0.02)
        schedule["timesteps"] = settings.integer("num_train_timesteps", 1000)
        schedule["prediction"] = PREDICTIONS[settings.one_of("prediction_type", *PREDICTIONS)]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    comments["schedule"] = f"from {path}"
    comments["run.sampler"] = f"from {path}: {name}"
    passes = steps
    if name in SAMPLERS:
        return schedule, SAMPLERS[name], passes
    if name == "PNDMScheduler":  # the second step twice, or the first three by Runge-Kutta, of four passes each
        passes = steps + (1 if settings.one_of("skip_prk_steps", False, True) else 9)
    elif name in TWO_PASSES:
        passes = 2 * steps - 1
    elif name not in ONE_PASS:
        raise ValueError(f"{path}: how many passes of the network {name} makes is not known here; {_known()}")
    comments["run.sampler"] = f"chosen: {name} has no equal here; as many passes of the UNet as there"
    return schedule, "ddim", passes


def _known() -> str:
    return f"known are {', '.join(sorted({*SAMPLERS, *ONE_PASS, *TWO_PASSES, 'PNDMScheduler'}))}"
