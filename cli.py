"""The `minibench` command: parse, call one library function, show. No logic of its own.

torch, matplotlib and rich are imported inside the commands, so that `minibench --help` is instant.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minimodels.sim.commands import design, evidence, learning, study, teaching, training
from minimodels.sim.commands.group import Commands
from minimodels.sim.commands.options import GPU, LENGTHS, model_options, run_options, simulation_options
from minimodels.sim.commands.printing import printed
from minimodels.version import VERSION

if TYPE_CHECKING:
    from minimodels.kinds import Config
    from minimodels.sim.explain import WhatIf
    from minimodels.sim.profile import Profile


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="minibench")
def main() -> None:
    """Where do time, FLOPs and memory go in text-to-image and text-to-video models?

    Architectures are built from scratch with random weights and measured on the device at hand, or simulated
    for one that is not: no checkpoint and no GPU is needed. Every number says which it is.
    """


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """The architectures known by name."""
    from minimodels.sim import inventory, listings
    from minimodels.sim.progress import bar

    with bar("Architectures") as progress:
        rows = inventory.models(progress)
    printed(rows if as_json else listings.model_list(rows))


@main.command()
@model_options
@click.option("--depth", type=click.IntRange(min=1), default=2, show_default=True, help="How deep modules are shown.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, modules whole.")
def show(name: str, overrides: tuple[str, ...], depth: int, as_json: bool) -> None:
    """The parts of architecture NAME, their parameters beside the published counts, and their modules."""
    from minimodels import loader

    config = loader.load(name, overrides)  # what is wrong with it is said before torch is imported
    from minimodels.sim import inventory, listings

    record, trees = inventory.parts(config)
    printed({**record, "modules": trees} if as_json else listings.model(record, trees, depth))


@main.command()
@model_options
@run_options
@click.option("--by", type=click.Choice(["stage", "category", "module", "attention"]), default="stage",
              show_default=True,
              help="What the detailed table lists.")  # fmt: skip
@click.option(
    "--explain", is_flag=True, help="Also: why the operators that matter take so long, and what-ifs (simulated)."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the profile as JSON.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw it: FILE.png, .svg or .pdf.")
@click.option("--trace", type=click.Path(path_type=Path), help="Write a Chrome trace as FILE.json, for Perfetto.")
@click.option("--compare", "compared", is_flag=True, help="Measure, and show the prediction for the same GPU beside.")
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON instead of tables.")
def profile(
    name: str,
    overrides: tuple[str, ...],
    by: Any,
    explain: bool,
    out: Path | None,
    picture: Path | None,
    trace: Path | None,
    compared: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Where time, FLOPs and memory go in one inference of NAME (`minibench list`, or a .toml file)."""
    from minimodels import loader
    from minimodels.sim import side_by_side, tables

    _check_outputs(name, picture, out, trace)
    lengths = {key: options.pop(key) for key in LENGTHS}
    config = loader.load(name, overrides, lengths)
    if compared and explain:
        raise ValueError("--compare measures and --explain simulates: take one of them")
    if compared:
        side_by_side.check(options["device"])
    result = _simulated(config, options, "--explain") if explain else _profile(config, options)
    if out:
        result.save(out)
    there = {"device": result.device.name, "dtype": result.run.dtype}
    shown = [result, _profile(config, options | there)] if compared else [result]
    if picture:
        from minimodels.sim import figures, plots

        figures.save(plots.breakdown(shown), picture)
    if trace:
        from minimodels.sim import chrome_trace, files

        files.write_whole(trace, chrome_trace.as_json(shown).encode())
    if compared:
        printed((side_by_side.as_json if as_json else side_by_side.report)(*shown))
        return
    changes = _what_ifs(config, options) if explain else []
    if not as_json:
        printed(tables.profile_summary(result, by))
    elif not explain:
        click.echo(result.to_json())
    if explain:
        from minimodels.sim import explain_table

        printed(explain_table.as_json(result, changes) if as_json else explain_table.report(result, changes))


@main.command()
@model_options
@GPU
@simulation_options
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw it: FILE.png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def memory(name: str, overrides: tuple[str, ...], picture: Path | None, as_json: bool, **options: Any) -> None:
    """What takes memory in one inference of NAME on a GPU, and the largest batch and sizes that fit it (simulated)."""
    from minimodels import loader
    from minimodels.sim import capacity, files, memory_table
    from minimodels.sim.progress import bar

    if picture:
        from minimodels.sim import figures

        files.check_writable(picture)
        figures.check_extension(picture)
    lengths = {key: options.pop(key) for key in LENGTHS}
    config = loader.load(name, overrides, lengths)
    result = _simulated(config, options)
    with bar(config.title) as progress:
        limits = capacity.limits(lambda more: loader.load(name, overrides, {**lengths, **more}), result, progress)
    if picture:
        from minimodels.sim import figures, plots

        figures.save(plots.memory([result]), picture)
    printed(memory_table.as_json(result, limits) if as_json else memory_table.report(result, limits))


