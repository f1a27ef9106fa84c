"""Options that several commands have: which architecture, and how to run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

GIVEN = click.core.ParameterSource.COMMANDLINE
LENGTHS = ("steps", "image_size", "frames", "prompt_len", "gen_len")
DEVICE = (
    click.option("--device", default="auto", show_default=True, metavar="auto|cuda|cpu|NAME",
                 help="cuda or cpu: measure there. A GPU's name (`minibench devices`): simulate it. "
                 "auto: CUDA if there is one, else simulate a100-80gb."),
)  # fmt: skip
GPU = click.option(
    "--device", default="a100-80gb", show_default=True, metavar="NAME", help="A GPU (`minibench devices`)."
)
HOW = (
    click.option("--attention", metavar="BACKEND", default="sdpa", show_default=True,
                 help="sdpa (torch chooses), baseline (the matrix is written out), flash, efficient, cudnn, or "
                 "triton (ours); with ! the kernel is pinned and a call it cannot do is an error, as it is of "
                 "flash-attn, the package."),
    click.option("--kernels", metavar="torch|triton", default="torch", show_default=True,
                 help="Kernels of all other operators: torch's, or ours in Triton where there is one."),
    click.option("--layout", metavar="contiguous|channels-last", default="contiguous", show_default=True,
                 help="How pixels lie in memory where networks convolve: channels first, or beside each other."),
    click.option("--mode", metavar="eager|graph|compiled", default="eager", show_default=True,
                 help="How the host launches kernels: one by one, in CUDA graphs (measured on a GPU only), or "
                 "those of torch.compile."),
    click.option("--batch", type=int, default=1, show_default=True, help="Images or sequences at once."),
    click.option("--dtype", metavar="DTYPE", help="bfloat16, float16, float32 or float64.  "
                 "[default: bfloat16 on a GPU, float32 on cpu]"),
    click.option("--steps", type=int, help="Sampling steps.  [default: the architecture's]"),
    click.option("--image-size", type=int, help="Image side in pixels.  [default: the architecture's]"),
    click.option("--frames", type=int, help="Frames of a video.  [default: the architecture's]"),
    click.option("--prompt-len", type=int, help="Prompt length in tokens.  [default: the architecture's]"),
    click.option("--gen-len", type=int, help="Generated tokens.  [default: the architecture's]"),
    click.option("--resident", metavar="all|stage", default="all", show_default=True,
                 help="Weights in memory: of all parts, or of the running stage."),
    click.option("--full", is_flag=True, help="Run every step of every loop instead of a few weighted ones."),
)  # fmt: skip
MEASURING = (
    click.option("--seed", type=int, default=0, show_default=True, help="Of weights and inputs, when measuring."),
    click.option("--warmup", type=int, default=2, show_default=True, help="Runs before measuring, at least."),
    click.option("--repeats", type=int, default=5, show_default=True, help="Measured runs."),
)  # fmt: skip


OVERRIDES = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Change a number of the architecture, e.g. transformer.decoder.depth=32. Repeatable.",
)  # fmt: skip
ALL_OVERRIDES = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Change a number of every architecture named, e.g. run.steps=20; profiles stay as they are. Repeatable.",
)  # fmt: skip


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """NAME and --set: which architecture."""
    return click.argument("name")(OVERRIDES(command))


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How to run it, where it may be measured."""
    return _with(command, DEVICE + HOW + MEASURING)


def simulation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How to run it, where it is only simulated; the command says where."""
    return _with(command, HOW)


def check_unused(*used: str) -> None:
    """See that of the options of this command, which is only given profiles, no others are given than `used`.

    Raises:
        ValueError: one is; profiles are not simulated again.
    """
    context = click.get_current_context()
    for option in context.command.params:
        name = str(option.name)
        if name not in used and context.get_parameter_source(name) == GIVEN:
            raise ValueError(
                f"{option.opts[0]}: profiles are shown as they were made; it goes with a name or a .toml file"
            )


def _with(command: Callable[..., Any], options: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
