"""The commands that change an architecture and show what that does.

As in `cli`, everything heavy is imported inside the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minimodels.sim.commands.options import (
    ALL_OVERRIDES,
    GIVEN,
    LENGTHS,
    check_unused,
    model_options,
    simulation_options,
)
from minimodels.sim.commands.printing import printed

if TYPE_CHECKING:
    from minimodels.sim.sweep.grid import Axis, Base
    from minimodels.sim.sweep.ledger import Point

DEVICE = "a100-80gb"


@click.command()
@model_options
@click.option("--base", required=True, metavar="NAME", help="The architecture (`minibench list`) to start from.")
@click.option("--out", type=click.Path(path_type=Path), help="Write FILE.toml instead of printing.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def new(name: str, overrides: tuple[str, ...], base: str, out: Path | None, force: bool) -> None:
    """A config file for a hypothetical architecture NAME: its base, with every number of it in a comment to edit."""
    from minimodels.sim import files
    from minimodels.starting_file import starting_file

    if out is not None:
        if out.suffix != ".toml":
            raise ValueError(f"--out {out}: a config is named FILE.toml")
        if out.exists() and not force:
            raise ValueError(f"{out} is there already; --force writes over it")
        files.check_writable(out)
    text = starting_file(name, base, overrides)
    if out is None:
        click.echo(text, nl=False)
        return
    files.write_whole(out, text.encode())
    called = "" if out.stem == name else f"\nCommands call it {out.stem}, as its file."
    click.echo(f"{out} is {base}, ready to be changed: minibench compare {base} {out} says what a change does.{called}")


@click.command()
@model_options
@click.option("--over", "over", multiple=True, metavar="KEY=VALUES", help="An axis: KEY=a,b,c or KEY=start:stop:step, "
              "stop included. KEY is a dotted path of the config, a run length (image_size, frames, steps, prompt_len, "
              "gen_len) or attention, batch, dtype, kernels, layout, mode, resident. Repeatable.")  # fmt: skip
@click.option("--device", default=DEVICE, show_default=True, metavar="NAME,...", help="GPUs to simulate.")
@simulation_options
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.jsonl", help="Append every point as it is "
              "finished; points that are there already are not made again.")  # fmt: skip
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw it: FILE.png, .svg or .pdf.")
@click.option("--metric", help="What is drawn: time, device_time, flops, bytes, peak_memory, parameters, "
              "core.CATEGORY or module.CATEGORY (shares of the time).  [default: time]")  # fmt: skip
@click.option("--x", help="The axis that it is drawn over.  [default: the first]")
@click.option("--pareto", metavar="METRIC,METRIC", help="The points that no other "
              "on the same device beats in both; drawn with --plot.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1, 256), help="Processes.  [default: one per core, if there is work]")
@click.option("--json", "as_json", is_flag=True, help="Print the points as JSON.")
def sweep(
    name: str, overrides: tuple[str, ...], over: tuple[str, ...], out: Path | None, picture: Path | None,
    metric: str | None, x: str | None, pareto: str | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """NAME at every combination of the values of some axes (simulated); a FILE.jsonl for NAME shows it again."""
    from minimodels.sim.sweep import ledger, listing

    fronts = _check_view(metric, pareto, picture, x)
    _check_files(name, out, picture)
    if name.endswith(".jsonl"):
        if over or overrides or out:
            raise ValueError(f"{name} is a finished sweep, only shown: --over, --set and --out go with an architecture")
        points, title = ledger.load(Path(name)), name
    else:
        points, title = _swept(name, overrides, over, out, options)
    if not any(point.status == "ok" for point in points):
        raise ValueError(f"no point could be built: {points[0].error}" if points else f"{name} has no points")
    if picture:
        _draw(points, picture, metric or "time", x, fronts)
    printed([ledger.record(point) for point in points] if as_json else listing.report(points, title, fronts))


def _check_view(metric: str | None, pareto: str | None, picture: Path | None, x: str | None) -> tuple[str, str] | None:
    """See that what is to be shown can be, before any work is done; the two metrics of a front."""
    from minimodels.sim import figures
    from minimodels.sim.sweep import metrics

    if metric is not None:
        metrics.metric(metric)
    if picture:
        figures.check_extension(picture)
    elif metric is not None or x is not None:
        told = f"--x {x}" if metric is None else f"--metric {metric}"
        raise ValueError(f"{told}: it says what is drawn; add --plot FILE.png")
    if pareto is None:
        return None
    first, comma, second = pareto.partition(",")
    if not comma or first == second:
        raise ValueError(f"--pareto {pareto!r}: write two metrics, as in time,parameters")
    for one in (first, second):
        metrics.metric(one)
    return first, second


def _check_files(name: str, out: Path | None, picture: Path | None) -> None:
    from minimodels.sim import files
    from minimodels.sim.sweep import ledger

    files.check_distinct([path for path in (out, picture) if path], [Path(name)] if Path(name).suffix else [])
    if picture:
        files.check_writable(picture)
    if out:
        ledger.check_name(out)


def _swept(
    name: str, overrides: tuple[str, ...], over: tuple[str, ...], out: Path | None, options: dict[str, Any]
) -> tuple[list[Point], str]:
    """The points of a sweep, made or found, and what they are called together."""
    from minimodels.sim.progress import bar
    from minimodels.sim.sweep import runner

    devices, jobs = options.pop("device").split(","), options.pop("jobs")
    base, axes = _asked(name, overrides, over, options)
    jobs = jobs or runner.processes(len(devices) * _count(axes))
    try:
        with bar(base.name) as progress:
            return runner.run(base, axes, devices, out, jobs, progress), base.name
    except KeyboardInterrupt:
        said = f"finished points are in {out}, and the same command goes on" if out else "nothing was written"
        click.echo(f"Interrupted: {said}.", err=True)
        click.get_current_context().exit(130)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from error


def _count(axes: list[Axis]) -> int:
    from math import prod

    return prod(len(axis.values) for axis in axes)


def _asked(
    name: str, overrides: tuple[str, ...], over: tuple[str, ...], options: dict[str, Any]
) -> tuple[Base, list[Axis]]:
    """The architecture and the options that do not vary, and the axes that do."""
    from minimodels import loader
    from minimodels.options import Options, check
    from minimodels.sim.sweep import grid

    if not over:
        raise ValueError("nothing varies: give an axis, such as --over image_size=256:1024:128")
    axes = [grid.axis(text) for text in over]
    lengths = {key: options.pop(key) for key in LENGTHS}
    twice = {text.partition("=")[0] for text in overrides} | {key for key, value in lengths.items() if value}
    context = click.get_current_context()
    twice |= {key for key in grid.OPTIONS if context.get_parameter_source(key) == GIVEN}
    for axis in axes:
        if axis.key in twice:
            raise ValueError(f"--over {axis.key}: it is set to one value as well; leave one of them out")
    check(**options)
    options["dtype"] = options["dtype"] or Options.model_fields["dtype"].default
    return grid.Base.of_config(loader.load(name, overrides, lengths), options), axes


def _draw(points: list[Point], picture: Path, metric: str, x: str | None, fronts: tuple[str, str] | None) -> None:
    from minimodels.sim import figures
    from minimodels.sim.sweep import pictures

    x = x or next(iter(points[0].axes))
    figures.save(pictures.pareto(points, *fronts) if fronts else pictures.over(points, metric, x), picture)


@click.command()
@click.argument("variants", nargs=-1, required=True, metavar="A B...")
@click.option("--device", default=DEVICE, show_default=True, metavar="NAME", help="The GPU that names and configs are "
              "simulated on.")  # fmt: skip
@ALL_OVERRIDES
@simulation_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(variants: tuple[str, ...], overrides: tuple[str, ...], device: str, as_json: bool, **options: Any) -> None:
    """What differs between A and B, and what that does: names, .toml files or profiles (from `profile --out`).

    Names and configs are simulated as the options say; profiles are shown as they were made.
    """
    from minimodels import loader
    from minimodels.options import check
    from minimodels.sim import device as devices
    from minimodels.sim.profile import Profile
    from minimodels.sim.progress import bar

    lengths = {key: options.pop(key) for key in LENGTHS}
    files = [name for name in variants if Path(name).suffix == ".json"]
    _check_compared(variants, files)
    devices.load(device)
    check(**options)
    kept = {name: Profile.load(Path(name)) for name in files}
    configs = {name: loader.load(name, overrides, lengths) for name in variants if name not in kept}
    from minimodels.run import make_run
    from minimodels.sim import comparison, comparison_table
    from minimodels.sim.simulate import simulate

    run = make_run(**options, device=device)
    with bar("Comparison") as progress:
        made = {name: simulate(config, run, progress) for name, config in configs.items()}
    found = comparison.compare_profiles([(kept | made)[name] for name in variants])
    printed(comparison.as_json(found) if as_json else comparison_table.report(found))


def _check_compared(variants: tuple[str, ...], files: list[str]) -> None:
    if len(variants) < 2:
        raise ValueError("compare needs at least two profiles or architectures: `minibench compare parti-3b parti-20b`")
    if len(files) == len(variants):
        check_unused("variants", "as_json")


@click.command()
@model_options
@click.option("--over", "over", multiple=True, metavar="KEY=VALUES", help="What may vary, as in `sweep`. Repeatable.")
@click.option("--under", metavar="TIME", help="The most that one run may take, such as 2s or 500ms.  [default: any]")
@click.option("--memory", metavar="SIZE", help="The most memory that it may need, such as 20GB.  [default: the GPU's]")
@click.option("--device", default=DEVICE, show_default=True, metavar="NAME", help="The GPU to simulate.")
@simulation_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fit(
    name: str, overrides: tuple[str, ...], over: tuple[str, ...], under: str | None, memory: str | None, device: str,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """The largest variant of NAME that fits a budget of time and memory (simulated); exit code 1 if none does.

    Larger: more parameters; of equally many, more FLOPs; of those, less time. Along an axis of numbers whose ends say
    that cost grows with it, it is taken to grow everywhere, so that few variants need be tried.
    """
    from minimodels.sim.progress import bar
    from minimodels.sim.sweep import budget, listing

    within = budget.budget(under, memory, device)
    base, axes = _asked(name, overrides, over, options)
    with bar(base.name) as progress:
        found = budget.search(base, axes, device, within, progress)
    printed(listing.fit_json(found, within) if as_json else listing.fitted(found, within, base.name, device))
    if found.best is None:
        click.get_current_context().exit(1)


COMMANDS = (new, sweep, compare, fit)
