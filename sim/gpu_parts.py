"""All that needs a GPU, in parts that take minutes each and can be resumed: `make gpu`.

    python3 -m minimodels.sim.gpu_parts             every part whose result is missing
    python3 -m minimodels.sim.gpu_parts PART ...    these
    FORCE=1 python3 -m ...                          again, though there is a result

Results are files under results/GPU/; a part is finished when its file is there. It runs in a process of its own,
since a kernel that fails can leave the device unusable for what follows, and is stopped after nine minutes with all
that it started: what stopped or failed is said and tried again the next time, the record of what failed kept as
failed-FILE. Works from a checkout, nothing installed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minimodels.sim.bench_report import RESULTS
from minimodels.sim.files import write_whole

ROOT = RESULTS.parent
LIMIT = 9 * 60.0  # seconds
MODELS = (  # one of each workload of the study, then the others; all fit an H200, so none is left out
    "stable-diffusion-1.5", "sdxl", "muse-3b", "make-a-video", "imagen", "parti-20b", "phenaki", "prod-image",
    "llama2-7b",
    "stable-diffusion-2.1", "llama2-13b", "parti-3b", "phenaki-0.9b", "muse-632m", "ldm-1.45b", "sdxl-refiner",
    "modelscope-1.7b", "animatediff", "amused-512", "parti-750m", "parti-350m", "llama2-70b",
    "dit-xl-2", "flux.1-dev", "wan2.1-1.3b", "wan-factorised",
)  # fmt: skip
SET = {  # at their own steps, up to sixteen runs of a profile take over nine minutes on an H200 (simulated); others fit
    "make-a-video": ("run.prior.steps=16", "run.decoder.steps=2", "run.interpolation.steps=1",
                     "run.super_resolution_1.steps=1", "run.super_resolution_2.steps=1"),
    "wan2.1-1.3b": ("run.steps=4",), "wan-factorised": ("run.steps=4",),
}  # fmt: skip
WAYS = {  # attention, other kernels, layout
    "baseline": ("baseline", "torch", "contiguous"),
    "flash": ("flash", "torch", "contiguous"),
    "triton": ("triton", "triton", "contiguous"),
    "triton-last": ("triton", "triton", "channels-last"),
}
IN_MODES = ("stable-diffusion-1.5", "make-a-video")  # our kernels in graphs, beside torch's one by one and compiled
MODES = {
    "eager": ("sdpa", "torch", "contiguous"),
    "compiled": ("sdpa", "torch", "contiguous"),
    "graph": ("triton", "triton", "channels-last"),
}
MEMORY_OFF = 0.05  # by which the allocator's peak may differ from the walk's


@dataclass(frozen=True, slots=True)
class Part:
    """A command that writes `file`; `{file}` in it stands for the file's path, written through a temporary one."""

    name: str
    file: str
    command: tuple[str, ...]


def parts(kernels: Sequence[str]) -> list[Part]:
    """All parts, those that tell most first; kernels: names of our operators."""
    here, command = (sys.executable, "-m", "minimodels.sim.gpu_parts"), (sys.executable, "cli.py")
    made = [
        Part("ceilings", "ceilings.json", (*here, "--ceilings", "{file}")),
        Part("tests", "tests.json", (*here, "--tests", "{file}", "tests/kernels/gpu/test_numerics.py")),
        Part("limits", "limits.json", (*here, "--tests", "{file}", "tests/kernels/gpu/test_limits.py")),
        Part("graphs", "graphs.json", (*here, "--tests", "{file}", "tests/sim/test_graph_session.py")),
        Part("compiled", "compiled.json", (*here, "--tests", "{file}", "tests/sim/test_compiled.py")),
    ]
    for name in kernels:
        made.append(Part(f"bench-{name}", f"kernels-{name}.json", (*command, "bench", name, "--out", "{file}")))
    for model in MODELS:
        for way, kinds in WAYS.items():
            name = f"{model}-{way}"
            made.append(_profile(name, model, *kinds, "eager"))
            checked = (*here, "--check", "{file}", model, *kinds, *SET.get(model, ()))
            made.append(Part(f"check-{name}", f"check-{name}.json", checked))
    for model in IN_MODES:
        for mode, kinds in MODES.items():
            made.append(_profile(f"{model}-{mode}-{kinds[0]}", model, *kinds, mode))
    made.append(Part("calibrate", "device.toml", (*command, "calibrate", "--out", "{file}")))
    return made


def _profile(name: str, model: str, attention: str, kernels: str, layout: str, mode: str) -> Part:
    changed = [word for setting in SET.get(model, ()) for word in ("--set", setting)]
    kinds = ("--attention", attention, "--kernels", kernels, "--layout", layout)
    options = ("--dtype", "bfloat16", *kinds, "--mode", mode)
    command = (sys.executable, "cli.py", "profile", model, "--device", "cuda", *options, *changed, "--out", "{file}")
    return Part(f"profile-{name}", f"profile-{name}.json", command)


