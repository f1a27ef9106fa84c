"""What `minibench train-step` shows of a predicted step: times by number of GPUs, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from minimodels.sim import tables, units
from minimodels.sim.cells import table_of
from minimodels.sim.training import Prediction


def report(predictions: Sequence[Prediction]) -> Group:
    """A row per number of GPUs."""
    first = predictions[0].profile
    table = table_of(
        "GPUs", "Nodes", "Forward", "Backward", "Optimizer", "Compute", "Communication", "Exposed", "Step", "Samples/s"
    )
    for made in predictions:
        seconds = (*map(made.stage, ("forward", "backward", "optimizer")), made.compute, made.communication,
                   made.exposed, made.step)  # fmt: skip
        table.add_row(str(made.gpus), str(made.nodes), *map(units.seconds, seconds),
                      units.digits(made.samples / made.step))  # fmt: skip
    run = first.run
    network = units.digits(float((run.model_extra or {})["network_gbit"]))
    how = f"batch {run.batch} per GPU, {run.dtype}, attention {run.attention}, FSDP by block, AdamW"
    lines = [
        f"{units.named(first)}: a training step SIMULATED on {first.device.title}",
        f"{how}; {network} Gbit/s per GPU between nodes",
    ]
    notes = ["Exposed: communication that no compute hides. Frozen text encoders and autoencoders do not run.", ""]
    notes += [f"{made.gpus} GPUs: {tables.fit(made.profile)}." for made in predictions]
    missing = sorted({op.name for op in first.unmodelled()})
    if missing:
        notes.append(f"No formula, and so priced by bytes alone: {', '.join(missing)}.")
    return Group(Text("\n".join(lines)), Text(), table, Text(), Text("\n".join(notes)))


def as_json(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The same, seconds and bytes as they are, with the whole profile of each step."""
    return [
        {
            "gpus": made.gpus, "nodes": made.nodes, "samples": made.samples, "compute_seconds": made.compute,
            "communication_seconds": made.communication, "exposed_seconds": made.exposed, "step_seconds": made.step,
            "profile": made.profile.model_dump(mode="json", by_alias=True),
        }
        for made in predictions
    ]  # fmt: skip