@main.command()
@click.argument("kind")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="FILE.png, .svg or .pdf.")
def plot(kind: str, files: tuple[Path, ...], out: Path) -> None:
    """Draw KIND (breakdown, stages, roofline, memory or seqlen) of profiles FILES."""
    from minimodels.sim import figures, plots
    from minimodels.sim.files import check_distinct
    from minimodels.sim.profile import Profile

    figures.check_extension(out)
    check_distinct([out], files)
    if kind not in plots.KINDS:
        raise ValueError(f"unknown plot {kind!r}; allowed: {', '.join(plots.KINDS)}")
    figures.save(plots.KINDS[kind]([Profile.load(path) for path in files]), out)


@main.command()
@click.argument("what", type=click.Choice(["config", "profile"]), default="config")
def schema(what: str) -> None:
    """The JSON Schema of a config file (default) or of a profile, for editors and parsers."""
    if what == "config":
        from minimodels.loader import json_schema

        printed(json_schema())
    else:
        from minimodels.sim.profile import Profile

        printed(Profile.model_json_schema())


@main.command("import")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Write FILE.toml instead of printing.")
@click.option(
    "--base", metavar="NAME", help="Of a single network: the architecture (`minibench list`) it becomes part of."
)
def import_(directory: Path, out: Path | None, base: str | None) -> None:
    """The sizes of a model that diffusers or transformers saved in DIRECTORY, as a config for `profile`."""
    from minimodels import importer
    from minimodels.sim import files

    if out is not None:
        if out.suffix != ".toml":
            raise ValueError(f"--out {out}: a config is named FILE.toml")
        files.check_writable(out)
    found = importer.to_toml(directory, base)
    for note in found.notes:
        click.echo(note, err=True)
    if out is None:
        click.echo(found.text, nl=False)
        return
    files.write_whole(out, found.text.encode())
    if found.section is None:
        click.echo(f"{out} is a whole architecture: minibench profile {out}")
    else:
        click.echo(f'{out} is the section [{found.section}] of an architecture: put a line base = "NAME" above it.')


def _check_outputs(name: str, picture: Path | None, *others: Path | None) -> None:
    """See that a profile, its picture and its trace can be written, before it is made; over no model file."""
    from minimodels.sim import files

    outputs = [path for path in (picture, *others) if path]
    files.check_distinct(outputs, [Path(name)] if name.endswith(".toml") else [])
    for path in outputs:
        files.check_writable(path)
    if picture:
        from minimodels.sim import figures

        figures.check_extension(picture)


def _what_ifs(config: Config, options: dict[str, Any]) -> list[WhatIf]:
    from minimodels.run import make_run
    from minimodels.sim.explain import what_ifs
    from minimodels.sim.progress import bar

    with bar(config.title) as progress:
        return what_ifs(config, make_run(**options), progress)


def _simulated(config: Config, options: dict[str, Any], what: str = "this command") -> Profile:
    """As `_profile`, on the GPU that stands for one where none is named; `what` simulates."""
    from minimodels.options import HERE, Options

    if options["device"] == "auto":
        options["device"] = Options.model_fields["device"].default
    elif options["device"] in HERE:
        raise ValueError(f"--device {options['device']}: {what} simulates; name a GPU of `minibench devices`")
    return _profile(config, options)


def _profile(config: Config, options: dict[str, Any]) -> Profile:
    from minimodels.options import HERE, check
    from minimodels.sim import device as devices
    from minimodels.sim.progress import bar

    if options["device"] not in ("auto", *HERE):
        devices.load(options["device"])
    check(**options)  # before torch is imported
    from minimodels.run import make_run

    run = make_run(**options)
    with bar(config.title) as progress:
        if run.device in HERE:
            from minimodels.sim.measure import measure
            from minimodels.sim.session import Unmeasurable

            try:
                return measure(config, run, progress)
            except Unmeasurable as error:
                raise click.ClickException(f"cannot measure {config.title}: {error}") from error
        from minimodels.sim.simulate import simulate

        return simulate(config, run, progress)


for command in (
    *evidence.COMMANDS,
    *study.COMMANDS,
    *design.COMMANDS,
    *learning.COMMANDS,
    *teaching.COMMANDS,
    *training.COMMANDS,
):
    main.add_command(command)


if __name__ == "__main__":
    sys.exit(main())
