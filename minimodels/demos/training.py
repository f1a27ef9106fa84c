"""The training loop of the demos: stages one after the other, an average of the weights, a state to resume from.

What is random in a step is drawn from a generator seeded by the run, the stage and the step, so that a run that is
killed and resumed makes the same steps as one that is not. All else that a step depends on is in the state.

Source of the average: Polyak and Juditsky 1992, as in every diffusion model's code ("EMA").
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minimodels.kernels.backend import attention_backend

WARMUP = 50  # steps in which the learning rate grows to its full size
FLOOR = 0.02  # share of the learning rate that is left in the last step, on a half cosine
STRIDE = 1_000_000  # more than a stage has steps, so that no two steps share a seed

Show = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """Some steps that train `module` by `loss`, which draws all that is random from the generator it is given.

    average: how much of the averaged weights stays in each step, 0: they are not averaged; prepare: called before the
    first step, and again where a run resumes; begin: called before the first step alone, after `prepare`.
    """

    name: str
    module: nn.Module
    loss: Callable[[torch.Generator], Tensor]
    steps: int
    learning_rate: float
    average: float = 0.0
    prepare: Callable[[], None] | None = None
    begin: Callable[[], None] | None = None


@dataclass(slots=True)
class Progress:
    """Where training stands: stage, step in it, seconds so far, last loss of each finished stage.

    seconds: by the clock; cpu_seconds: of all threads. What is lost when a run is killed is not counted.
    """

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    losses: tuple[float, ...] = ()


class Trainer:
    """Trains the stages of a run on one device; `parts` holds every weight of all of them."""

    def __init__(self, parts: nn.Module, stages: list[Stage], seed: int) -> None:
        self.parts, self.stages, self.seed = parts, stages, seed
        self.at = Progress()
        self.optimizer: torch.optim.AdamW | None = None
        self.average: dict[str, Tensor] = {}

    def state(self) -> dict[str, Any]:
        """All that the steps to come depend on."""
        at = self.at
        return {
            "stage": at.stage, "step": at.step, "seconds": at.seconds, "cpu_seconds": at.cpu_seconds,
            "losses": list(at.losses), "weights": self.parts.state_dict(), "average": self.average,
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
        }  # fmt: skip

    def resume(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        at = {name: state[name] for name in ("stage", "step", "seconds", "cpu_seconds")}
        self.at = Progress(**at, losses=tuple(state["losses"]))
        self.parts.load_state_dict(state["weights"])
        self.average = state["average"]
        if state["optimizer"] is not None:
            self._open(self.stages[self.at.stage])
            assert self.optimizer is not None
            self.optimizer.load_state_dict(state["optimizer"])

    def run(self, keep: Callable[[dict[str, Any]], None], show: Show, interval: float) -> None:
        """Train what is left; `keep` is given the state every `interval` seconds and after each stage."""
        total = sum(stage.steps for stage in self.stages)
        begun, cpu_begun = time.monotonic() - self.at.seconds, time.process_time() - self.at.cpu_seconds
        while self.at.stage < len(self.stages):
            stage = self.stages[self.at.stage]
            past = sum(one.steps for one in self.stages[: self.at.stage])
            if stage.prepare is not None:
                stage.prepare()
            if self.optimizer is None:
                if stage.begin is not None:
                    stage.begin()
                self._open(stage)
            due, recent = time.monotonic() + interval, math.nan
            stage.module.train().requires_grad_(True)
            while self.at.step < stage.steps:
                recent = self._step(stage)
                show(stage.name, past + self.at.step, total)
                self.at.seconds, self.at.cpu_seconds = time.monotonic() - begun, time.process_time() - cpu_begun
                if time.monotonic() >= due and self.at.step < stage.steps:
                    keep(self.state())
                    due = time.monotonic() + interval
            self._close(stage, recent)
            self.at.seconds, self.at.cpu_seconds = time.monotonic() - begun, time.process_time() - cpu_begun
            keep(self.state())

    def _open(self, stage: Stage) -> None:
        self.optimizer = torch.optim.AdamW(
            stage.module.parameters(), lr=stage.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        if stage.average and not self.average:
            self.average = {name: x.detach().clone() for name, x in stage.module.named_parameters()}

    def _step(self, stage: Stage) -> float:
        assert self.optimizer is not None
        at = self.at
        generator = torch.Generator().manual_seed((self.seed * len(self.stages) + at.stage) * STRIDE + at.step)
        share = min((at.step + 1) / WARMUP, FLOOR + (1 - FLOOR) * math.cos(math.pi / 2 * at.step / stage.steps) ** 2)
        for group in self.optimizer.param_groups:
            group["lr"] = stage.learning_rate * share
        with attention_backend("baseline"):  # torch's fused kernels for CPUs give no gradient of a bias, which T5 has
            loss = stage.loss(generator)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(stage.module.parameters(), 1.0)
        self.optimizer.step()
        at.step += 1
        if stage.average:
            kept = min(stage.average, (1 + at.step) / (10 + at.step))
            for name, x in stage.module.named_parameters():
                self.average[name].lerp_(x.detach(), 1 - kept)
        return loss.item()

    def _close(self, stage: Stage, loss: float) -> None:
        """The averaged weights take the place of the last ones, and the next stage begins."""
        with torch.no_grad():
            for name, x in stage.module.named_parameters():
                if stage.average:
                    x.copy_(self.average[name])
        stage.module.eval().requires_grad_(False)
        self.optimizer, self.average = None, {}
        self.at.stage, self.at.step, self.at.losses = self.at.stage + 1, 0, (*self.at.losses, loss)
