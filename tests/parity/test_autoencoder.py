"""The KL autoencoder, read from a directory of diffusers, equals diffusers' own in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minimodels.autoencoder import KlAutoencoder
from minimodels.diffusion_config import LatentDiffusion
from minimodels.loader import load
from minimodels.peers.autoencoder import PEERS
from minimodels.run import parameters
from minimodels.weights import from_pretrained
from tests.parity.peers import assert_close, randomise, reread, without_count

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity
PARAMETERS = 83_653_863  # of Stable Diffusion's autoencoder, encoder and all: the released checkpoint

FORMS: dict[str, dict[str, Any]] = {
    "4 latent channels": {"latent_channels": 4, "scaling_factor": 0.5},
    "16 latent channels, no quant convolutions": {
        "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 1.5,
        "shift_factor": 0.3,
    },
    "no attention, two blocks": {"layers_per_block": 2, "mid_block_add_attention": False, "scaling_factor": 0.9},
    "one level": {"block_out_channels": (20,), "layers_per_block": 3, "scaling_factor": 0.7},
}  # fmt: skip


def make_theirs(form: dict[str, Any]) -> Any:
    sizes = {"block_out_channels": (8, 12, 24), "layers_per_block": 1, "norm_num_groups": 4} | form
    levels = len(sizes["block_out_channels"])
    down, up = ("DownEncoderBlock2D",) * levels, ("UpDecoderBlock2D",) * levels
    return randomise(diffusers.AutoencoderKL(down_block_types=down, up_block_types=up, **sizes))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_moments_latents_and_pixels_equal_those_of_diffusers(
    form: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    theirs = make_theirs(form).to(dtype)
    ours, config = reread(theirs, tmp_path), theirs.config
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 12, 20, generator=generator).to(dtype)
    with torch.inference_mode():
        expected, (mean, log_variance) = theirs.encode(x).latent_dist, ours.moments(x)
        assert_close(mean, expected.mean)
        assert_close(log_variance, expected.logvar)
        shift, scale = config.shift_factor or 0, config.scaling_factor
        z = ours.encode(x)
        assert_close(z, (expected.mean - shift) * scale)
        assert_close(ours.decode(z), theirs.decode(z / scale + shift).sample)
        assert_close(ours(x), theirs.decode(expected.mean).sample)


def test_an_autoencoder_with_the_old_names_of_attention_is_the_same(tmp_path: Path) -> None:
    """As Stable Diffusion's own files are: query, key, value, proj_attn."""
    ours = reread(make_theirs({}), tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        state = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): value for name, value in state.items()}
    assert any(".query." in name for name in state)
    save_file(state, path)
    again = from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("name", ["stable-diffusion-1.5", "sdxl"])
def test_the_published_autoencoder_of_diffusers_is_our_config_of_its_decoder(name: str) -> None:
    config = load(name)
    assert isinstance(config, LatentDiffusion)
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, scaling_factor=config.decoder.latent_scale,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        part = PEERS["AutoencoderKL"].part(dict(theirs.config))
        assert part == without_count(config.decoder)
        assert parameters(KlAutoencoder(config.decoder)) == parameters(theirs) == PARAMETERS


@pytest.mark.parametrize(
    ("setting", "value"),
    [("in_channels", 4), ("act_fn", "gelu"), ("latents_mean", [0.1] * 4), ("down_block_types", ["AttnDownEncoderBlock2D"]),
     ("use_post_quant_conv", False), ("norm_num_groups", -4), ("scaling_factor", 0), ("latent_channels", "4")],
)  # fmt: skip
def test_a_setting_that_our_autoencoder_lacks_is_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        PEERS["AutoencoderKL"].part({setting: value})
