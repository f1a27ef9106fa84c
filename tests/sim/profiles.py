"""Two Profiles made by hand, with odd sizes, so that every derived number can be checked on paper.

`image()`: a text-to-image model with 3 stages; its decode loop runs 7 steps, of which 2 are listed (weights
4 and 3), over 2 layers of width 6. `language()`: prefill of 5 tokens and a decode loop of 7 steps, which
with the token of the prefill yields 8.
"""

from __future__ import annotations

from typing import Any

from minimodels.sim.profile import Attention, Memory, Op, Profile, Stage

GPU: dict[str, Any] = {
    "name": "toy", "title": "Toy GPU", "memory_bytes": 4000, "bandwidth": 1e6, "peak_flops": 2e6,
    "provenance": "datasheet",
}  # fmt: skip


def op(stage: str, category: str, name: str, **facts: Any) -> Op:
    """An operator with everything that `facts` does not say made small."""
    defaults: dict[str, Any] = {
        "scope": "", "module": None, "shapes": ((2, 3),), "dtype": "bfloat16", "weight": 1.0, "flops": 0,
        "bytes_read": 10, "bytes_written": 4, "launches": 1, "device_seconds": 1e-3, "host_seconds": 5e-4,
        "gap_seconds": 0.0, "provenance": "datasheet", "bound": "memory", "attention": None,
    }  # fmt: skip
    return Op.model_validate({"stage": stage, "category": category, "name": name} | defaults | facts)


def attended(key_length: int, backend: str = "flash", query_length: int = 1, role: str = "self") -> Attention:
    """The facts of a call of attention with 3 heads of 2."""
    return Attention.model_validate({
        "role": role, "backend": backend, "batch": 2, "query_length": query_length, "key_length": key_length,
        "heads": 3, "kv_heads": 3, "head_dim": 2, "causal": True, "bias": False,
    })  # fmt: skip


def _image_ops() -> tuple[Op, ...]:
    inside = {"module": "attention"}
    text = attended(5, "efficient", 5)
    return (
        op("text_encoder", "Embedding", "aten::embedding", device_seconds=0.5e-3),
        op("text_encoder", "Attention", "aten::bmm", flops=300, attention=text, device_seconds=2e-3,
           bound="tensor", **inside),
        op("text_encoder", "Attention", "aten::_softmax", attention=text, device_seconds=1e-3, bound="exp", **inside),
        # 2 layers x 7 steps of a 6 x 6 projection, 72 bytes of weights
        op("decode", "Linear", "aten::linear", shapes=((2, 1, 6), (6, 6)), weight=14.0, steps=7, flops=144,
           bytes_read=96, bytes_written=24, device_seconds=2e-3, gap_seconds=0.5e-3, **inside),
        op("decode", "Attention", "flash", weight=8.0, steps=7, flops=48, attention=attended(2), **inside),
        # 7 steps of the output layer, 11 x 6, 132 bytes of weights
        op("decode", "Linear", "aten::linear", scope="logits", shapes=((2, 1, 6), (11, 6)), weight=7.0, steps=7,
           flops=264, bytes_read=156, bytes_written=44, device_seconds=3e-3),
        op("decode", "Attention", "flash", weight=6.0, steps=7, flops=120, attention=attended(5), **inside),
        op("detokenize", "Convolution", "aten::convolution", shapes=((1, 3, 5, 5), (2, 3, 3, 3)), flops=2700,
           bytes_read=258, bytes_written=100, device_seconds=4e-3, bound="tensor", module="resblock"),
        op("detokenize", "Norm", "aten::native_group_norm", module="resblock", device_seconds=1.5e-3, launches=2),
    )  # fmt: skip


def on(profile: Profile, **device: Any) -> Profile:
    """`profile` with other facts of its device."""
    return profile.model_copy(update={"device": profile.device.model_copy(update=device)})


def with_ops(profile: Profile, **changes: object) -> Profile:
    """`profile` with every operator changed."""
    return profile.model_copy(update={"ops": tuple(o.model_copy(update=changes) for o in profile.ops)})


def image(source: str = "simulated", **run: Any) -> Profile:
    """A text-to-image model, batch 1; times are 3.5 ms + 70 ms + 5.5 ms."""
    ops = _image_ops()
    calls = (0, 1, 2, 3, 4, 3, 4, 5, 3, 6, 3, 6, 5, 7, 8)
    sizes = (900, 950, 930, 1700, 1710, 1700, 1710, 1750, 1800, 1850, 1800, 1850, 1890, 1400, 1300)
    return Profile.model_validate({
        "source": source,
        "config": {"name": "parti-toy", "family": "parti", "kind": "autoregressive-image"},
        "run": {"batch": 1, "dtype": "bfloat16", "attention": "flash", "mode": "eager", "device": "toy"} | run,
        "environment": {}, "device": GPU,
        "stages": (
            Stage(name="text_encoder", seconds=3.5e-3, wall_seconds=None, launches=3),
            Stage(name="decode", seconds=70e-3, wall_seconds=None, launches=35, steps=7),
            Stage(name="detokenize", seconds=5.5e-3, wall_seconds=None, launches=3),
        ),
        "memory": Memory(weights=800, kv_cache=240, peak=1890, peak_op=5, fits=True,
                         timeline=tuple(enumerate(sizes))),
        "ops": ops, "calls": calls,
    })  # fmt: skip


def language(**changes: Any) -> Profile:
    """A language model, batch 3: prefill in 8 ms, then 7 steps of decode, 3 ms each."""
    ops = (
        op("prefill", "Linear", "aten::linear", shapes=((3, 5, 6), (6, 6)), flops=1080, device_seconds=8e-3,
           bound="tensor"),
        op("decode", "Linear", "aten::linear", shapes=((3, 1, 6), (6, 6)), weight=7.0, steps=7, flops=216,
           bytes_read=108, bytes_written=36, device_seconds=2e-3, gap_seconds=0.5e-3, bound="memory"),
        op("decode", "Other", "aten::topk", weight=7.0, steps=7, flops=None, device_seconds=0.5e-3, bound="launch"),
    )  # fmt: skip
    return Profile.model_validate({
        "source": "simulated",
        "config": {"name": "llama-toy", "family": "llama", "kind": "language-model"},
        "run": {"batch": 3, "dtype": "bfloat16", "attention": "flash", "mode": "graph", "device": "toy",
                "prompt_len": 5, "gen_len": 8},
        "environment": {}, "device": GPU,
        "stages": (
            Stage(name="prefill", seconds=8e-3, wall_seconds=None, launches=1),
            Stage(name="decode", seconds=21e-3, wall_seconds=None, launches=14, steps=7),
        ),
        "memory": Memory(weights=900, kv_cache=90, peak=138_000_000_000, peak_op=1, fits=False,
                         timeline=((0, 1100), (1, 1300), (2, 1200))),
        "ops": ops, "calls": (0, 1, 2),
    } | changes)  # fmt: skip
