"""The demos: what they learn from, that a killed run goes on as if it had not been, and that the families learn."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from einops import rearrange
from torch import Tensor, nn

from minimodels.cli import main
from minimodels.demos import data, quantised
from minimodels.demos.classifier import Classifier
from minimodels.demos.diffusion import denoising_loss, some_dropped
from minimodels.demos.families import FAMILIES, Demo, shares
from minimodels.demos.training import Stage, Trainer
from minimodels.diffusion_config import Schedule
from minimodels.loader import load
from minimodels.pixel_decoder import VqDecoder
from minimodels.run import build
from minimodels.sim import demo as demos
from minimodels.sim.progress import silent
from minimodels.token_config import ParallelImage

ROOT = Path(__file__).resolve().parent.parent


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("moving", [False, True])
def test_pairs_kept_out_are_never_drawn_for_training_and_all_others_are(moving: bool) -> None:
    drawn = {tuple(row) for row in data.drawn_labels(5000, moving, seeded(), unseen=False).tolist()}
    everything = data.combinations(moving)
    kept_out = {tuple(row) for row in everything[data.is_unseen(everything)].tolist()}
    assert len(kept_out) == len(data.UNSEEN) * (len(data.DIRECTIONS) if moving else 1)
    assert drawn == {tuple(row) for row in everything.tolist()} - kept_out


def test_every_shape_and_every_colour_is_trained_on() -> None:
    assert len({shape for shape, _ in data.UNSEEN}) == len(data.UNSEEN) < len(data.COLOURS)
    assert len({colour for _, colour in data.UNSEEN}) == len(data.UNSEEN) <= len(data.SHAPES)


def test_captions_differ_and_empty_words_fill_them_up() -> None:
    labels = data.combinations(True)
    text = data.tokens(labels, 7)
    assert len({tuple(row) for row in text.tolist()}) == len(labels)
    assert data.caption(labels[0]) == "a red circle moving left"
    assert (text[:, :5] > 0).all() and (text[:, 5:] == 0).all()


@pytest.mark.parametrize(
    ("direction", "axis", "sign"), [("left", 3, -1), ("right", 3, 1), ("up", 2, -1), ("down", 2, 1)]
)
def test_shapes_move_where_the_caption_says_and_stay_inside(direction: str, axis: int, sign: int) -> None:
    of = list(data.DIRECTIONS).index(direction)
    labels = data.combinations(True)
    labels = labels[labels[:, 2] == of]
    video = data.draw(labels, 31, 5, seeded())
    lit = ((video + 1) / 2 - data.BACKGROUND).abs().sum(dim=1)
    places = torch.arange(31.0).view([-1 if dim == axis else 1 for dim in range(4)])
    centre = (lit * places).sum(dim=(2, 3)) / lit.sum(dim=(2, 3))
    assert (sign * centre.diff(dim=1) > 1).all()  # pixels a frame, of data.PATH * 31 / 4 = 2.8
    area = lit.sum(dim=(2, 3))
    assert ((area / area[:, :1] - 1).abs() < 0.1).all()  # edges smooth over a pixel take a few percent more or less


def test_drawings_follow_from_the_seed() -> None:
    labels = data.combinations(False)
    assert torch.equal(data.draw(labels, 16, None, seeded(3)), data.draw(labels, 16, None, seeded(3)))
    assert not torch.equal(data.draw(labels, 16, None, seeded(3)), data.draw(labels, 16, None, seeded(4)))


@pytest.mark.parametrize("prediction", ["noise", "velocity", "clean"])
def test_the_denoising_loss_is_zero_for_whoever_knows_the_picture(prediction: str) -> None:
    schedule = Schedule(kind="linear", beta_start=1e-3, beta_end=0.02, timesteps=100, prediction=prediction)  # type: ignore[arg-type]
    clean = torch.randn(5, 3, 7, 7, generator=seeded())
    betas = torch.linspace(1e-3, 0.02, 100, dtype=torch.float64)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        signal = (1 - betas).cumprod(0)[t].float().view(-1, 1, 1, 1)
        noise = (x - signal.sqrt() * clean) / (1 - signal).sqrt()
        return {"noise": noise, "velocity": signal.sqrt() * noise - (1 - signal).sqrt() * clean, "clean": clean}[
            prediction
        ]

    # float32, and noise divided by sqrt(1e-3) at the first timestep: an error of 1e-5, squared
    assert denoising_loss(predict, schedule, clean, seeded(1)) < 1e-8
    assert denoising_loss(lambda x, t: torch.zeros_like(x), schedule, clean, seeded(1)) > 0.1


def test_captions_are_dropped_whole_and_seldom() -> None:
    text = some_dropped(torch.ones(4000, 7, dtype=torch.long), seeded())
    assert set(text.sum(dim=1).tolist()) == {0, 7}
    assert 0.08 < (text.sum(dim=1) == 0).float().mean() < 0.12


def tokenizer() -> quantised.Quantised:
    config = load("muse-tiny")
    assert isinstance(config, ParallelImage)
    decoder = build(config)["decoder"].requires_grad_(True)
    assert isinstance(decoder, VqDecoder)
    return quantised.of_conv(config.decoder, decoder)


def test_codes_are_the_nearest_and_their_gradient_reaches_the_encoder() -> None:
    network = tokenizer()
    pixels = torch.randn(3, 3, 6, 6, generator=seeded())
    network.loss(pixels, seeded()).backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in network.encoder.parameters())
    z = network.vectors(pixels)
    apart = (rearrange(z, "b h w d -> b h w 1 d") - network.codebook()).square().sum(dim=-1)
    chosen = torch.gather(apart, -1, network.codes(z)[..., None])[..., 0]
    torch.testing.assert_close(chosen, apart.min(dim=-1).values, rtol=1e-4, atol=1e-5)  # cdist rounds otherwise


def test_idle_codes_start_again_at_vectors_and_used_ones_stay() -> None:
    network = tokenizer()
    z = torch.randn(2, 3, 3, 5, generator=seeded())
    network.idle.zero_()
    network.idle[5] = quantised.PATIENCE
    before = network.decoder.codebook.weight.detach().clone()
    network._restart(z, seeded())
    moved = (network.decoder.codebook.weight != before).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [5]
    assert (z.flatten(0, -2) == network.decoder.codebook.weight[5]).all(dim=1).any()


def toy() -> tuple[nn.ModuleDict, list[Stage]]:
    """Two stages, the first averaged, over the same kind of network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = nn.ModuleDict({name: nn.Linear(3, 5) for name in ("first", "second")})

    def loss(name: str, generator: torch.Generator) -> Tensor:
        return (parts[name](torch.randn(7, 3, generator=generator)) - 1).square().mean()

    stages = [
        Stage(name, parts[name], lambda g, name=name: loss(name, g), 9, 0.1, 0.9 * (name == "first")) for name in parts
    ]
    return parts, stages


