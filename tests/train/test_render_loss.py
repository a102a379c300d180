"""The rendering loss: where Gaussians are put in training, and what learns from it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from flarecli.errors import InputError
from flarecli.model.config_small import GAUSSIAN_PART, SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.small_gaussians import activate
from flarecli.model.small_output import PointMaps
from flarecli.train.checkpoint import load_shards, save_shards
from flarecli.train.config import Phase, TrainConfig
from flarecli.train.data import ShardPlan, ShardSource, prerender, vary
from flarecli.train.evaluate_rendering import evaluate_rendering
from flarecli.train.gaussian_depth import KINDS, place_depth
from flarecli.train.generator import Batch
from flarecli.train.loop import run
from flarecli.train.losses import LossWeights
from flarecli.train.primitives import Draw
from flarecli.train.render_loss import halved, in_unit, rendering_losses, scene_splats, show_view
from flarecli.train.targets import make_targets


@pytest.fixture(scope="module")
def shards(tmp_path_factory, textures):
    folder = tmp_path_factory.mktemp("rendering")
    prerender(textures, folder, ShardPlan(1, 2, ((48, 64),), seed=4))
    return folder


@pytest.fixture
def batch(shards) -> Batch:
    draw = Draw.seeded(1)
    return vary(ShardSource.open(shards).next(draw, 2, 4), draw)


def settings(folder, shards, **changes) -> TrainConfig:
    phase = Phase(share=1.0, shards=str(shards), images=4, views=(2,), train_only="gaussians", targets=1)
    values = {"size": "tiny", "device": "cpu", "warmup": 1, "log_every": 1, "decay": 0.0, "lr": 5e-3, "ema": 0.5}
    return TrainConfig(output=str(folder), minutes=30, phases=(phase,), **(values | changes))


def checks(world: torch.Tensor) -> torch.Tensor:
    """Colours (V, 3, H, W) that belong to the points of a scene, whatever view sees them."""
    waves = (world / world.flatten(0, 2).std(0) * 2).sin()
    return (0.5 + 0.4 * waves).permute(0, 3, 1, 2)


def untrained() -> FlareSmall:
    torch.manual_seed(0)
    return FlareSmall(SIZES["tiny"]).eval()


def test_gaussians_on_exact_depth_show_the_photo_that_they_come_from(batch):
    """Portrait and landscape: rays, cameras and renderer agree."""
    batch = in_unit(replace(batch, rgb=torch.stack([checks(each) for each in make_targets(batch).world])))
    truth = make_targets(batch)
    with torch.no_grad():
        out = untrained()(batch.rgb, batch.portrait, with_gaussians=True)
    out = replace(
        out,
        gaussians=activate(torch.full((*batch.rgb.shape[:2], 11, *batch.rgb.shape[3:]), 0.0), batch.rgb),
        local=PointMaps(truth.local, torch.full_like(batch.depth, 2.0)),
    )
    assert out.gaussians is not None
    for scene, splats in enumerate(scene_splats(out, batch, torch.zeros(2, dtype=torch.long), Draw.seeded(0))):
        for view in range(4):
            shown, rgb, depth = show_view(splats, batch, scene, view)
            solid = depth > 0
            assert shown.color.shape[1:] == rgb.shape
            assert (shown.color[0] - rgb)[solid].abs().mean() < 0.3 * (rgb[solid] - rgb[solid].mean(0)).abs().mean()
            assert ((shown.depth[0] - depth).abs() / depth.clamp_min(1e-6))[solid].median() < 0.06


def test_depth_is_exact_the_networks_or_a_mixture():
    truth = torch.linspace(2, 4, 64).repeat(3, 2, 48, 1)
    truth[..., :4] = 0  # sky
    predicted = 0.1 * torch.full_like(truth, 3.0)
    placed = place_depth(truth, predicted, torch.rand(3, 2, 3, 48, 64), torch.arange(3), Draw.seeded(0))
    exact, network, mixed = placed.depth
    assert torch.equal(exact, truth[0])
    assert network.unique().numel() == 1 and float(network[0, 0, 0]) == pytest.approx(3.0, rel=0.05)
    measured = ~placed.unmeasured[2]
    assert not placed.unmeasured[:2].any() and 0.2 < measured.float().mean() < 0.95
    assert not measured[..., :4].any() and (mixed[..., :4] > 0).all()
    error = (mixed / truth[2] - 1).abs()
    assert error[measured].median() < 0.01
    # The network's depth is drawn to the measured depth around it.
    hidden = ~measured & (truth[2] > 0)
    assert error[hidden].mean() < 0.5 * (network / truth[2] - 1).abs()[hidden].mean()
    assert KINDS[2] == "measured"


def test_only_the_head_learns_from_rendering(batch):
    network = untrained().train()
    out = network(batch.rgb[:, :2], batch.portrait[:, :2], with_gaussians=True)
    terms = rendering_losses(out, batch, LossWeights(), Draw.seeded(0))
    assert set(terms) == {"render", "render_detail", "render_depth"}
    torch.stack(list(terms.values())).sum().backward()
    learning = {name for name, param in network.named_parameters() if param.grad is not None and param.grad.any()}
    assert learning and all(name.startswith(GAUSSIAN_PART) for name in learning)
    assert {f"{GAUSSIAN_PART}out.weight", f"{GAUSSIAN_PART}maps.tokens.fc1.weight"} <= learning


def test_another_perceptual_distance_takes_the_place_of_ssim(batch):
    out = untrained()(batch.rgb[:, :2], batch.portrait[:, :2], with_gaussians=True)
    terms = rendering_losses(
        out, batch, LossWeights(render_detail=2.0), Draw.seeded(0), lambda a, b: (a - b).abs().mean() * 0 + 3
    )
    assert float(terms["render_detail"].detach()) == pytest.approx(6.0)


def test_gaussians_of_half_the_size_fill_pictures_of_the_whole(batch):
    network, batch = untrained(), in_unit(batch)
    with torch.no_grad():
        small = network(halved(batch, 4), batch.portrait, with_gaussians=True)
    assert small.gaussians is not None and small.gaussians.opacities.shape == (2, 4, 24, 32)
    splats = scene_splats(small, batch, torch.zeros(2, dtype=torch.long), Draw.seeded(0))[0]
    shown, _, depth = show_view(splats, batch, 0, 0)
    assert (shown.alpha[0] > 0.5)[depth > 0].float().mean() > 0.9


def test_the_head_learns_a_scene_by_heart(batch):
    network = untrained().requires_grad_(False)
    network.gaussian_head.requires_grad_(True)
    optimizer = torch.optim.Adam(network.gaussian_head.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        out = network(batch.rgb[:, :2], batch.portrait[:, :2], with_gaussians=True)
        loss = torch.stack(list(rendering_losses(out, batch, LossWeights(), Draw.seeded(2)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.85 * losses[0]


def test_a_phase_for_the_head_leaves_the_trunk_bit_by_bit(shards, tmp_path):
    torch.manual_seed(0)
    start = FlareSmall(SIZES["tiny"])
    start.baseline.bias.data.fill_(-0.0)  # equal to 0, but not the same bytes
    trunk = {name: value for name, value in start.state_dict().items() if not name.startswith(GAUSSIAN_PART)}
    (tmp_path / "old").mkdir()
    save_shards(trunk, tmp_path / "old", "ema")  # weights from before the head
    run(settings(tmp_path / "run", shards, start=str(tmp_path / "old"), max_steps=2, seed=1))
    checkpoint = run(settings(tmp_path / "run", shards, max_steps=4, seed=1))  # goes on with the head
    before = load_shards(tmp_path / "old", "ema")
    for kind in ("ema", "model"):
        after = load_shards(checkpoint, kind)
        assert all(before[name].numpy().tobytes() == after[name].numpy().tobytes() for name in before)
        assert set(after) - set(before) == {n for n in start.state_dict() if n.startswith(GAUSSIAN_PART)}
    head = load_shards(checkpoint, "model")
    assert any(not torch.equal(head[name], start.state_dict()[name].half().float()) for name in set(head) - set(before))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sorted({row["step"] for row in rows}) == [1, 2, 3, 4]
    assert all(row["render"] > 0 and "pose_coarse" not in row for row in rows)


def test_rendering_of_held_out_views_is_measured(shards):
    network = FlareSmall(SIZES["tiny"])
    found = evaluate_rendering(network, ShardSource.open(shards), 1, 3, torch.device("cpu"))
    assert set(found) == {f"{what}_{kind}" for what in ("psnr", "ssim") for kind in KINDS}
    assert 3 < found["psnr_exact"] < 60 and network.training


def test_unknown_parts_and_targets_without_rendering_are_refused():
    with pytest.raises(InputError, match="train_only"):
        Phase(share=1.0, train_only="trunk")
    with pytest.raises(InputError, match="targets"):
        Phase(share=1.0, targets=1)
