"""The eight workloads of the study on one device, profiled when first asked for.

What the study does not state (batch, prompts, the version of Stable Diffusion, how it was compiled) is ours as the
configs have it: batch 1, eager.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
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


@dataclass(slots=True)
class Study:
    """Profiles on one device, each made once. profiler: `simulate`, or `measure` where the device is "cuda"."""

    device: str
    profiler: Profiler
    progress: Advance = silent
    _known: dict[tuple[Any, ...], Profile] = field(default_factory=dict)

    def profile(
        self, workload: str, attention: str = "flash", *, mode: str = "eager", batch: int = 1,
        overrides: tuple[str, ...] = (), **lengths: int,
    ) -> Profile:  # fmt: skip
        """One inference of a workload (or of a config by name); lengths: `steps`, `image_size`, `frames`, ..."""
        key = (workload, attention, mode, batch, overrides, *sorted(lengths.items()))
        if key not in self._known:
            config = config_of(workload, overrides, **lengths)
            run = Run(device=self.device, attention=attention, mode=mode, batch=batch)  # type: ignore[arg-type]
            self._known[key] = self.profiler(config, run, self.progress)
        return self._known[key]

    def pair(self, workload: str, **options: Any) -> tuple[Profile, Profile]:
        """The workload with attention written out, and with FlashAttention."""
        return self.profile(workload, "baseline", **options), self.profile(workload, "flash", **options)


def of_device(device: str, progress: Advance = silent) -> Study:
    """A study simulated for a GPU, or measured where `device` is "cuda"."""
    if device == "cuda":
        from minimodels.sim.measure import measure

        return Study(device, measure, progress)
    from minimodels.sim.simulate import simulate

    return Study(device, simulate, progress)