def test_a_run_resumed_from_any_state_ends_with_the_same_weights() -> None:
    parts, stages = toy()
    states: list[bytes] = []

    def keep(state: dict[str, object]) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        states.append(file.getvalue())

    Trainer(parts, stages, 3).run(keep, silent, interval=0.0)
    assert len(states) == 18  # after every step, in place of the last of a stage after the stage
    for state in states:
        again, stages = toy()
        trainer = Trainer(again, stages, 3)
        trainer.resume(torch.load(io.BytesIO(state), weights_only=True))
        trainer.run(lambda state: None, silent, interval=1e9)
        assert all(
            torch.equal(x, y) for x, y in zip(parts.state_dict().values(), again.state_dict().values(), strict=True)
        )


def test_averaged_weights_take_the_place_of_the_last_ones() -> None:
    def trained(average: float) -> tuple[list[Tensor], Tensor]:
        """The weights before each of three steps, and those in the end."""
        seen: list[Tensor] = []
        network, x = nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 5.0]])
        network.load_state_dict({"weight": torch.tensor([[1.0, -2.0]])})

        def loss(generator: torch.Generator) -> Tensor:
            seen.append(network.weight.detach().clone())
            return network(x).square().sum()

        Trainer(network, [Stage("only", network, loss, 3, 0.1, average)], 0).run(lambda state: None, silent, 1e9)
        return seen, network.weight.detach()

    seen, last = trained(0.0)
    averaged = seen[0]
    for done, weight in enumerate([*seen[1:], last], 1):
        averaged = weight.lerp(averaged, (1 + done) / (10 + done))
    torch.testing.assert_close(trained(0.99)[1], averaged)
    assert not torch.allclose(averaged, last)


def test_shares_are_whole_where_all_is_right_and_chance_where_captions_are_shuffled() -> None:
    labels = data.combinations(True).repeat(20, 1)
    found = shares(labels, labels, seed=0)
    assert set(found["match"].values()) == {1.0}
    for name, value in found["chance"].items():
        assert abs(found["shuffled"][name] - value) < 0.01, name  # 1,920 samples in 20 orders
    assert found["chance"]["all"] == pytest.approx(1 / 96)


