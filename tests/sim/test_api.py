"""`simulate` and `measure`: one way of saying how to run, of which nothing is ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import minimodels
from minimodels.run import Run
from minimodels.sim.api import RunOptions

CONFIG = minimodels.load("llama-tiny")
MODULE = nn.Sequential(nn.Linear(5, 7))
INPUT = torch.ones(3, 5)


def test_every_field_of_a_run_is_a_keyword() -> None:
    assert set(RunOptions.__annotations__) == set(Run.model_fields)


def test_keywords_of_a_config_are_those_of_a_run() -> None:
    options: dict[str, Any] = {"device": "h100-sxm", "attention": "baseline", "mode": "graph", "batch": 3}
    found = minimodels.simulate(CONFIG, **options)
    assert (found.device.name, found.run.attention, found.run.mode, found.run.batch) == tuple(options.values())
    assert found == minimodels.simulate(CONFIG, Run(**options))
    assert (
        minimodels.simulate(CONFIG) == minimodels.simulate(CONFIG, device="auto") == minimodels.simulate(CONFIG, Run())
    )


def test_a_config_is_measured_with_keywords_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = minimodels.measure(CONFIG, device="cpu", repeats=2, warmup=1)
    assert (found.source, found.run.dtype, found.environment.repeats) == ("measured", "float32", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert minimodels.measure(CONFIG).run.device == "cpu"
    assert minimodels.measure(MODULE, INPUT).run.device == "cpu"


@pytest.mark.parametrize("profiled", (minimodels.simulate, minimodels.measure))
@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    (
        ((CONFIG,), {"device": "nonsense"}, "nonsense"),
        ((CONFIG,), {"attention": "flsh"}, "attention"),
        ((CONFIG,), {"kernels": "cuda"}, "kernels"),
        ((CONFIG,), {"mode": "fast"}, "mode"),
        ((CONFIG,), {"atention": "flash"}, "unknown option 'atention'; did you mean attention"),
        ((CONFIG,), {"xyz": 1}, "unknown option 'xyz'; allowed: device, "),
        ((CONFIG, Run()), {"device": "h200"}, "both a Run and device"),
        ((CONFIG, Run(), print), {}, "followed by one Run.*not by Run, builtin_function_or_method"),
        ((CONFIG, INPUT), {}, "followed by one Run.*not by Tensor"),
        ((MODULE, INPUT), {"batch": 2}, "batch is an option of architectures"),
        ((MODULE, INPUT), {"dtype": "float16"}, "dtype is an option of architectures"),
        ((MODULE, INPUT, Run()), {}, "not by a Run"),
        ((MODULE, INPUT), {"device": "nonsense"}, "nonsense"),
        (("imagen",), {"device": "h200"}, r"load it first, minimodels.load\('imagen'\)"),
    ),
)
def test_a_wrong_option_is_said_never_ignored(profiled: Any, inputs: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        profiled(*inputs, **options)


@pytest.mark.parametrize("model", (CONFIG, MODULE))
def test_each_is_told_of_the_other_where_the_device_is_its(model: Any) -> None:
    inputs = () if model is CONFIG else (INPUT,)
    with pytest.raises(ValueError, match="measured, not simulated"):
        minimodels.simulate(model, *inputs, device="cpu")
    with pytest.raises(ValueError, match="cannot be measured here; allowed: cuda, cpu"):
        minimodels.measure(model, *inputs, device="h200")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: minimodels.build(minimodels.load("llama-tiny"), only="decoder"), "its parts are language_model"),
        (lambda: minimodels.build("llama-tiny"), r"load it first, minimodels.load\('llama-tiny'\)"),  # type: ignore
        (lambda: minimodels.sweep("llama-tiny", {"batch": [3]}, out="points.txt"), "named FILE.jsonl"),
        (lambda: minimodels.sweep("llama-tiny", {"batch": [3]}, jobs=0), "at least 1 process"),
        (lambda: minimodels.sweep("llama-tiny", {"batch": 3}), r"for one value write \[3\]"),  # type: ignore
        (lambda: minimodels.sweep("llama-tiny", {"attention": "flash"}), r"for one value write \['flash'\]"),
        (lambda: Run(batch="three"), "^--batch: input should be a valid integer, not 'three'$"),  # type: ignore
        (lambda: Run(steps=3), "^--steps: there is no such option$"),  # type: ignore
    ],
)
def test_a_wrong_call_says_what_is_allowed(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
