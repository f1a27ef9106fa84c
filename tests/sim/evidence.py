"""What torch.profiler sees of a real CPU run: per outermost operator its matrix products, convolutions, copies.

Nothing here comes from the walk or its formulas: shapes, strides and arguments are those the profiler recorded,
bytes are those of the allocator's events. oneDNN and NNPACK are off, so that a convolution is im2col and one matrix
product on every processor; one thread runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from minimodels.kernels.backend import attention_backend
from minimodels.loader import load
from minimodels.pipelines import example_input, generate
from minimodels.run import build
from minimodels.sim.trace import Place

ITEM = {"float": 4, "double": 8, "long int": 8, "int": 4, "bool": 1}  # bytes, by the profiler's names
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # position of the left factor
MOVERS = ("copy_", "pixel_shuffle", "tril", "triu")  # leaf kernels of a CPU that move data

Gemm = tuple[int, int, int, int]  # batch or groups, m, n, k


@dataclass(slots=True)
class Operator:
    """An outermost operator: what it was given, what ran inside it, and the bytes alive at most meanwhile."""

    name: str
    stage: str
    shapes: list[list[int]]
    strides: list[list[int]]
    peak: int
    inside: list[str] = field(default_factory=list)
    gemms: list[Gemm] = field(default_factory=list)
    convolutions: list[Gemm] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)  # bytes written by each


@cache
def observe(name: str, batch: int, attention: str) -> list[Operator]:
    """The outermost operators of one run of the tiny config `name`, every step of every loop, in float32."""
    config = load(name)
    parts, tokens = build(config, "cpu"), example_input(config, batch, "cpu")
    with (
        plain_cpu(),
        attention_backend(attention),
        profile(
            activities=[ProfilerActivity.CPU], record_shapes=True, profile_memory=True, acc_events=True
        ) as profiler,
    ):
        generate(config, parts, tokens)
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    return _read(profiler.profiler.kineto_results.events(), tokens.numel() * tokens.element_size())


@contextmanager
def plain_cpu() -> Iterator[None]:
    """One thread, no oneDNN, no NNPACK: the same kernels and buffers on every processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        torch.set_num_threads(threads)


def _read(events: Iterable[Any], alive: int) -> list[Operator]:
    """Operators from a trace; `alive` is what was allocated before it, weights left out."""
    operators: list[Operator] = []
    stage, left, end, joined = Place().stage, 0, 0, 0
    for event in sorted(events, key=lambda event: (event.start_ns(), -event.end_ns())):
        if event.name() == "[memory]":
            alive += event.nbytes()
            if operators:
                operators[-1].peak = max(operators[-1].peak, alive)
            if event.nbytes() > 0 and event.start_ns() < joined:
                operators[-1].copies.append(event.nbytes())
        elif event.name().startswith("stage."):
            stage, left = event.name().removeprefix("stage."), event.end_ns()
        elif "::" in event.name():
            name = event.name().removeprefix("aten::")
            shapes, strides = event.structured_input_shapes(), event.structured_input_strides()
            if event.start_ns() >= end:
                end = event.end_ns()
                here = stage if event.start_ns() < left else Place().stage
                operators.append(Operator(name, here, shapes, strides, alive))
            if name == "cat":  # the profiler tells no dtype of a list; what it allocates is what it writes
                joined = event.end_ns()
            _note(operators[-1], name, shapes, event)
    return operators


def _note(outer: Operator, name: str, shapes: list[Any], event: Any) -> None:
    """Enter what runs inside an outermost operator, itself included."""
    outer.inside.append(name)
    if name in PRODUCTS:
        left, right = shapes[PRODUCTS[name] :][:2]
        outer.gemms.append((prod(left[:-2]), left[-2], right[-1], left[-1]))
    elif name == "_convolution":
        outer.convolutions.append(_convolution(shapes, event.concrete_inputs()))
    elif name in MOVERS and shapes[0]:  # without dimensions it is a number, wrapped to be multiplied by
        outer.copies.append(prod(shapes[0]) * ITEM[event.dtypes()[0]])


def _convolution(shapes: list[list[int]], arguments: list[Any]) -> Gemm:
    """A convolution as a matrix product: groups, pixels of the result, channels per group, taps.

    A transposed one: groups, pixels of the input, taps per group, channels of the input per group.
    """
    (batch, _, *size), (channels, *taps) = shapes[:2]
    stride, padding, dilation, transposed, _, groups = arguments[3:9]
    if transposed:
        return groups, batch * prod(size), prod(taps), channels // groups
    out = [
        (n + 2 * p - d * (t - 1) - 1) // s + 1
        for n, t, s, p, d in zip(size, taps[1:], stride, padding, dilation, strict=True)
    ]
    return groups, batch * prod(out), channels // groups, prod(taps)