@pytest.mark.parametrize("frames", [None, 5])
def test_the_judge_reads_as_many_labels_as_there_are(frames: int | None) -> None:
    judge = Classifier(32, frames)
    labels, pixels = judge.drawn(3, seeded())
    assert judge.read(pixels).shape == labels.shape == (3, 3 if frames else 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_demo_generates_is_as_large_as_what_it_learns_from(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, family, replace(FAMILIES[family], size=7))
    demo = Demo(family, 0)
    labels, real = demo.judge.drawn(2, seeded())
    pixels = demo.sample(labels, silent)
    assert pixels.shape == real.shape
    assert demo.judge.read(pixels).shape == labels.shape


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
from minimodels.demos import families
from minimodels.sim import demo
from minimodels.sim.progress import silent

kind = families.FAMILIES["autoregressive"]
families.FAMILIES["autoregressive"] = replace(kind, steps=(30, 20, 30), size=64, judge_steps=20, each=1)
demo.run(families.Demo("autoregressive", 5), Path(sys.argv[1]), silent, interval=0.0)
"""


def steps_done(path: Path) -> tuple[int, int]:
    """Where a checkpoint stands: stage and step; none is before everything."""
    if not path.exists():
        return (-1, -1)
    state = torch.load(path, weights_only=True)["state"]
    return state["stage"], state["step"]


@pytest.mark.slow
def test_a_run_killed_in_the_middle_ends_as_one_that_was_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED]
    subprocess.run([*command, tmp_path / "whole"], cwd=ROOT, check=True)
    for point in ((0, 5), (2, 7)):
        running = subprocess.Popen([*command, tmp_path / "killed"], cwd=ROOT)
        while steps_done(tmp_path / "killed" / demos.CHECKPOINT) < point:
            assert running.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert not (tmp_path / "killed" / demos.RESULT).exists()
    subprocess.run([*command, tmp_path / "killed"], cwd=ROOT, check=True)
    whole, killed = (torch.load(tmp_path / name / demos.CHECKPOINT, weights_only=True) for name in ("whole", "killed"))
    weights = whole["state"]["weights"]
    assert all(torch.equal(weights[name], x) for name, x in killed["state"]["weights"].items())
    results = [json.loads((tmp_path / name / demos.RESULT).read_text()) for name in ("whole", "killed")]
    assert results[0]["match"] == results[1]["match"]
    assert (tmp_path / "whole" / "samples.png").read_bytes() == (tmp_path / "killed" / "samples.png").read_bytes()


def test_a_folder_of_another_run_or_of_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "autoregressive", replace(FAMILIES["autoregressive"], size=5))
    demo = Demo("autoregressive", 1, 0.01)
    other = demos._identity(Demo("autoregressive", 2, 0.01))
    demos._keep(tmp_path / demos.CHECKPOINT, other | {"state": {}})
    with pytest.raises(ValueError, match=r"another seed \(2, not 1\); remove it, or give another --out"):
        demos.run(demo, tmp_path, silent)
    for share, said in ((demos.QUICK, "with --quick: add it"), (1.0, "without --quick: leave it out")):
        demos._keep(tmp_path / demos.CHECKPOINT, demos._identity(Demo("autoregressive", 1, share)) | {"state": {}})
        with pytest.raises(ValueError, match=f"is of a run {said} to go on, or give another --out"):
            demos.run(demo, tmp_path, silent)
    (tmp_path / demos.CHECKPOINT).write_bytes(b"torn")
    with pytest.raises(ValueError, match="no checkpoint of a demo"):
        demos.run(demo, tmp_path, silent)


def test_an_unknown_family_is_told_which_there_are() -> None:
    result = CliRunner().invoke(main, ["demo", "gan"])
    assert result.exit_code == 2
    assert all(name in result.stderr for name in FAMILIES)


QUICK_BARS = {  # share of samples that match in all labels after a quarter of the steps; of whole runs it is 0.9
    "pixel-diffusion": 0.08,
    "latent-diffusion": 0.12,
    "autoregressive": 0.5,
    "parallel-decoding": 0.35,
    "video": 0.08,
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_quarter_of_the_steps_shows_what_the_caption_says(family: str, tmp_path: Path) -> None:
    record = demos.run(Demo(family, 0, demos.QUICK), tmp_path, silent)
    assert record["samples"] >= 200
    assert record["classifier_accuracy"] >= 0.99
    assert record["match"]["all"] >= QUICK_BARS[family]
    # the average of shuffled captions: chance, but for samples that show no shape at all, and its spread
    assert record["shuffled"]["all"] < 1.5 * record["chance"]["all"]
    assert (tmp_path / ("samples.gif" if family == "video" else "samples.png")).stat().st_size > 10_000
