"""Training under FSDP, compute against communication: Fig. 6, for Stable Diffusion on 2, 8 and 16 GPUs.

The study states neither batch nor network. Ours are four samples per GPU, as Stable Diffusion v1 was trained (its model
card: a batch of 2,048 on 256 A100 in two accumulated steps), and 200 Gbit/s per GPU between nodes, as a DGX A100 has;
beside it an eighth of 400 Gbit/s, as cloud machines with 8 A100 have (AWS p4d). The table has other batches, too.

More than one machine is not at hand here, so the step is predicted, whatever device the study runs on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minimodels.objective import trainable
from minimodels.run import Run
from minimodels.sim import collectives, units
from minimodels.sim import device as devices
from minimodels.sim.paper.draw import CYCLE, Panel, figure
from minimodels.sim.paper.result import Result, Score
from minimodels.sim.paper.study import Study, config_of, where
from minimodels.sim.training import Prediction, predict_steps

GPU = "a100-80gb"  # the study's
GPUS = (2, 8, 16)  # the study, Fig. 6
BATCH = 4  # samples per GPU
BATCHES = (1, BATCH, 16)
NETWORKS = {collectives.NETWORK: "DGX A100", 50.0: "AWS p4d"}  # Gbit/s per GPU
PHASES = {"forward": CYCLE[5], "backward": CYCLE[0], "optimizer": CYCLE[2]}
EXPOSED, SENT = CYCLE[1], CYCLE[6]

Steps = Mapping[tuple[float, int, int], Prediction]  # by network, samples per GPU, number of GPUs


def fig6(study: Study) -> Result:
    """Compute, communication and what of it is not hidden, by number of GPUs and network at four samples per GPU; the
    table has smaller and larger batches."""
    found = {
        (network, batch, made.gpus): made
        for network in NETWORKS
        for batch in BATCHES
        for made in predict_steps(trainable(config_of("StableDiffusion")), _run(study, batch), GPUS, network)
    }
    rows = [
        (network, batch, gpus, made.nodes, *map(made.stage, PHASES), made.compute, made.communication, made.exposed,
         made.step, made.samples / made.step, made.profile.memory.peak)
        for (network, batch, gpus), made in found.items()
    ]  # fmt: skip
    header = (
        "network (Gbit/s per GPU)", "samples per GPU", "GPUs", "nodes", *(f"{phase} (s)" for phase in PHASES),
        "compute (s)", "communication (s)", "exposed communication (s)", "step (s)", "samples/s", "memory (B)",
    )  # fmt: skip
    return Result(_picture(found), header, rows, list(_scores(found)), _run(study, BATCH).device)


def _run(study: Study, batch: int) -> Run:
    """On the study's device if its links are known, else on the published study's GPU; pictures name it."""
    linked = study.device != "cuda" and devices.load(study.device).datasheet.link is not None
    return Run(device=study.device if linked else GPU, batch=batch, attention="flash")


def _picture(found: Steps) -> Any:
    titles = [f"{network:g} Gbit/s per GPU ({whose})" for network, whose in NETWORKS.items()]
    lanes = [f"The step on {GPUS[-1]} GPUs, {network:g} Gbit/s" for network in NETWORKS]
    first = next(iter(found.values()))
    said = f"Stable Diffusion under FSDP, {BATCH} samples per GPU, two networks between nodes of {collectives.NODE}"
    made, axes = figure(
        *(Panel(text, "GPUs (nodes)", "ms") for text in titles), *(Panel(text, "ms") for text in lanes),
        height=3.2, columns=2, above=f"{said}\n{where(first.profile)}",
    )  # fmt: skip
    for column, network in enumerate(NETWORKS):
        _bars(axes[column], [found[network, BATCH, gpus] for gpus in GPUS])
        _lanes(axes[2 + column], found[network, BATCH, GPUS[-1]])
    most = 1e3 * max(max(found[n, BATCH, g].step, found[n, BATCH, g].communication) for n in NETWORKS for g in GPUS)
    for axis in axes[:2]:
        axis.set_ylim(0, 1.08 * most)
    for axis in axes[2:]:
        axis.set_xlim(0, 1e3 * max(found[n, BATCH, GPUS[-1]].step for n in NETWORKS))
    handles, labels = axes[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return made


def _bars(axes: Any, steps: list[Prediction]) -> None:
    """Left of each pair compute and what is waited for, right of it all communication."""
    for place, made in enumerate(steps):
        name = lambda label, place=place: label if place == 0 else None
        top = 0.0
        for phase, colour in PHASES.items():
            height = 1e3 * made.stage(phase)
            axes.bar(place - 0.2, height, 0.36, top, color=colour, label=name(f"compute: {phase}"))
            top += height
        axes.bar(place - 0.2, 1e3 * made.exposed, 0.36, top, color=EXPOSED, label=name("communication, waited for"))
        hidden = 1e3 * max(0.0, made.communication - made.exposed)
        look = {"color": "white", "edgecolor": EXPOSED, "hatch": "////"}
        axes.bar(place + 0.2, 1e3 * made.exposed, 0.36, color=EXPOSED)
        axes.bar(place + 0.2, hidden, 0.36, 1e3 * made.exposed, label=name("communication, hidden"), **look)
        for x, seconds in ((place - 0.2, made.step), (place + 0.2, made.communication)):
            height = 1e3 * max(seconds, made.exposed)
            axes.annotate(units.digits(1e3 * seconds), (x, height), (0, 2), textcoords="offset points", ha="center",
                          fontsize=8)  # fmt: skip
    axes.set_xticks(range(len(steps)), [f"{made.gpus} ({made.nodes})" for made in steps])


def _lanes(axes: Any, made: Prediction) -> None:
    """Compute and links over one step; the optimizer comes last."""
    events = made.events
    passes = 1e3 * max(event.end for event in events)
    lanes = ("reduce_scatter", "all_gather", "compute")
    for lane, kind in enumerate(lanes):
        for stage in ("forward", "backward"):
            own = [event for event in events if (event.kind, event.stage) == (kind, stage)]
            spans = [(1e3 * event.start, 1e3 * (event.end - event.start)) for event in own]
            colour = PHASES[stage] if kind == "compute" else SENT
            axes.broken_barh(spans, (lane - 0.35, 0.7), color=colour, linewidth=0)
    axes.broken_barh([(passes, 1e3 * made.stage("optimizer"))], (1.65, 0.7), color=PHASES["optimizer"], linewidth=0)
    axes.set_yticks(range(len(lanes)), [lane.replace("_", "-") for lane in lanes])


def _scores(found: Steps) -> Iterator[Score]:
    steps = [found[collectives.NETWORK, BATCH, gpus] for gpus in GPUS]
    nodes = [made.nodes for made in steps]
    grows = nodes == sorted(set(nodes))
    yield Score("s3-10", f"{collectives.NODE}", collectives.NODE == 8, "GPUs of a node, as Fig. 6 is predicted")
    yield Score(
        "s3-11", f"{', '.join(map(str, nodes))} nodes", grows, "an increasing number of nodes, as the caption says",
        why="" if grows else f"nodes have {collectives.NODE} GPUs (section III), so that 2 and 8 GPUs are one",
    )  # fmt: skip
    for network in NETWORKS:
        own = [found[network, BATCH, gpus] for gpus in GPUS]
        told = "; ".join(
            f"{made.gpus} GPUs: compute {units.seconds(made.compute)}, communication "
            f"{units.seconds(made.communication)}, {units.seconds(made.exposed)} of it not hidden" for made in own
        )  # fmt: skip
        yield Score(
            "s3-11", told, None,
            f"{BATCH} samples per GPU, {network:g} Gbit/s per GPU between nodes",
            why="the study's times are in its drawing alone; it names neither batch nor network",
        )  # fmt: skip
