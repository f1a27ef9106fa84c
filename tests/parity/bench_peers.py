"""Speed and peak memory of our UNets beside those of diffusers, eager float32 on a CPU: `make bench-peers`.

Both run the same config on the same input, turn about and each first in every other pair: a slow minute slows both, and
what the first leaves to the second evens out. The median of the ratios of neighbours is printed. Peak memory is what
torch's allocator holds at most during one forward, weights left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from diffusers import __version__
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from minimodels.peers.unet import PEERS

PAIRS = 10
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...], tuple[int, ...], float]] = {
    "Stable Diffusion 1.5, latents of 64": (
        {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8},
        (1, 4, 64, 64),
        (1, 77, 768),
        1.02,
    ),
    "DeepFloyd IF medium, pixels of 64": (
        {
            "in_channels": 3,
            "out_channels": 6,
            "block_out_channels": (192, 384, 576, 768),
            "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
            "layers_per_block": 3,
            "attention_head_dim": 64,
            "cross_attention_dim": 768,
            "encoder_hid_dim": 4096,
            "encoder_hid_dim_type": "text_proj",
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": 64,
            "act_fn": "gelu",
            "time_embedding_act_fn": "gelu",
            "resnet_time_scale_shift": "scale_shift",
            "resnet_skip_time_act": True,
        },
        (1, 3, 64, 64),
        (1, 77, 4096),
        0.95,
    ),
}


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one run."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def turn_about(ours: Callable[[], object], theirs: Callable[[], object]) -> list[tuple[float, float]]:
    """Seconds of ours and theirs, pair by pair, each being first in every other pair."""
    pairs = []
    for index in range(PAIRS):
        if index % 2:
            other, own = seconds(theirs), seconds(ours)
        else:
            own, other = seconds(ours), seconds(theirs)
        pairs.append((own, other))
    return pairs


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that one run allocates at any time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        run()
    assert watched.profiler is not None and watched.profiler.kineto_results is not None
    events: list[Any] = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


def networks(options: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs of the same config with the same drawn weights."""
    theirs = UNet2DConditionModel(**options).eval().requires_grad_(False)
    peer = PEERS["UNet2DConditionModel"]
    part = peer.part(dict(theirs.config))
    with torch.device("meta"):
        ours = peer.build(part)
    state = {peer.rename(name): value for name, value in peer.convert(theirs.state_dict(), part).items()}
    ours.load_state_dict({name: value for name, value in state.items() if name}, assign=True)
    return ours.eval().requires_grad_(False), theirs


def compare(title: str) -> bool:
    """Print the ratios of one case; whether they are as good as asked."""
    options, shape, text, bar = CASES[title]
    ours, theirs = networks(options)
    x, context, timestep = torch.randn(shape), torch.randn(text), torch.tensor([501])

    def run(network: nn.Module) -> Callable[[], Tensor]:
        def forward() -> Tensor:
            out = network(x, timestep, context)
            return out if isinstance(out, Tensor) else out.sample

        return forward

    with torch.inference_mode():
        torch.testing.assert_close(run(ours)(), run(theirs)(), rtol=0, atol=1e-3)  # and both are warm
        pairs = turn_about(run(ours), run(theirs))
        memory = peak_bytes(run(ours)) / peak_bytes(run(theirs))
    ratio = median(own / other for own, other in pairs)
    own, other = (median(times) for times in zip(*pairs, strict=True))
    print(
        f"{title}: {own:.2f} s, diffusers {other:.2f} s; median ratio of {PAIRS} pairs {ratio:.3f} (at most {bar}), "
        f"peak memory ratio {memory:.3f} (at most 1.02); {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"diffusers {__version__}",
        flush=True,
    )
    return ratio <= bar and memory <= 1.02


if __name__ == "__main__":
    results = [compare(title) for title in CASES]
    sys.exit(not all(results))
