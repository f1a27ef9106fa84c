"""The command about training: a real step in processes of its own, or the step predicted for any number of GPUs.

As in `cli`, everything heavy is imported inside the command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from minimodels.sim.commands.options import model_options
from minimodels.sim.commands.printing import printed

if TYPE_CHECKING:
    from minimodels.kinds import Config
    from minimodels.train import Step


@click.command("train-step")
@model_options
@click.option("--device", default="a100-80gb", show_default=True, metavar="cpu|cuda|NAME",
              help="cpu or cuda: train here. A GPU's name: simulate it.")  # fmt: skip
@click.option("--batch", type=int, default=1, show_default=True, help="Samples per process or GPU.")
@click.option("--dtype", metavar="DTYPE", help="float32, bfloat16 or float64; weights are kept in float32 at least.  "
              "[default: bfloat16, on a CPU float32]")  # fmt: skip
@click.option("--nproc", type=int, help="Trained here: processes, one per device.  [default: 1]")
@click.option("--steps", type=int, help="Trained here: how many steps.  [default: 3]")
@click.option("--seed", type=int, help="Trained here: of weights and batches.  [default: 0]")
@click.option("--gpus", metavar="N,...", help="Simulated: how many GPUs, one prediction each.  [default: 1,8,16]")
@click.option("--network", type=float, metavar="GBIT",
              help="Simulated: Gbit/s of each GPU to other nodes, each way.  [default: 200]")  # fmt: skip
@click.option("--attention", metavar="BACKEND", help="Simulated: as of `profile`.  [default: sdpa]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def train_step(
    name: str, overrides: tuple[str, ...], device: str, batch: int, dtype: str | None, as_json: bool, **options: Any
) -> None:
    """A step of training NAME under FSDP: run here in --nproc processes, or predicted for --gpus GPUs."""
    from minimodels import loader
    from minimodels.options import HERE

    given = {key: value for key, value in options.items() if value is not None}
    here = device in HERE
    unused = ("gpus", "network", "attention") if here else ("nproc", "steps", "seed")
    wrong = [key for key in unused if key in given]
    if wrong:
        said = "trains here" if here else "is simulated"
        raise ValueError(f"--{wrong[0]}: not with --device {device}, which {said}")
    config = loader.load(name, overrides)
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    given |= {"batch": batch, "dtype": dtype, "device": device}
    (_trained if here else _predicted)(config, given, as_json)


def _predicted(config: Config, options: dict[str, Any], as_json: bool) -> None:
    from minimodels.objective import trainable
    from minimodels.run import make_run
    from minimodels.sim import collectives, training, training_table

    gpus = numbers(options.pop("gpus", "1,8,16"))
    network = options.pop("network", collectives.NETWORK)
    found = training.predict_steps(trainable(config), make_run(**options), gpus, network)
    printed(training_table.as_json(found) if as_json else training_table.report(found))


def numbers(text: str) -> list[int]:
    """Whole numbers between commas.

    Raises:
        ValueError: something else is among them.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() and 0 < int(part) <= 1 << 20 for part in parts):
        raise ValueError(f"--gpus {text!r}: numbers of GPUs between commas, such as 2,8,16")
    return [int(part) for part in parts]


def _trained(config: Config, options: dict[str, Any], as_json: bool) -> None:
    from minimodels.objective import trainable
    from minimodels.options import parse
    from minimodels.train import Training, TrainingFailed, train

    chosen = parse(Training, options)
    part = trainable(config)
    if not as_json:
        click.echo(f"{config.title}: {chosen.nproc} processes on {chosen.device}, batch {chosen.batch} each, "
                   f"{chosen.dtype}; measured")  # fmt: skip
    try:
        steps = train(part, chosen, _nothing if as_json else _line)
    except TrainingFailed as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        printed([step.model_dump() for step in steps])


def _nothing(step: Step) -> None:
    """What rank 0 says of a step where JSON is printed in the end."""


def _line(step: Step) -> None:
    from minimodels.sim import units

    click.echo(f"step {step.step:<4} loss {step.loss:<10.6f} {units.seconds(step.seconds):>8}  "
               f"{units.size(step.memory_bytes)}")  # fmt: skip


COMMANDS = (train_step,)
