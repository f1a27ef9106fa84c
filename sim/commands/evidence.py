"""The commands about evidence: what GPUs are known, how wrong predictions are, how fast our kernels are.

As in `cli`, everything heavy is imported inside the commands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from minimodels.sim.commands.printing import printed, show_alone

if TYPE_CHECKING:
    from minimodels.sim.device import Device
    from minimodels.sim.microbench import Timed


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def devices(as_json: bool) -> None:
    """The GPUs that can be simulated."""
    from minimodels.sim import device, listings

    listed = [device.load(name) for name in device.names()]
    printed([one.model_dump(mode="json") for one in listed] if as_json else listings.device_list(listed))


@click.command()
@click.argument("kernels", nargs=-1)
@click.option("--shapes", type=click.Path(path_type=Path), help="A profile: take the calls of its model.  [default: "
              "the heaviest calls of several models]")  # fmt: skip
@click.option("--device", default="cuda", show_default=True, help="cuda: nothing is simulated here.")
@click.option("--quick", is_flag=True, help="One call per kernel, fewer runs.")
@click.option("--show", "only_show", is_flag=True, help="Show what results/ holds; run nothing.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the record as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def bench(
    kernels: tuple[str, ...], shapes: Path | None, device: str, quick: bool, only_show: bool, out: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Our Triton KERNELS (default: all) beside torch's, on a GPU, at the shapes of real models."""
    from minimodels.sim import bench_cases, bench_report, files
    from minimodels.sim.progress import bar

    if only_show:
        show_alone()
        return printed(bench_report.shown())
    bench_cases.check_names(kernels)
    if device != "cuda" or not bench_report.has_gpu():
        raise ValueError(f"--device {device}: bench needs a CUDA device: nothing is simulated here")
    if out is not None:
        files.check_writable(out)
    with bar("Kernels") as progress:
        record = bench_report.run(kernels, shapes, quick, progress)
    if out is not None:
        files.write_whole(out, json.dumps(record, indent=1).encode())
    printed(record if as_json else bench_report.report(record))
    wrong = bench_report.failures(record)
    if wrong:
        raise click.ClickException("kernels of ours are wrong:\n" + "\n".join(wrong))


@click.command()
@click.argument("truth", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--rows", "rows_out", type=click.Path(path_type=Path), help="Write the prediction of every row as CSV.")
def validate(truth: Path | None, as_json: bool, rows_out: Path | None) -> None:
    """Predictions beside public measurements: those shipped, or a CSV file TRUTH with the same columns."""
    from minimodels.sim import accuracy_table, files
    from minimodels.sim import validate as validation
    from minimodels.sim.progress import bar

    if rows_out is not None:
        files.check_distinct([rows_out], [truth] if truth else [])
        files.check_writable(rows_out)
    text, origin = (validation.load(truth), str(truth)) if truth else (validation.shipped(), "truth table")
    with bar("Validation") as progress:
        rows = validation.validate(text, origin, progress)
    if rows_out is not None:
        files.write_whole(rows_out, validation.write_rows(rows).encode())
    printed(accuracy_table.as_json(rows) if as_json else accuracy_table.report(rows))


@click.command()
@click.option(
    "--from",
    "truth",
    type=click.Path(path_type=Path),
    metavar="TRUTH.csv",
    help="A table of measurements, as `validate` reads it.  [default: kernels are timed on the GPU here]",
)
@click.option("--device", "name", metavar="NAME", help="The GPU whose device file is fitted.  [default: the one here]")
@click.option("--rows", "rows_out", type=click.Path(path_type=Path), help="Write what was timed as a truth table.")
@click.option("--out", type=click.Path(path_type=Path), help="Write FILE.toml instead of printing it.")
def calibrate(truth: Path | None, name: str | None, rows_out: Path | None, out: Path | None) -> None:
    """Fit the constants of a GPU's cost model to kernels timed here, or to a table; print its device file."""
    from minimodels.sim import calibrate as calibration
    from minimodels.sim import device as devices
    from minimodels.sim import device_writer, files, listings
    from minimodels.sim import validate as validation

    if truth is not None and (name is None or rows_out is not None):
        raise ValueError("--from TRUTH.csv needs --device NAME, and has no use for --rows: nothing is timed")
    device = devices.load(name) if name is not None else None
    outputs = [path for path in (rows_out, out) if path]
    files.check_distinct(outputs, [truth] if truth else [])
    for path in outputs:
        files.check_writable(path)
    measured: dict[str, float] = {}
    if truth is not None and device is not None:
        fitted, done = calibration.calibrate(validation.load(truth), device, str(truth))
    else:
        timed = _timed(device)
        device = timed.device
        if rows_out is not None:
            files.write_whole(rows_out, timed.table.encode())
        fitted, done = calibration.calibrate(timed.table, device, "what was timed")
        measured = timed.constants(fitted)
        fitted = fitted.with_constants(**measured)
    whence = "Fitted by minibench calibrate to " + ("kernels timed on this GPU" if truth is None else truth.name)
    families = "; ".join(part.family for part in done)  # "attention, flash" is one
    source = f"{whence}: {families}. The rest is as before."
    text = device_writer.rewritten(device_writer.original(device.name), fitted, done, measured, source)
    if out is None:
        click.echo(text, nl=False)
    else:
        files.write_whole(out, text.encode())
        printed(listings.calibration(device_writer.table(done)))


def _timed(device: Device | None) -> Timed:
    """What was timed on the GPU here, for its device file unless one is given."""
    import torch

    from minimodels.kernels.protocol import CudaTimer
    from minimodels.sim import bench_report, environment, microbench
    from minimodels.sim.progress import bar

    if not bench_report.has_gpu():
        raise ValueError("torch finds no CUDA device here to time; --from TRUTH.csv --device NAME fits to a table")
    here = torch.device("cuda", torch.cuda.current_device())
    device = device or environment.known(here)
    if device is None:
        title = torch.cuda.get_device_name(here)
        raise ValueError(f"no device file stands for {title}; --device NAME says whose datasheet is the nearest")
    with bar(device.title) as progress:
        return microbench.timed(device, CudaTimer(), progress)


COMMANDS = (devices, bench, validate, calibrate)
