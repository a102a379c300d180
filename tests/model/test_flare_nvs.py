"""The novel-view network at toy size: what its answer depends on, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flarecli.model.flare_nvs import FlareNvs, FlareNvsOutput
from flarecli.model.gaussian_activation import flare_gaussians
from tests.model.tiny import CONFIG

LANDSCAPE = torch.zeros(2, dtype=torch.bool)


@pytest.fixture
def network() -> FlareNvs:
    torch.manual_seed(1)
    return FlareNvs(replace(CONFIG, appearance_depth=1)).eval()


@pytest.fixture
def rgb() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.rand(1, 2, 3, 64, 128)


def run(
    network: FlareNvs, rgb: torch.Tensor, focal: float = 100.0, portrait: torch.Tensor = LANDSCAPE
) -> FlareNvsOutput:
    K = torch.tensor([[focal, 0.0, 64.0], [0.0, focal, 32.0], [0.0, 0.0, 1.0]]).repeat(1, rgb.shape[1], 1, 1)
    with torch.no_grad():
        return network(rgb, portrait, K)


def test_every_pixel_becomes_a_valid_gaussian(network: FlareNvs, rgb: torch.Tensor) -> None:
    output = run(network, rgb)
    assert output.points.shape == (1, 2, 64, 128, 3)
    assert bool((output.confidence > 1).all())
    gaussians = flare_gaussians(output.gaussians)
    assert gaussians.sh.shape == (1, 2, 64, 128, 25, 3)
    assert bool((gaussians.opacities >= 0).all()) and bool((gaussians.opacities <= 1).all())
    assert bool((gaussians.scales >= 5e-4).all()) and bool((gaussians.scales <= 0.3).all())
    torch.testing.assert_close(gaussians.quats_wxyz.norm(dim=-1), torch.ones(1, 2, 64, 128))


def test_intrinsics_change_the_points_but_not_the_poses(network: FlareNvs, rgb: torch.Tensor) -> None:
    wide, narrow = run(network, rgb, 60.0), run(network, rgb, 600.0)
    assert torch.equal(wide.refined_poses[-1].translation, narrow.refined_poses[-1].translation)
    assert float((wide.points - narrow.points).abs().max()) > 1e-4


def test_portrait_views_differ_from_the_same_pixels_read_as_landscape(network: FlareNvs, rgb: torch.Tensor) -> None:
    upright = run(network, rgb, portrait=torch.ones(2, dtype=torch.bool))
    assert upright.points.shape == (1, 2, 64, 128, 3)
    assert float((upright.points - run(network, rgb).points).abs().max()) > 1e-3


def test_mixed_precision_keeps_the_heads_in_float32(network: FlareNvs, rgb: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(network, rgb)
    for values in (mixed.points, mixed.confidence, mixed.gaussians):
        assert values.dtype == torch.float32
        assert float((values != values.bfloat16().float()).float().mean()) > 0.9


def test_views_that_it_cannot_take_are_refused(network: FlareNvs, rgb: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="two views"):
        run(network, rgb[:, :1], portrait=LANDSCAPE[:1])
    with pytest.raises(ValueError, match="multiples of 64"):
        run(network, rgb[..., :96])
