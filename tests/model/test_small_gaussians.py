"""The Gaussian head of the small network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flarecli.errors import WeightsError
from flarecli.model import config
from flarecli.model.config_small import GAUSSIAN_PART, SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.loading import load_model
from flarecli.model.small_gaussians import activate
from flarecli.scene.gaussians import SH_C0
from flarecli.scene.views import Views


@pytest.fixture(scope="module")
def network() -> FlareSmall:
    torch.manual_seed(0)
    network = FlareSmall(SIZES["tiny"]).eval()
    with torch.no_grad():
        network.gaussian_head.out.weight.mul_(1000)
    return network


def views_of(count: int = 3, size: tuple[int, int] = (32, 32)) -> Views:
    return Views(torch.rand(count, 3, *size), torch.zeros(count, dtype=torch.bool))


def test_every_pixel_gets_a_valid_gaussian(network):
    gaussians = network.predict(views_of(3, (24, 32))).gaussians
    assert gaussians is not None and gaussians.on_rays
    assert gaussians.scales.shape == (3, 24, 32, 3) and gaussians.scales.min() > 0
    assert gaussians.sh.shape == (3, 24, 32, 1, 3)
    assert 0 < gaussians.opacities.min() and gaussians.opacities.max() < 1
    torch.testing.assert_close(gaussians.quats_wxyz.norm(dim=-1), torch.ones(3, 24, 32))
    assert gaussians.scales.std() > 0.01 and gaussians.opacities.std() > 0.01


def test_zeros_stand_for_a_round_gaussian_of_the_pixels_colour():
    rgb = torch.rand(2, 3, 4, 6)
    gaussians = activate(torch.zeros(2, 11, 4, 6), rgb)
    torch.testing.assert_close(0.5 + SH_C0 * gaussians.sh[..., 0, :], rgb.movedim(1, -1))
    assert gaussians.scales.unique().numel() == 1 and gaussians.opacities.unique().numel() == 1
    assert torch.equal(gaussians.quats_wxyz[0, 0, 0], torch.tensor([1.0, 0, 0, 0]))


def test_a_portrait_photo_gets_the_gaussians_of_the_upright_one(network):
    views = views_of()
    plain = network.predict(views).gaussians
    turned = views.rgb.clone()
    turned[1] = views.rgb[1].transpose(1, 2)
    mixed = network.predict(Views(turned, torch.tensor([False, True, False]))).gaussians
    for name in ("scales", "quats_wxyz", "opacities", "sh"):
        ours, theirs = getattr(mixed, name)[1].transpose(0, 1), getattr(plain, name)[1]
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-2)


def test_the_head_changes_nothing_else(network):
    views = views_of()
    without = FlareSmall(replace(SIZES["tiny"], gaussians=False)).eval()
    trunk = {k: v for k, v in network.state_dict().items() if not k.startswith(GAUSSIAN_PART)}
    without.load_state_dict(trunk)
    ours, theirs = network.predict(views), without.predict(views)
    assert theirs.gaussians is None
    for name in ("coarse_c2w", "refined_c2w", "focal", "points_local", "points_global", "descriptors"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_weights_from_before_the_head_load_without_it(network, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(config.MODELS, "flare-small", replace(config.MODELS["flare-small"], config=SIZES["tiny"]))
    state = dict(network.state_dict())
    old = {name: value for name, value in state.items() if not name.startswith(GAUSSIAN_PART)}
    save_file(old, tmp_path / "old.safetensors")
    save_file(state, tmp_path / "new.safetensors")
    assert load_model("flare-small", weights=tmp_path / "old.safetensors").network.predict(views_of()).gaussians is None
    loaded = load_model("flare-small", weights=tmp_path / "new.safetensors").network
    assert loaded.predict(views_of()).gaussians is not None
    state.popitem()
    save_file(state, tmp_path / "torn.safetensors")
    with pytest.raises(WeightsError, match="1 missing: gaussian_head"):
        load_model("flare-small", weights=tmp_path / "torn.safetensors")
