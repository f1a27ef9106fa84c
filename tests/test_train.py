"""Real training steps: several processes do what one does, a dead one ends the run, losses are what they should be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from minimodels import loader
from minimodels.cli import main
from minimodels.objective import example_batch, loss, trainable
from minimodels.train import Step, Training, TrainingFailed, train

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "minimodels.cli", "train-step", "stable-diffusion-tiny", "--device", "cpu"]
PATIENCE = 300.0  # seconds to start processes that import torch, on a machine that is busy
NOTICED = 15.0  # seconds within which a dead rank ends the run; alone on a machine it takes two


class Told(nn.Module):
    """A network that predicts what it is told, and keeps what it is given."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer, self.given = answer, answer

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        self.given = x
        return self.answer


@pytest.mark.parametrize("prediction", ["noise", "velocity", "clean"])
def test_a_network_that_predicts_its_target_has_no_loss_and_is_given_a_mix_of_variance_one(prediction: str) -> None:
    config = trainable(loader.load("stable-diffusion-tiny", [f"schedule.prediction={prediction}"]))
    batch = example_batch(config, 65, torch.float64, "cpu", torch.Generator().manual_seed(5))
    clean, noise = batch["latents"], batch["noise"]
    probe = Told(clean)
    loss(config, probe, batch)
    x = probe.given
    assert x.var().item() == pytest.approx(1, abs=0.05)  # 37,440 numbers: 0.7 % each way, and clean is not noise
    # x = keep clean + spread noise, of each sample: the two shares by least squares
    sides = torch.stack([clean.flatten(1), noise.flatten(1)], dim=2)
    keep, spread = torch.linalg.lstsq(sides, x.flatten(1)[..., None]).solution[:, :, 0].unbind(1)
    torch.testing.assert_close(keep**2 + spread**2, torch.ones_like(keep))
    keep, spread = (share[:, None, None, None] for share in (keep, spread))
    target = {"noise": noise, "clean": clean, "velocity": keep * noise - spread * clean}[prediction]
    assert loss(config, Told(target), batch).item() == pytest.approx(0, abs=1e-20)
    assert loss(config, Told(target + 1), batch).item() == pytest.approx(1)


def test_a_language_model_without_a_clue_has_the_entropy_of_its_vocabulary() -> None:
    config = trainable(loader.load("llama-tiny"))
    batch = example_batch(config, 3, torch.float32, "cpu", torch.Generator().manual_seed(5))
    vocab, seen = int(batch["tokens"].max()) + 2, []

    class Even(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            seen.append(tokens)
            return torch.zeros(*tokens.shape, vocab)

    assert loss(config, Even(), batch).item() == pytest.approx(torch.log(torch.tensor(vocab)).item())
    assert torch.equal(seen[0], batch["tokens"][:, :-1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["imagen"],
            "imagen is of kind cascaded-diffusion, which has no training step here; allowed: latent-diffusion",
        ),
        (["llama-tiny", "--gpus", "2,x"], "--gpus '2,x': numbers of GPUs between commas, such as 2,8,16"),
        (["llama-tiny", "--gpus", "12"], "12 GPUs: from 1 to 8, or a multiple of 8"),
        (["llama-tiny", "--device", "l4"], "l4: its device file states no links"),
        (["llama-tiny", "--nproc", "2"], "--nproc: not with --device a100-80gb, which is simulated"),
        (["llama-tiny", "--device", "cpu", "--gpus", "2"], "--gpus: not with --device cpu, which trains here"),
        (["llama-tiny", "--device", "cpu", "--nproc", "0"], "--nproc: input should be greater than or equal to 1"),
        (["llama-tiny", "--device", "cpu", "--dtype", "float16"], "--dtype: input should be 'float32', 'bfloat16'"),
        (["llama-tiny", "--network", "-1"], "a network has more than 0 Gbit/s, not -1"),
    ],
)
def test_wrong_input_is_one_message(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["train-step", *arguments])
    assert result.exit_code == 2 and said in result.stderr, result.stderr


def test_the_command_predicts_a_step_for_every_number_of_gpus() -> None:
    shown = CliRunner().invoke(main, ["train-step", "llama-tiny", "--gpus", "2,16"])
    assert shown.exit_code == 0 and "SIMULATED" in shown.stdout and "200 Gbit/s" in shown.stdout
    found = json.loads(CliRunner().invoke(main, ["train-step", "llama-tiny", "--gpus", "2,16", "--json"]).stdout)
    assert [(made["gpus"], made["nodes"]) for made in found] == [(2, 1), (16, 2)]
    assert all(made["step_seconds"] > made["compute_seconds"] > 0 for made in found)


def trained_by(processes: int, batch: int, *more: str) -> list[dict[str, Any]]:
    """The steps of a run on a CPU, batch samples per process."""
    options = ["--nproc", str(processes), "--batch", str(batch), "--steps", "4", "--seed", "3", "--json", *more]
    done = subprocess.run([*COMMAND, *options], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_two_processes_train_as_one_does_on_the_same_samples() -> None:
    one, two = (trained_by(n, 4 // n, "--dtype", "float64") for n in (1, 2))
    losses, others = ([step["loss"] for step in steps] for steps in (one, two))
    # In float64 sums in another order differ by 1e-16; AdamW divides by roots of small gradients, which enlarges that
    assert others == pytest.approx(losses, rel=1e-10)
    assert len(set(losses)) == 4 and all(step["seconds"] > 0 and step["memory_bytes"] > 1e8 for step in two)


def fails(step: Step) -> None:
    """What rank 0 calls after a step."""
    raise OSError(f"no room for step {step.step}")


@pytest.mark.slow
def test_a_rank_that_raises_ends_the_run_with_its_words() -> None:
    config = trainable(loader.load("llama-tiny"))
    with pytest.raises(TrainingFailed, match="rank 0 of 2 failed: OSError: no room for step 1; all ranks were ended"):
        train(config, Training(nproc=2, steps=4), fails)


def ranks(parent: int) -> Iterator[int]:
    """The processes that a training run has started."""
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                yield int(child)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the ranks in Linux's /proc")
def test_a_killed_rank_ends_the_run_with_its_name_and_no_hang(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as file:
        run = subprocess.Popen(
            [*COMMAND, "--nproc", "2", "--steps", "100000"], cwd=ROOT, stdout=file, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    try:
        start = time.monotonic()
        while "step 2" not in out.read_text():
            assert run.poll() is None and time.monotonic() < start + PATIENCE, "the run never got under way"
            time.sleep(0.2)
        started = sorted(ranks(run.pid))
        assert len(started) == 2
        os.kill(started[1], signal.SIGKILL)
        said = run.communicate(timeout=NOTICED)[1]
    finally:
        run.kill()
    assert run.returncode == 1
    assert "Error: rank 1 of 2 was killed by SIGKILL; all ranks were ended" in said and "Traceback" not in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in started), "no rank is left behind"
