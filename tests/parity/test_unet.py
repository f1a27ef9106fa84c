"""The UNet of Stable Diffusion and its KL decoder equal diffusers' with the same random weights."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minimodels.autoencoder import KlDecoder
from minimodels.diffusion_config import KlDecoder as KlDecoderConfig
from minimodels.diffusion_config import UNet as UNetConfig
from minimodels.unet import UNet
from tests.parity.peers import assert_close, randomise

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

RENAMED = (
    (r"^text\.", "encoder_hid_proj."),
    (r"^pooling\.norm_in", "add_embedding.norm1"),
    (r"^pooling\.norm_out", "add_embedding.norm2"),
    (r"^pooling\.position", "add_embedding.pool.positional_embedding"),
    (r"^pooling\.to_(q|k|v)", r"add_embedding.pool.\1_proj"),
    (r"^pooling\.project", "add_embedding.proj"),
    (r"\.text_(k|v)\.", r".add_\1_proj."),
    (r"\.attention\.to_", ".to_"),
    (r"^time\.0", "time_embedding.linear_1"),
    (r"^time\.2", "time_embedding.linear_2"),
    (r"^enter\.", "conv_in."),
    (r"^leave\.", "conv_out."),
    (r"^norm\.", "conv_norm_out."),
    (r"^middle_in", "mid_block.resnets.0"),
    (r"^middle_out", "mid_block.resnets.1"),
    (r"^middle_attention", "mid_block.attentions.0"),
    (r"^(down|up)\.(\d)", r"\1_blocks.\2"),
    (r"res_blocks", "resnets"),
    (r"down_blocks\.(\d)\.resample", r"down_blocks.\1.downsamplers.0"),
    (r"up_blocks\.(\d)\.resample", r"up_blocks.\1.upsamplers.0"),
    (r"\.blocks\.", ".transformer_blocks."),
    (r"\.norm_in\.", ".norm1."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.from_time\.", ".time_emb_proj."),
    (r"\.norm_out\.", ".norm2."),
    (r"\.conv_out\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"\.enter\.", ".proj_in."),
    (r"\.leave\.", ".proj_out."),
    (r"\.self_norm\.", ".norm1."),
    (r"\.cross_norm\.", ".norm2."),
    (r"\.ff_norm\.", ".norm3."),
    (r"\.self_attention\.", ".attn1."),
    (r"\.cross_attention\.", ".attn2."),
    (r"\.to_out\.", ".to_out.0."),
    (r"feed_forward\.up", "ff.net.0.proj"),
    (r"feed_forward\.down", "ff.net.2"),
)


class ExactPooling(nn.Module):
    """diffusers' pooling of text with the softmax in the dtype of its input, which theirs takes in float32."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        pool, heads = self.pool, self.pool.num_heads
        mean = x.mean(dim=1, keepdim=True) + pool.positional_embedding
        x = torch.cat([mean, x], dim=1)
        q, k, v = (
            to(y).unflatten(-1, (heads, -1)).transpose(1, 2)
            for to, y in ((pool.q_proj, mean), (pool.k_proj, x), (pool.v_proj, x))
        )
        weight = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        return (weight @ v).transpose(1, 2).flatten(1)


