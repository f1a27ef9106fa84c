"""What comes out of every small architecture: of the shape its config asks for, and finite."""

from __future__ import annotations

import pytest
import torch

from minimodels.loader import load, names
from minimodels.pipelines import example_input, generate
from minimodels.run import build

SHAPES = {  # of one sample, worked out from the config files by hand
    "amused-tiny": (3, 24, 24),  # run.image_size
    "animatediff-tiny": (3, 5, 24, 24),  # run.frames, run.image_size
    "dit-tiny": (3, 12, 12),
    "flux-tiny": (3, 12, 12),
    "imagen-tiny": (3, 48, 48),
    "llama-tiny": (18,),  # 7 of the prompt and 11 generated
    "make-a-video-tiny": (3, 5, 36, 36),  # of 3 frames, one put between each two
    "modelscope-tiny": (3, 5, 24, 24),
    "muse-tiny": (3, 12, 12),  # 6 x 6 tokens, doubled by the decoder
    "parti-tiny": (3, 80, 80),  # 5 x 5 tokens of 4 pixels, doubled twice
    "phenaki-tiny": (3, 5, 15, 15),  # 5 x 5 patches of 3 pixels
    "prod-image-tiny": (3, 24, 24),
    "sdxl-tiny": (3, 24, 24),
    "stable-diffusion-tiny": (3, 24, 24),
    "wan-tiny": (3, 5, 24, 40),
}


def test_every_small_architecture_is_here() -> None:
    assert set(SHAPES) == {name for name in names() if name.endswith("-tiny")}


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_generated_has_its_shape_and_is_finite(name: str, dtype: torch.dtype) -> None:
    config = load(name)
    out = generate(config, build(config, dtype=dtype, seed=1), example_input(config, 2, "cpu", seed=2))
    assert tuple(out.shape) == (2, *SHAPES[name])
    assert out.dtype == (torch.int64 if name == "llama-tiny" else dtype)
    assert out.isfinite().all() and out.float().std() > 0
