"""What only a CUDA device can show: the same answers as on the CPU, and steps of every phase of a training."""

import pytest
import torch
from PIL import Image

from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.loading import load_model
from flarecli.model.shards import AVERAGE, load_shards
from flarecli.scene.views import Views
from flarecli.train.campaign import Campaign, run_phase
from flarecli.train.phases import PHASES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CUDA = torch.device("cuda")


def test_the_shipped_network_says_on_cuda_what_it_says_on_the_cpu():
    network = load_model("flare-small").network
    assert isinstance(network, FlareSmall)
    views = Views(torch.rand(3, 3, 96, 128), torch.tensor([False, True, False]))
    expected = network.predict(views)
    found = network.to(CUDA).predict(views.to(CUDA))
    for name in ("points_local", "points_global", "refined_c2w", "focal", "descriptors"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("compiled", [False, True])
def test_every_phase_trains(phase, compiled, tmp_path):
    (tmp_path / "textures").mkdir()
    for number in range(20):
        Image.effect_noise((32, 32), 20 + 10 * number).convert("RGB").save(tmp_path / "textures" / f"{number}.png")
    campaign = Campaign(
        textures=tmp_path / "textures", output=tmp_path / "out", minutes=5, phase=phase, size="tiny", device="cuda",
        long_side=64, texture_size=32, images=8, held_out=4, max_steps=2, compile=compiled,
    )  # fmt: skip
    report = run_phase(campaign)
    assert report["state"]["step"] == 2 and report["device"] != "cpu"
    first = FlareSmall(SIZES["tiny"]).state_dict()
    assert load_shards(tmp_path / "out" / "weights", AVERAGE).keys() == first.keys()
