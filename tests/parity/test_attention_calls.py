"""The attention calls of a UNet at its published size, in order, equal those of diffusers' with the same config.

Both run on `meta`. Theirs are seen where they call torch's attention, and told self from cross by the module's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimodels.diffusion_config import LatentDiffusion
from minimodels.kernels.scope import CORE, TRACER, AttentionCall
from minimodels.loader import load
from minimodels.parts import make

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

SD15: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


class Seen(NamedTuple):
    """One call of attention."""

    role: str
    query_length: int
    key_length: int
    heads: int
    head_dim: int


class Recorder:
    """A tracer that notes every call of `attention()`."""

    clocks = False

    def __init__(self) -> None:
        self.calls: list[Seen] = []
        self.role = ""

    def scope(self, kind: str, name: str, call: AttentionCall | None) -> AbstractContextManager[object]:
        if kind == "attention":
            self.role = name
        if kind == CORE and call is not None:
            self.calls.append(Seen(self.role, call.query_length, call.key_length, call.heads, call.head_dim))
        return nullcontext()

    def loop(self, name: str, n: int, growth: str) -> Iterator[int]:
        return iter(range(n))


@contextmanager
def their_calls(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Seen]]:
    """The calls that diffusers' attention modules make of torch's attention."""
    calls: list[Seen] = []
    role = ""
    attend = F.scaled_dot_product_attention

    def enter(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            nonlocal role
            role = {"attn1": "self", "attn2": "cross"}[name.rpartition(".")[2]]

        return hook

    def noted(query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Tensor:
        calls.append(Seen(role, query.shape[2], key.shape[2], query.shape[1], query.shape[3]))
        return attend(query, key, *rest, **options)

    for name, module in network.named_modules():
        if type(module).__name__ == "Attention":
            module.register_forward_pre_hook(enter(name))
    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", noted)
        yield calls


@pytest.mark.parametrize(("name", "options", "count"), [("stable-diffusion-1.5", SD15, 32), ("sdxl", SDXL, 140)])
def test_attention_calls_equal_those_of_diffusers_in_order(
    name: str, options: dict[str, Any], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(name)
    assert isinstance(config, LatentDiffusion)
    with torch.device("meta"), torch.inference_mode():
        ours, theirs = make(config.unet), diffusers.UNet2DConditionModel(**options)
        x = torch.empty(2, 4, config.latent_size, config.latent_size)
        text, time = torch.empty(2, 77, options["cross_attention_dim"]), torch.empty(2)
        told, added = {}, None
        if config.unet.vector:
            told["vector"] = torch.empty(2, config.unet.vector.dim)
            added = {"text_embeds": torch.empty(2, 1280), "time_ids": torch.empty(2, 6)}
        recorder = Recorder()
        token = TRACER.set(recorder)
        try:
            ours(x, time, text, **told)
        finally:
            TRACER.reset(token)
        with their_calls(theirs, monkeypatch) as calls:
            theirs(x, time, text, added_cond_kwargs=added)
    assert recorder.calls == calls
    assert len(calls) == count