def run(part: Part, folder: Path, force: bool = False, limit: float = LIMIT) -> str:
    """Run a part: "there is a result", "done in ... s", or why there is none."""
    file = folder / part.file
    if file.exists() and not force:
        return "there is a result"
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part.") as scratch:
        made = Path(scratch) / part.file
        command = [word.replace("{file}", str(made)) for word in part.command]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        status = _status(command, environment, limit)
        if status is None:
            return f"stopped after {limit:.0f} s"
        failed = folder / f"failed-{part.file}"
        failed.unlink(missing_ok=True)
        if made.exists():  # of what failed the record is evidence, not a result
            os.replace(made, failed if status else file)
    took = f"{time.monotonic() - begin:.0f} s"
    if status:
        return f"FAILED in {took}, exit code {status}"
    return f"done in {took}" if file.exists() else "FAILED: it wrote nothing"


def _status(command: Sequence[str], environment: dict[str, str], limit: float) -> int | None:
    """The exit code of a command; None if it was stopped at the limit, with all that it had started."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    ) as running:
        try:
            return running.wait(limit)
        except BaseException as why:
            os.killpg(running.pid, signal.SIGKILL)
            if isinstance(why, subprocess.TimeoutExpired):
                return None
            raise


def _gpu() -> str:
    import torch

    from minimodels.sim.environment import describe

    return describe(torch.device("cuda", torch.cuda.current_device()), "bfloat16").name


def _ceilings(file: Path) -> None:
    """Measure the card's ceilings."""
    import torch

    from minimodels.kernels.ceilings import measure_ceilings
    from minimodels.kernels.protocol import CudaTimer
    from minimodels.sim.environment import environment

    timer = CudaTimer()
    facts = environment(torch.device("cuda", torch.cuda.current_device()))
    _write(file, {"kind": "ceilings", "ceilings": asdict(measure_ceilings(timer)), "environment": facts})


def _tests(file: Path, *paths: str) -> None:
    """Run tests marked `gpu` and write what came of each."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junit-xml={report.name}", *paths)
        code = subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode
        _write(file, {"kind": "tests", "passed": code == 0} | outcomes(Path(report.name).read_text()))
    sys.exit(code)


def outcomes(report: str) -> dict[str, Any]:
    """Counts, what failed and what was recorded, of pytest's JUnit report."""
    cases = list(xml.fromstring(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    recorded = {str(p.get("name")): json.loads(p.get("value", "null")) for case in cases for p in case.iter("property")}
    names = [f"{case.get('classname')}::{case.get('name')}" for case in failed]
    return {"tests": len(cases), "skipped": len(skipped), "failed": names, "recorded": recorded}


def _check(file: Path, model: str, attention: str, kernels: str, layout: str, *settings: str) -> None:
    """Run a model once: its output is finite, and its peak memory what the walk says."""
    import torch

    from minimodels import loader
    from minimodels.kernels.backend import architecture, attention_backend, kernel_backend
    from minimodels.run import Run
    from minimodels.sim.job import of_config
    from minimodels.sim.memory import ROUNDING, account
    from minimodels.sim.simulate import run_walk
    from minimodels.sim.trace import Walk

    config, device = loader.load(model, settings), torch.device("cuda", torch.cuda.current_device())
    run = Run(attention=attention, kernels=kernels, layout=layout, full=True)  # type: ignore[arg-type]
    job = of_config(config, run)
    prepared = job.prepare("meta")
    walk = Walk(prepared.parts, rounding=ROUNDING)
    run_walk(walk, prepared, run, architecture(device), model)
    predicted = max(account(walk, run)[0].per_call)
    here = job.prepare(device)
    torch.cuda.reset_peak_memory_stats(device)
    with attention_backend(attention), kernel_backend(kernels):
        out = here.run()
    assert isinstance(out, torch.Tensor)
    peak = torch.cuda.max_memory_allocated(device)
    finite = bool(out.isfinite().all())
    found = {"kind": "check", "model": model, "finite": finite, "peak": peak, "predicted_peak": predicted}
    _write(file, found | {"attention": attention, "kernels": kernels, "layout": layout, "shape": list(out.shape)})
    sys.exit(not finite or abs(peak / predicted - 1) > MEMORY_OFF)


def _write(file: Path, record: dict[str, Any]) -> None:
    write_whole(file, json.dumps(record, indent=1).encode())


STEPS: dict[str, Callable[..., None]] = {"--ceilings": _ceilings, "--tests": _tests, "--check": _check}


def main(arguments: Sequence[str]) -> int:
    """Run parts; 1 if one has no result or failed."""
    from minimodels.kernels.operator import every
    from minimodels.sim.bench_report import has_gpu

    if arguments and arguments[0] in STEPS:
        STEPS[arguments[0]](Path(arguments[1]), *arguments[2:])
        return 0
    if not has_gpu():
        print("torch finds no CUDA device here: nothing was run", file=sys.stderr)
        return 2
    folder = RESULTS / _gpu()
    listed = {part.name: part for part in parts(sorted(name.partition("::")[2] for name in every()))}
    unknown = [name for name in arguments if name not in listed]
    if unknown:
        print(f"unknown part {unknown[0]!r}; allowed: {', '.join(listed)}", file=sys.stderr)
        return 2
    bad = 0
    for name in arguments or listed:
        print(f"{name}: ", end="", flush=True)
        said = run(listed[name], folder, os.environ.get("FORCE") == "1")
        bad += said.startswith(("FAILED", "stopped"))
        print(said, flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
