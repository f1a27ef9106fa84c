"""The five demos: which tiny architecture each trains, how long, and how what it generates is judged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from minimodels.demos.cascade import Cascade
from minimodels.demos.classifier import Classifier
from minimodels.demos.data import COLOURS, DIRECTIONS, SHAPES, combinations, draw, drawn_labels, is_unseen, tokens
from minimodels.demos.image_tokens import Autoregressive, Parallel
from minimodels.demos.latents import Latents
from minimodels.demos.training import Stage
from minimodels.kinds import Config
from minimodels.loader import load
from minimodels.pipelines import generate, token_range
from minimodels.run import build, parameters

AT_ONCE = 72  # samples that are generated at once
SHUFFLES = 20  # orders of the captions whose shares are averaged
REAL = 1_000_000  # from here on count the seeds of samples that the classifier is judged on


class Learner(Protocol):
    """A model that learns from labels (n, 2 or 3) and pixels (n, 3, ..., h, w) in [-1, 1]."""

    trained: nn.ModuleDict

    def __init__(self, config: Any, parts: nn.ModuleDict, labels: Tensor, pixels: Tensor) -> None: ...

    def stages(self, *steps: int) -> list[Stage]: ...

    def ready(self) -> None:
        """Called once all stages are done, before anything is generated."""


@dataclass(frozen=True, slots=True)
class Family:
    """One demo; steps: of each stage of its learner; size: of the data set; each: samples of every combination.

    side: of its pictures or frames, in pixels.
    """

    title: str
    learner: Callable[[Any, nn.ModuleDict, Tensor, Tensor], Learner]
    steps: tuple[int, ...]
    size: int
    each: int
    side: int = 32
    judge_steps: int = 250


FAMILIES = {
    "pixel-diffusion": Family("pixel diffusion with super-resolution", Cascade, (2400, 400, 250), 4096, 9, 64),
    "latent-diffusion": Family("latent diffusion with its autoencoder", Latents, (400, 800), 4096, 9),
    "autoregressive": Family("autoregressive encoder-decoder", Autoregressive, (700, 1000, 3600), 12288, 9),
    "parallel-decoding": Family("parallel decoding", Parallel, (500, 500, 3600, 2800), 12288, 9),
    "video": Family("spatiotemporal video diffusion", Latents, (1000, 2400), 2048, 3, 24),
}


def scaled(steps: int, share: float) -> int:
    """A share of some steps, at least one."""
    return max(1, round(share * steps))


class Demo:
    """A family's model, data set and judge, all of it decided by the seed; share: of the full number of steps.

    Raises:
        ValueError: there is no such family.
    """

    def __init__(self, family: str, seed: int, share: float = 1.0) -> None:
        if family not in FAMILIES:
            raise ValueError(f"unknown family {family!r}; allowed: {', '.join(FAMILIES)}")
        self.family, self.seed, self.share, self.kind = family, seed, share, FAMILIES[family]
        self.config: Config = load(Path(__file__).with_name(f"{family}.toml"))
        self.frames: int | None = getattr(self.config.run, "frames", None)
        generator = torch.Generator().manual_seed(seed)
        labels = drawn_labels(self.kind.size, self.moving, generator, unseen=False)
        pixels = draw(labels, self.kind.side, self.frames, generator)
        self.parts = build(self.config, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of encoders and the judge, which torch initialises
            self.learner = self.kind.learner(self.config, self.parts, labels, pixels)
            self.judge = Classifier(self.kind.side, self.frames)
        self.trained = nn.ModuleDict({"learner": self.learner.trained, "judge": self.judge})

    @property
    def moving(self) -> bool:
        """Whether it is about videos."""
        return self.frames is not None

    def stages(self) -> list[Stage]:
        """All that is trained, the judge last; its steps are never cut."""
        stages = self.learner.stages(*(scaled(steps, self.share) for steps in self.kind.steps))
        return [*stages, Stage("classifier", self.judge, self.judge.loss, self.kind.judge_steps, 2e-3)]

    def sample(self, labels: Tensor, show: Callable[[str, int, int], None]) -> Tensor:
        """What the model generates for the captions of labels (n, 2 or 3): pixels in [-1, 1]."""
        self.learner.ready()
        text, made = tokens(labels, token_range(self.config)[1]), []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for some in text.split(AT_ONCE):
                made.append(generate(self.config, self.parts, some))
                show("samples", sum(map(len, made)), len(text))
        return torch.cat(made).clamp(-1, 1)

    def evaluate(self, show: Callable[[str, int, int], None]) -> tuple[dict[str, Any], Tensor, Tensor]:
        """The figures of the trained model, and the labels (n, 2 or 3) and pixels they are of."""
        labels = combinations(self.moving).repeat(self.kind.each, 1)
        before = time.process_time()
        pixels = self.sample(labels, show)
        seconds = time.process_time() - before
        figures = {
            "samples": len(labels),
            "sampling_cpu_seconds": seconds,
            "classifier_accuracy": self.judge.accuracy(REAL + self.seed),
            "parameters": {name: parameters(part) for name, part in self.parts.items()},
            **shares(self.judge.read(pixels), labels, self.seed),
        }
        return figures, labels, pixels


def shares(read: Tensor, labels: Tensor, seed: int) -> dict[str, dict[str, float]]:
    """How often what was read off samples is what their captions say, and what chance would give.

    match: each label by itself, all of a sample, and all of those whose pair was, or was not, trained on; shuffled: the
    same with the captions in another order; chance: of an even guess.
    """
    names = ("shape", "colour", "direction")[: labels.shape[1]]
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(labels), generator=generator) for _ in range(SHUFFLES)]
    shuffled = torch.cat([read == labels[order] for order in orders])
    right, unseen = read == labels, is_unseen(labels)
    odds = [1 / count for count in (len(SHAPES), len(COLOURS), len(DIRECTIONS))]
    chance = dict(zip(names, odds, strict=False))
    return {
        "match": _shares(right, names) | {"seen": _whole(right[~unseen]), "unseen": _whole(right[unseen])},
        "shuffled": _shares(shuffled, names),
        "chance": chance | {"all": torch.tensor(list(chance.values())).prod().item()},
    }


def _shares(right: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    return dict(zip(names, right.float().mean(dim=0).tolist(), strict=True)) | {"all": _whole(right)}


def _whole(right: Tensor) -> float:
    return right.all(dim=1).float().mean().item()