def their_name(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("projection", ["conv", "linear"])
def test_unet_equals_that_of_diffusers(projection: str, dtype: torch.dtype) -> None:
    attention = {"kind": "transformer", "depth": 1, "num_heads": 3}
    config = UNetConfig.model_validate({
        "kind": "unet", "in_channels": 4, "out_channels": 4, "time_dim": 96, "context_dim": 22, "activation": "silu",
        "scale_shift": False, "resample": "conv", "projection": projection, "norm_groups": 4, "norm_eps": 1e-5,
        "levels": [{"channels": 24, "res_blocks": 2, "attention": attention}, {"channels": 48, "res_blocks": 2}],
        "middle": attention,
    })  # fmt: skip
    ours = randomise(UNet(config)).to(dtype).eval()
    theirs = diffusers.UNet2DConditionModel(
        block_out_channels=(24, 48),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=3,
        cross_attention_dim=22,
        layers_per_block=2,
        norm_num_groups=4,
        use_linear_projection=projection == "linear",
    )
    theirs = theirs.to(dtype).eval()
    theirs.load_state_dict({their_name(name): value for name, value in ours.state_dict().items()})
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, 6, 10, generator=generator).to(dtype)
    context, timestep = torch.randn(2, 7, 22, generator=generator).to(dtype), torch.tensor([3, 901])
    with torch.inference_mode():
        assert_close(ours(x, timestep, context), theirs(x, timestep, context).sample)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_unet_with_appended_text_equals_that_of_deepfloyd_if(dtype: torch.dtype) -> None:
    """Imagen's form: text among the keys, pooled text, scale and shift, resampling inside residual blocks."""
    config = UNetConfig.model_validate({
        "kind": "unet", "in_channels": 3, "out_channels": 6, "time_dim": 40, "context_dim": 48, "text_dim": 20,
        "pooling": {"num_heads": 5}, "activation": "gelu", "scale_shift": True, "resample": "res_block",
        "projection": "linear", "norm_groups": 4, "norm_eps": 1e-5,
        "levels": [
            {"channels": 24, "res_blocks": 2},
            {"channels": 48, "res_blocks": 2, "attention": {"kind": "appended", "num_heads": 6}},
        ],
        "middle": {"kind": "appended", "num_heads": 6},
    })  # fmt: skip
    ours = randomise(UNet(config)).to(dtype)
    theirs = diffusers.UNet2DConditionModel(
        in_channels=3,
        out_channels=6,
        block_out_channels=(24, 48),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=48,
        encoder_hid_dim=20,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=5,
        norm_num_groups=4,
        act_fn="gelu",
        time_embedding_dim=40,
        time_embedding_act_fn="gelu",
        resnet_time_scale_shift="scale_shift",
        resnet_skip_time_act=True,
    )
    theirs = theirs.to(dtype).eval()
    state = {their_name(name): value for name, value in ours.state_dict().items()}
    state = {re.sub(r"(attentions\.\d)\.norm\.", r"\1.group_norm.", name): value for name, value in state.items()}
    theirs.load_state_dict(state)
    if dtype == torch.float64:
        theirs.add_embedding.pool = ExactPooling(theirs.add_embedding.pool)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 6, 10, generator=generator).to(dtype)
    text, timestep = torch.randn(2, 7, 20, generator=generator).to(dtype), torch.tensor([3, 901])
    with torch.inference_mode():
        assert_close(ours(x, timestep, text), theirs(x, timestep, text).sample)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_decoder_equals_that_of_diffusers(dtype: torch.dtype) -> None:
    config = KlDecoderConfig(
        kind="kl-decoder", latent_channels=4, channels=[24, 12], res_blocks=2, norm_groups=4, norm_eps=1e-6, latent_scale=0.5
    )  # fmt: skip
    ours = randomise(KlDecoder(config)).to(dtype).eval()
    theirs = diffusers.AutoencoderKL(
        block_out_channels=(12, 24),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    theirs = theirs.to(dtype).eval()
    mine, names = list(ours.state_dict().items()), {}
    layers = {"0": "up_blocks.0.resnets.0", "1": "up_blocks.0.resnets.1", "2": "up_blocks.0.upsamplers.0"}
    layers |= {"3": "up_blocks.1.resnets.0", "4": "up_blocks.1.resnets.1"}
    middle = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}
    for name, _ in mine:
        new = re.sub(r"^up\.(\d)", lambda m: layers[m[1]], re.sub(r"^middle\.(\d)", lambda m: middle[m[1]], name))
        new = new.replace("attentions.0.norm.", "attentions.0.group_norm.").replace("0.attention.", "0.")
        names[name] = "post_quant_conv" + name[9:] if name.startswith("from_code") else f"decoder.{their_name(new)}"
    missing, unexpected = theirs.load_state_dict({names[name]: value for name, value in mine}, strict=False)
    assert not unexpected
    assert all(name.startswith(("encoder.", "quant_conv.")) for name in missing), "the decoder is whole"
    z = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(3)).to(dtype)
    with torch.inference_mode():
        assert_close(ours(z), theirs.decode(z / 0.5).sample)
