"""Layers over frames: what they mix, how they start, how a walk labels them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from minimodels.blocks import Attention, Computed, Heads
from minimodels.diffusion_config import CascadedVideo, LatentDiffusion, LatentVideo
from minimodels.loader import load
from minimodels.pipelines import example_input, generate
from minimodels.run import Run, build
from minimodels.sim.profile import Profile
from minimodels.sim.simulate import simulate
from minimodels.unet import UNet
from minimodels.unet_config import TextToVideo
from minimodels.unet_config import UNet as UNetConfig
from minimodels.video import TemporalAttention, TemporalBlock, TemporalConv, TemporalConvs, TemporalTransformer

BATCH, FRAMES, PIXELS, WIDTH = 2, 5, 6, 12
HEADS = Heads(3, 3, 4)
TEXT_TO_VIDEO: dict[str, Any] = {
    "kind": "text-to-video", "convs": 3, "kernel": 5, "depth": 1, "stem_num_heads": 2, "stem_head_dim": 5,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "pseudo-3d": {"kind": "pseudo-3d", "conv": True, "attention": True, "kernel": 3},
    "text-to-video": TEXT_TO_VIDEO,
    "motion": {"kind": "motion", "num_heads": 2, "depth": 2, "middle_depth": 1, "max_frames": 7},
}


def drawn(module: nn.Module) -> Any:
    """The module in float64 with every parameter drawn."""
    generator = torch.Generator().manual_seed(5)
    for parameter in module.double().requires_grad_(False).parameters():
        parameter.normal_(std=0.3, generator=generator)
    for child in module.modules():
        if isinstance(child, Computed):
            child.fill()
    return module


def normal(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OVER_PIXELS = {
    "attention": lambda: TemporalAttention(WIDTH, HEADS, 3, 1e-5),
    "transformer": lambda: TemporalTransformer(WIDTH, HEADS, 2, 3),
    "motion module": lambda: TemporalTransformer(WIDTH, HEADS, 2, 3, max_frames=7),
    "convolution": lambda: TemporalConv(WIDTH, 3),
    "convolutions": lambda: TemporalConvs(WIDTH, 3, TextToVideo.model_validate(TEXT_TO_VIDEO)),
}


@pytest.mark.parametrize("make", OVER_PIXELS.values(), ids=OVER_PIXELS.keys())
def test_permuting_pixels_permutes_what_a_layer_over_frames_gives(make: Any) -> None:
    layer, x = drawn(make()), normal(BATCH * FRAMES, WIDTH, 2, 3)
    order = torch.tensor([4, 2, 0, 5, 1, 3])

    def permuted(y: Tensor) -> Tensor:
        return rearrange(rearrange(y, "b c h w -> b c (h w)")[..., order], "b c (h w) -> b c h w", h=2)

    # float64: some roundings, in another order, of values of order one
    torch.testing.assert_close(layer(permuted(x), FRAMES), permuted(layer(x, FRAMES)), rtol=0, atol=1e-12)
    assert not torch.allclose(permuted(x), x)


OVER_TOKENS = {
    "attention": lambda: Attention(WIDTH, WIDTH, HEADS, "temporal", bias="all"),
    "block": lambda: TemporalBlock(WIDTH, HEADS, None),
    "block with positions": lambda: TemporalBlock(WIDTH, HEADS, 7),
}


@pytest.mark.parametrize("make", OVER_TOKENS.values(), ids=OVER_TOKENS.keys())
def test_a_changed_frame_changes_the_others_at_its_own_place_alone(make: Any) -> None:
    layer, x = drawn(make()), normal(BATCH, FRAMES, PIXELS, WIDTH)
    other = x.clone()
    other[0, 2, 4] = normal(WIDTH, seed=7)
    changed = (layer(other) - layer(x)).abs().amax(-1)
    assert changed[0, :, 4].min() > 1e-6, "every frame of that place"
    changed[0, :, 4] = 0
    assert changed.max() == 0, "nothing else"


@pytest.mark.parametrize(("max_frames", "told"), [(None, False), (7, True)])
def test_frames_have_an_order_where_there_are_positions(max_frames: int | None, told: bool) -> None:
    layer, x = drawn(TemporalTransformer(WIDTH, HEADS, 1, 3, max_frames)), normal(FRAMES, WIDTH, 2, 3)
    order = torch.tensor([3, 0, 4, 1, 2])
    same = torch.allclose(layer(x[order], FRAMES), layer(x, FRAMES)[order], rtol=0, atol=1e-12)
    assert same != told


def test_more_frames_than_positions_are_refused() -> None:
    layer = drawn(TemporalTransformer(WIDTH, HEADS, 1, 3, max_frames=4))
    with pytest.raises(ValueError, match="5 frames exceed the 4"):
        layer(normal(FRAMES, WIDTH, 2, 3), FRAMES)


def config(temporal: dict[str, Any] | None) -> UNetConfig:
    attention = {"kind": "transformer", "depth": 1, "num_heads": 3}
    return UNetConfig.model_validate({
        "kind": "unet", "in_channels": 4, "out_channels": 3, "time_dim": 20, "context_dim": 9, "activation": "silu",
        "scale_shift": True, "resample": "res_block", "projection": "linear", "norm_groups": 4, "norm_eps": 1e-5,
        "levels": [
            {"channels": 12, "res_blocks": 1},
            {"channels": 24, "res_blocks": 2, "attention": attention},
            {"channels": 36, "res_blocks": 1},
        ],
        "middle": attention, "temporal": temporal,
    })  # fmt: skip


def start(network: nn.Module) -> None:
    """Set layers over frames as they start to learn: a convolution the identity, what is added to x zero."""
    for module in network.modules():
        if isinstance(module, TemporalConv):
            nn.init.dirac_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        last = {TemporalAttention: "attention.to_out", TemporalTransformer: "leave", TemporalConvs: "convs.2"}
        if type(module) in last:
            for parameter in module.get_submodule(last[type(module)]).parameters():
                parameter.zero_()


@pytest.mark.parametrize("frames", [1, FRAMES])
@pytest.mark.parametrize("temporal", KINDS.values(), ids=KINDS.keys())
def test_a_video_network_starts_as_the_image_network_on_every_frame(temporal: dict[str, Any], frames: int) -> None:
    image, video = drawn(UNet(config(None))), drawn(UNet(config(temporal)))
    unmatched = video.load_state_dict(image.state_dict(), strict=False)
    assert unmatched.missing_keys and not unmatched.unexpected_keys
    x, t, context = normal(BATCH, 4, frames, 8, 12), torch.tensor([3, 901]), normal(BATCH, 7, 9)
    each = torch.stack([image(x[:, :, frame], t, context) for frame in range(frames)], dim=2)
    assert not torch.allclose(video(x, t, context), each), "drawn layers over frames do something"
    start(video)
    # float64: the same sums, of convolutions over another batch
    torch.testing.assert_close(video(x, t, context), each, rtol=0, atol=1e-11)


@pytest.mark.parametrize("temporal", KINDS.values(), ids=KINDS.keys())
def test_samples_of_a_batch_do_not_meet(temporal: dict[str, Any]) -> None:
    network = drawn(UNet(config(temporal)))
    x, t, context = normal(BATCH, 4, FRAMES, 8, 12), torch.tensor([3, 901]), normal(BATCH, 7, 9)
    together = network(x, t, context)
    for sample in range(BATCH):
        alone = network(x[sample, None], t[sample, None], context[sample, None])
        # float64: the same sums, of another batch
        torch.testing.assert_close(alone[0], together[sample], rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "levels.0.channels 12 is not divisible by temporal.num_heads 5"),
        ({"kind": "pseudo-4d"}, "pseudo-4d"),
        ({"max_frames": 0}, "max_frames"),
    ],
)
def test_an_impossible_motion_network_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(KINDS["motion"] | changes)


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("animatediff-tiny", "run.frames=8", "run.frames 8 exceed unet.temporal.max_frames 7"),
        ("stable-diffusion-tiny", "kind=latent-video", "run.frames is missing"),
        ("modelscope-tiny", "kind=latent-diffusion", "unknown key 'frames' in run"),
    ],
)
def test_an_impossible_video_model_is_refused(name: str, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(name, [override])


def test_temporal_and_the_kind_of_model_go_together() -> None:
    image, video = (load(f"{name}-tiny").model_dump() for name in ("stable-diffusion", "modelscope"))
    temporal = video["unet"].pop("temporal")
    with pytest.raises(ValueError, match="unet has no section temporal"):
        LatentVideo.model_validate(video)
    image["unet"]["temporal"] = temporal
    with pytest.raises(ValueError, match="needs kind 'latent-video'"):
        LatentDiffusion.model_validate(image)


@pytest.mark.parametrize("name", ["animatediff-tiny", "make-a-video-tiny", "modelscope-tiny"])
def test_a_video_has_the_frames_it_is_asked_for(name: str) -> None:
    model = load(name, lengths={"frames": 3})
    frames = 5 if name == "make-a-video-tiny" else 3  # that one puts a frame between each two
    assert isinstance(model, CascadedVideo | LatentVideo)
    video = generate(model, build(model), example_input(model, 2, "cpu"))
    assert video.shape == (2, 3, frames, model.run.image_size, model.run.image_size) and video.isfinite().all()


def attentions(found: Profile) -> dict[str, set[tuple[str, int, int]]]:
    """By stage: role, query and key length in tokens of every attention."""
    stages: dict[str, set[tuple[str, int, int]]] = {}
    for op in found.ops:
        if op.attention is not None:
            call = op.attention
            stages.setdefault(op.stage, set()).add((call.role, call.query_length, call.key_length))
    return stages


def test_a_walk_tells_attention_over_pixels_from_attention_over_frames() -> None:
    """Make-A-Video: text is among the keys of attention over pixels, which is why there is no cross-attention."""
    told = attentions(simulate(load("make-a-video-tiny"), Run()))
    pixels, keys = 3 * 3, 3 * 3 + 3  # a side of 6, halved; three tokens of the image embedding
    assert told.pop("decoder") == {("spatial", pixels, keys), ("temporal", 3, 3)}
    assert told.pop("interpolation") == {("spatial", pixels, keys), ("temporal", 5, 5)}
    assert {role for calls in told.values() for role, _, _ in calls} == {"self"}, "text encoder and prior: no video"
    assert told.keys() == {"text_encoder", "prior"}


@pytest.mark.parametrize("name", ["animatediff-tiny", "modelscope-tiny"])
def test_a_walk_tells_text_apart_where_it_has_attention_of_its_own(name: str) -> None:
    told = attentions(simulate(load(name), Run()))
    sides = {12 * 12, 6 * 6}  # latents of 24 px, and half of them in the middle
    spatial = {("spatial", n, n) for n in sides}
    assert told["denoise"] == spatial | {("cross", n, 7) for n in sides} | {("temporal", 5, 5)}
