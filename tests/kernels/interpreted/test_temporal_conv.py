"""Every tile of the convolution over frames: those of GPUs that small cases do not fill."""

from __future__ import annotations

import pytest
import torch

from minimodels.kernels import temporal_conv
from tests.kernels.all_cases import small


@pytest.mark.parametrize("tile", temporal_conv.LARGEST)
@pytest.mark.parametrize("case", ("odd everything", "features of two steps, several tiles"))
def test_a_tile_convolves_as_the_reference(
    monkeypatch: pytest.MonkeyPatch, case: str, tile: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(temporal_conv, "_tile", lambda *_: tile)
    x, weight, bias, residual, _ = small("minimodels::temporal_conv", case, torch.float32)
    given = x, weight, bias, residual, torch.randn(weight.shape[0])
    _, (launch,) = temporal_conv.plan(*given)
    assert (launch.constants["M"], launch.constants["N"]) == tile[:2]
    torch.testing.assert_close(temporal_conv.temporal_conv(*given), temporal_conv.reference(*given))
