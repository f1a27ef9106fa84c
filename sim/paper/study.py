"""The eight workloads of the study on one device, profiled when first asked for.

What the study does not state (batch, prompts, the version of Stable Diffusion, how it was compiled) is ours as the
configs have it: batch 1, eager.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from minimodels import loader
from minimodels.config import AutoregressiveImage
from minimodels.diffusion_config import CascadedDiffusion, CascadedVideo, LatentDiffusion
from minimodels.kinds import Config
from minimodels.run import Run, build, parameters
from minimodels.sim import units
from minimodels.sim.profile import Op, Profile
from minimodels.sim.progress import Advance, silent
from minimodels.token_config import ParallelImage

PAPER = "arXiv 2312.14385"
WORKLOADS = {  # as the study calls them
    "LLaMA": "llama2-7b",
    "Imagen": "imagen",
    "StableDiffusion": "stable-diffusion-1.5",
    "Muse": "muse-3b",
    "Parti": "parti-20b",
    "Prod Image": "prod-image",
    "MakeAVideo": "make-a-video",
    "Phenaki": "phenaki",
}
DIFFUSION = ("Imagen", "StableDiffusion", "Prod Image", "MakeAVideo")
TRANSFORMERS = ("Muse", "Parti", "Phenaki")
IMAGES = ("Imagen", "StableDiffusion", "Muse", "Parti", "Prod Image")
STAND_IN = "Prod Image"  # the study does not describe its production model; ours is another

Profiler = Callable[[Config, Run, Advance], Profile]


def config_of(workload: str, overrides: tuple[str, ...] = (), **lengths: int) -> Config:
    """The architecture of a workload, or that of a config by name."""
    return loader.load(WORKLOADS.get(workload, workload), overrides, lengths)


def image_side(config: Config) -> int:
    """Side in pixels of what a text-to-image model makes in the end."""
    if isinstance(config, AutoregressiveImage):
        pixels = config.detokenizer.grid * config.detokenizer.patch_size
        return pixels * 2**config.super_resolution.doublings
    if isinstance(config, ParallelImage):
        return config.super_resolution.axes[-1] * config.decoder.grows
    assert isinstance(config, LatentDiffusion | CascadedDiffusion), config.kind
    return config.run.image_size


def kernel_seconds(ops: Iterable[Op]) -> float:
    """The time of operators as the study takes it (section III, Tools): that of their kernels, without waits for the
    host."""
    return math.fsum(op.weight * (op.device_seconds or 0.0) for op in ops)


def where(profile: Profile) -> str:
    """How a profile came about, for the title of a figure: "simulated on NVIDIA A100-SXM4-80GB"."""
    return f"{profile.source} on {units.printable(profile.device.title)}"


def generators(config: Config) -> int:
    """Parameters of the networks that make tokens, latents or pixels: all but separate text encoders and decoders."""
    others = ("text_encoder", "second_text_encoder", "decoder", "detokenizer")
    if isinstance(config, CascadedVideo):
        others = others[:2]  # its decoder is the network that denoises
    return sum(parameters(part) for name, part in build(config, "meta").items() if name not in others)


@dataclass(frozen=True, slots=True)
class Setting:
    """A length that a workload has, as the study has it, and as it is changed to; why: it stays as it is."""

    workload: str
    length: str
    own: int
    changed: int | None
    why: str = ""


def settings(lengths: Mapping[str, int]) -> list[Setting]:
    """What becomes of the workloads that have these lengths.

    Raises:
        ValueError: none of them can take one of the lengths.
    """
    found: list[Setting] = []
    for length, value in lengths.items():
        mine = [_setting(workload, length, value) for workload in WORKLOADS]
        having = [setting for setting in mine if setting is not None]
        if all(setting.changed is None for setting in having):
            said = "; ".join(f"{one.workload}: {one.why}" for one in having) or "none of the workloads has it"
            raise ValueError(f"--{length.replace('_', '-')} {value}: {said}")
        found += having
    return found


def _setting(workload: str, length: str, value: int) -> Setting | None:
    own = config_of(workload).run
    if length not in type(own).model_fields:
        return None
    try:
        config_of(workload, (), **{length: value})
    except ValueError as error:
        return Setting(workload, length, getattr(own, length), None, str(error))
    return Setting(workload, length, getattr(own, length), value)


@dataclass(slots=True)
class Study:
    """Profiles on one device, each made once. profiler: `simulate`, or `measure` where the device is "cuda".

    lengths: what differs from the study's workloads, in every workload that has such a length and can take it.
    """

    device: str
    profiler: Profiler
    progress: Advance = silent
    lengths: Mapping[str, int] = field(default_factory=dict)
    _known: dict[tuple[Any, ...], Profile] = field(default_factory=dict)

    def profile(
        self, workload: str, attention: str = "flash", *, mode: str = "eager", batch: int = 1,
        overrides: tuple[str, ...] = (), **lengths: int,
    ) -> Profile:  # fmt: skip
        """One inference of a workload (or of a config by name); lengths: `steps`, `image_size`, `frames`, ..."""
        lengths = self.changed(workload) | lengths
        key = (workload, attention, mode, batch, overrides, *sorted(lengths.items()))
        if key not in self._known:
            config = config_of(workload, overrides, **lengths)
            run = Run(device=self.device, attention=attention, mode=mode, batch=batch)  # type: ignore[arg-type]
            self._known[key] = self.profiler(config, run, self.progress)
        return self._known[key]

    def changed(self, workload: str) -> dict[str, int]:
        """The lengths that a workload has here instead of the study's."""
        found = (_setting(workload, length, value) for length, value in self.lengths.items())
        return {one.length: one.changed for one in found if one is not None and one.changed is not None}

    def pair(self, workload: str, **options: Any) -> tuple[Profile, Profile]:
        """The workload with attention written out, and with FlashAttention."""
        return self.profile(workload, "baseline", **options), self.profile(workload, "flash", **options)


def of_device(device: str, progress: Advance = silent, lengths: Mapping[str, int] | None = None) -> Study:
    """A study simulated for a GPU, or measured where `device` is "cuda"; lengths: see `Study`."""
    if device == "cuda":
        from minimodels.sim.measure import measure

        return Study(device, measure, progress, lengths or {})
    from minimodels.sim.simulate import simulate

    return Study(device, simulate, progress, lengths or {})
