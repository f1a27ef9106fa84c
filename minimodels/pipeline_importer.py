"""Pipelines of diffusers -> whole architectures of ours: their networks, schedule, and the defaults of their calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minimodels.config import Part
from minimodels.peers import Table
from minimodels.peers.scheduler import read_scheduler
from minimodels.weights import read, read_json


class Pipeline(NamedTuple):
    """What a class of pipeline is here; sections: of an architecture of that kind, by the folder each is read from.

    run: defaults of its call. features: of text encoders, where the pipeline does not take the last layer's. strength:
    the share of the steps that run, where it starts from an image. denoiser: the folder whose sample_size counts.
    """

    kind: str
    family: str
    run: Mapping[str, Any]
    sections: Mapping[str, str]
    features: str = "last"
    strength: float = 1.0
    denoiser: str = "unet"


LATENT = {"text_encoder": "text_encoder", "unet": "unet", "decoder": "vae"}
TWO_TEXTS = {"text_encoder": "text_encoder", "second_text_encoder": "text_encoder_2", "unet": "unet", "decoder": "vae"}
MASKED = {"text_encoder": "text_encoder", "transformer": "transformer", "decoder": "vqvae"}
STABLE, IMAGE, VIDEO = "stable-diffusion", "latent-diffusion", "latent-video"
PIPELINES = {
    "StableDiffusionPipeline": Pipeline(IMAGE, STABLE, {"steps": 50, "guidance_scale": 7.5}, LATENT),
    "StableDiffusionXLPipeline": Pipeline(
        IMAGE, STABLE, {"steps": 50, "guidance_scale": 5.0}, TWO_TEXTS, features="penultimate"
    ),
    "StableDiffusionXLImg2ImgPipeline": Pipeline(
        IMAGE, STABLE, {"steps": 50, "guidance_scale": 5.0}, TWO_TEXTS, features="penultimate", strength=0.3
    ),
    "TextToVideoSDPipeline": Pipeline(
        VIDEO, "modelscope", {"steps": 50, "guidance_scale": 9.0, "frames": 16}, LATENT
    ),
    "AnimateDiffPipeline": Pipeline(VIDEO, "animatediff", {"steps": 50, "guidance_scale": 7.5, "frames": 16}, LATENT),
    "AmusedPipeline": Pipeline(
        "masked-image",
        "amused",
        {"steps": 12, "guidance_scale": 10.0, "temperature": 1.0, "choice_temperature": 2.0},
        MASKED,
        features="penultimate",
        denoiser="transformer",
    ),
}  # fmt: skip
CASCADES = "IFPipeline", "IFSuperResolutionPipeline"


class Found(NamedTuple):
    """A pipeline as a table of ours, the comments of its keys, and the folders that it was read from."""

    table: Table
    comments: dict[str, str]
    folders: list[Path]


def sizes(part: Part) -> Table:
    """A part as a section of a config, its kind first, and nothing that is as it is where not given."""
    given = part.model_dump(exclude_defaults=True)
    return {"kind": given["kind"], **given}


def read_pipeline(directory: Path) -> Found:
    """The architecture that a directory with a model_index.json is.

    Raises:
        ValueError: the class is not known, or a component has what ours lacks.
    """
    index = read_json(directory / "model_index.json")
    name, pipeline = _class(index, directory)
    folders = {section: directory / folder for section, folder in _sections(index, pipeline).items()}
    parts = {section: read(folder)[1] for section, folder in folders.items()}
    comments = {section: f"from {folder / 'config.json'}" for section, folder in folders.items()}
    tables = {section: sizes(part) for section, part in parts.items()}
    if pipeline.features != "last":
        for section, one in tables.items():
            if section.endswith("text_encoder"):
                one["features"] = pipeline.features
                comments[f"{section}.features"] = "as the pipeline takes them"
    run = dict(pipeline.run) | {"image_size": _image_size(directory / pipeline.denoiser, parts["decoder"])}
    comments |= {f"run.{key}": f"default of {name}" for key in pipeline.run}
    comments["run.guidance_scale"] += "; batch doubled"
    comments["run.image_size"] = f"from {directory}: sample_size of the {pipeline.denoiser}, enlarged by the decoder"
    table: Table = {
        "title": directory.resolve().name, "family": pipeline.family, "kind": pipeline.kind,
        "paper": f"from {directory}", "run": run,
    }  # fmt: skip
    if pipeline.kind != "masked-image":
        table["schedule"] = _loop(directory, name, pipeline, run, comments)
    return Found(table | tables, comments, list(folders.values()))


def _class(index: Table, directory: Path) -> tuple[str, Pipeline]:
    """The class that a model_index.json names."""
    name = index.get("_class_name")
    if isinstance(name, str) and name in PIPELINES:
        return name, PIPELINES[name]
    parts = [key for key in index if (directory / key / "config.json").is_file()]
    alone = f"import one of its components: {', '.join(str(directory / key) for key in parts)}" if parts else ""
    if name in CASCADES:
        reason = "is one network of a cascade, whose others are in directories of their own"
    else:
        reason = f"is not supported, only {', '.join(PIPELINES)}"
    raise ValueError(f"{directory / 'model_index.json'}: pipeline {name!r} {reason}{'; ' if alone else ''}{alone}")


def _sections(index: Table, pipeline: Pipeline) -> dict[str, str]:
    """The folder of each section; a pipeline without its first text encoder (SDXL's refiner) has the second alone."""
    sections = dict(pipeline.sections)
    if "second_text_encoder" in sections and index.get("text_encoder") == [None, None]:
        sections["text_encoder"] = sections.pop("second_text_encoder")
    return sections


def _image_size(denoiser: Path, decoder: Part) -> int:
    """Side of the images that a pipeline makes."""
    path = denoiser / "config.json"
    sample_size = read_json(path).get("sample_size")
    if not isinstance(sample_size, int) or sample_size < 1:
        raise ValueError(f"{path}: sample_size must be the side of the latents, not {sample_size!r}")
    return sample_size * getattr(decoder, "grows", 1)


def _loop(directory: Path, name: str, pipeline: Pipeline, run: Table, comments: dict[str, str]) -> Table:
    """The noise schedule; sampler and steps of its loop are put into `run`."""
    path, strength = directory / "scheduler" / "scheduler_config.json", pipeline.strength
    why = comments["run.steps"]
    steps = max(int(run["steps"] * strength), 1)
    if strength != 1:
        why = f"{why}: {run['steps']} steps of which strength {strength} runs, here from noise"
    found = read_scheduler(path, steps, why)
    run |= {"steps": found.steps, "sampler": found.sampler}
    comments |= {"schedule": f"from {path}", "run.steps": found.why_steps, "run.sampler": found.why_sampler}
    if strength != 1:
        comments["schedule.below"] = f"default of {name}: strength {strength}"
        return found.schedule | {"below": max(int(found.schedule["timesteps"] * strength), 1)}
    return found.schedule
