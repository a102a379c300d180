import math
from dataclasses import replace

import pytest
import torch

from flarecli.geometry.quaternions import multiply_quaternions
from flarecli.model.config_small import SIZES, FlareSmallConfig
from flarecli.model.flare_small import FlareSmall
from flarecli.model.layers import EncBlock
from flarecli.model.small_grid import Sides
from flarecli.model.small_parts import MatchPrior, position_features, upright
from flarecli.model.small_pose import pose_matrices, rotations
from flarecli.scene.views import Views


@pytest.fixture(scope="module")
def network() -> FlareSmall:
    torch.manual_seed(0)
    network = FlareSmall(SIZES["tiny"]).eval()
    with torch.no_grad():  # make the small initial heads speak up
        for head in (network.pose1, network.pose2):
            head.out.weight.mul_(30)
        network.baseline.weight.normal_()
    return network


@pytest.mark.parametrize("views", [2, 3, 8])
@pytest.mark.parametrize("size", [(24, 32), (32, 32), (16, 40)])
def test_prediction_has_the_promised_shapes_for_any_grid_and_number_of_views(network, views, size):
    prediction = network.predict(Views(torch.rand(views, 3, *size), torch.arange(views) % 2 == 1))
    height, width = size
    assert prediction.points_local.shape == prediction.points_global.shape == (views, height, width, 3)
    assert prediction.confidence_local.shape == (views, height, width)
    assert prediction.confidence_local.min() > 1
    assert prediction.confidence_global.min() > 1
    assert prediction.descriptors.shape == (views, 32, height // 2, width // 2)
    torch.testing.assert_close(prediction.descriptors.norm(dim=1), torch.ones(views, height // 2, width // 2))
    assert prediction.focal.shape == (views,)
    assert prediction.focal.min() > 0
    for poses in (prediction.coarse_c2w, prediction.refined_c2w):
        torch.testing.assert_close(poses[0], torch.eye(4))
        torch.testing.assert_close(torch.linalg.det(poses[:, :3, :3]), torch.ones(views))
    assert prediction.points_local[..., 2].min() > 0


def test_portrait_views_are_processed_upright(network):
    """A square photo stored transposed and marked portrait is the same photo: everything else must agree."""
    rgb = torch.rand(3, 3, 32, 32)
    plain = network.predict(Views(rgb, torch.zeros(3, dtype=torch.bool)))
    turned = rgb.clone()
    turned[1] = rgb[1].transpose(1, 2)
    mixed = network.predict(Views(turned, torch.tensor([False, True, False])))
    for name in ("coarse_c2w", "refined_c2w", "focal"):
        torch.testing.assert_close(getattr(mixed, name), getattr(plain, name), atol=2e-4, rtol=1e-3)
    for name in ("points_local", "points_global", "confidence_local"):
        a, b = getattr(mixed, name), getattr(plain, name)
        torch.testing.assert_close(a[[0, 2]], b[[0, 2]], atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(a[1].transpose(0, 1), b[1], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(mixed.descriptors[1].transpose(1, 2), plain.descriptors[1], atol=2e-4, rtol=1e-3)


def test_order_of_source_views_does_not_matter(network):
    rgb = torch.rand(4, 3, 24, 32)
    flags = torch.tensor([False, True, False, False])
    order = [0, 3, 1, 2]
    direct = network.predict(Views(rgb, flags))
    moved = network.predict(Views(rgb[order], flags[order]))
    torch.testing.assert_close(moved.refined_c2w, direct.refined_c2w[order], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(moved.points_global, direct.points_global[order], atol=5e-4, rtol=1e-3)


def test_scenes_of_a_batch_do_not_see_each_other(network):
    rgb, portrait = torch.rand(2, 2, 3, 24, 32), torch.tensor([[False, True], [True, True]])
    with torch.no_grad():
        both = network(rgb, portrait)
        alone = network(rgb[1:], portrait[1:])
    torch.testing.assert_close(both.refined[-1][1:], alone.refined[-1], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(both.world.points[1:], alone.world.points, atol=5e-4, rtol=1e-3)


def test_noise_disturbs_only_training_and_never_the_reference():
    torch.manual_seed(0)
    network = FlareSmall(SIZES["tiny"])
    pose = torch.randn(64, 3, 8)
    pose[:, 0, :7] = torch.tensor([0.0, 0, 0, 1, 0, 0, 0])
    calm = network.eval()._handed_on(pose, "local")
    assert torch.equal(calm, network._handed_on(pose, "local"))
    torch.testing.assert_close(calm[:, 1:, :3].norm(dim=-1).mean(1), torch.ones(64))
    noisy = network.train()._handed_on(pose, "local")
    assert torch.equal(noisy[:, 0], calm[:, 0])
    hit = (noisy[:, 1:] != calm[:, 1:]).any(-1)
    assert 0.4 < hit.float().mean() < 0.8
    relative = rotations(noisy[..., 3:7]).transpose(-1, -2) @ rotations(calm[..., 3:7])
    cosine = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    degrees = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))[:, 1:][hit]
    assert 4 < degrees.mean() < 12  # three axes of five degrees each
    network.pose_noise = 0.0
    torch.testing.assert_close(network._handed_on(pose, "local"), calm)


@pytest.mark.parametrize(
    ("conditioning", "coarse", "refined"), [("cascade", False, True), ("coarse", True, False), ("direct", False, False)]
)
def test_global_points_stand_on_the_poses_that_the_configuration_names(conditioning, coarse, refined):
    torch.manual_seed(0)
    network = FlareSmall(SIZES["tiny" if conditioning == "cascade" else f"tiny-{conditioning}"]).eval()
    rgb, portrait = torch.rand(1, 2, 3, 24, 32), torch.zeros(2, dtype=torch.bool)
    plain = _world(network, rgb, portrait)
    for head, matters in ((network.pose1, coarse or refined), (network.pose2, refined)):
        before = head.out.bias.clone()
        with torch.no_grad():
            head.out.bias += torch.linspace(-0.5, 0.5, 8)
        moved = not torch.equal(_world(network, rgb, portrait), plain)
        assert moved == matters, head
        head.out.bias.data = before


@torch.no_grad()
def _world(network, rgb, portrait):
    return network(rgb, portrait).world.points


def test_stage_one_alone_gives_poses_and_descriptors(network):
    with torch.no_grad():
        first = network(torch.rand(1, 2, 3, 24, 32), torch.zeros(2, dtype=torch.bool), stages=1)
    assert len(first.coarse) == SIZES["tiny"].pose_iterations
    assert first.refined == []
    assert first.local is None
    assert first.world is None


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 20, 32), "multiples of 8"),
        ((2, 3, 32, 24), "landscape"),
        ((1, 3, 24, 32), "2 to 8 views"),
        ((9, 3, 8, 16), "2 to 8 views"),
    ],
)
def test_unsuitable_images_are_refused(network, shape, message):
    with pytest.raises(ValueError, match=message):
        network(torch.rand(1, *shape), torch.zeros(shape[0], dtype=torch.bool))


def test_match_prior_reports_where_a_planted_match_is():
    torch.manual_seed(0)
    config = SIZES["tiny"]
    prior = MatchPrior(config)
    with torch.no_grad():
        prior.key.load_state_dict(prior.query.state_dict())
        prior.log_temperature.fill_(math.log(50))
    tokens = torch.randn(1, 2, 12, config.encoder_width)
    shuffled = torch.randperm(12)
    tokens[0, 1] = tokens[0, 0, shuffled]
    positions = torch.rand(1, 2, 12, 2)
    _, logits = prior(tokens, positions, position_features(positions, config.width))
    assert torch.equal(logits[0, 1, 0].argmax(-1), shuffled)
    assert torch.equal(logits[0, 0, 1].argmax(-1), shuffled.argsort())


def test_upright_handles_uniform_and_mixed_batches_alike():
    convolution = torch.nn.Conv2d(2, 3, (1, 3), padding=(0, 1))  # not symmetric in its axes
    x, flags = torch.rand(3, 2, 6, 6), torch.tensor([True, False, True])
    mixed = upright(convolution, Sides.of(flags), x)
    for i, flag in enumerate(flags):
        torch.testing.assert_close(mixed[i : i + 1], upright(convolution, Sides.of(flag[None]), x[i : i + 1]))
    assert not torch.allclose(mixed[0], convolution(x)[0])


def test_orientations_are_read_once_for_the_whole_network(network):
    """Every read of a mask stops a CUDA device until the host has the answer."""
    rgb, flags = torch.rand(1, 2, 3, 24, 32), torch.tensor([False, True])
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        network(rgb, flags)
    calls = {event.key: event.count for event in seen.key_averages()}
    assert calls["aten::nonzero"] == 2
    assert not calls.keys() & {"aten::is_nonzero", "aten::any", "aten::all"}


def test_global_points_are_turned_in_float32_also_under_autocast(network):
    heads = []
    handle = network.global_points.register_forward_hook(lambda head, inputs, output: heads.append((*inputs, *output)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = network(torch.rand(1, 3, 3, 48, 64), torch.zeros(3, dtype=torch.bool))
    handle.remove()
    *_, depth, correction, _ = heads[0]
    x, y = (torch.arange(64) + 0.5 - 32) / 64, (torch.arange(48) + 0.5 - 24) / 64
    plane = torch.stack(torch.broadcast_tensors(x[None], y[:, None]), -1)
    pose = out.refined[-1][0].double()
    rays = torch.cat([plane / pose[:, 7].exp()[:, None, None, None], torch.ones(3, 48, 64, 1)], -1)
    local = (depth[..., None].double() * (rays + correction)).flatten(1, 2)
    turned = local @ rotations(pose[:, 3:7]).transpose(-1, -2)
    found = out.world.points[0].double().flatten(1, 2)
    torch.testing.assert_close(found - found.mean(1, True), turned - turned.mean(1, True), atol=2e-6, rtol=1e-5)


def test_rotations_and_quaternion_products_agree():
    a, b = torch.randn(50, 4), torch.randn(50, 4)
    product = multiply_quaternions(a, b)
    torch.testing.assert_close(rotations(product), rotations(a) @ rotations(b), atol=1e-5, rtol=0)
    raw = torch.cat([torch.ones(50, 3), a, torch.zeros(50, 1)], -1)
    assert pose_matrices(raw)[..., 3, :].unique(dim=0).tolist() == [[0, 0, 0, 1]]


def test_attention_is_the_same_with_and_without_gradients():
    """On the CPU both forms of attention exist; they must not differ."""
    torch.manual_seed(0)
    block, x = EncBlock(32, 2), torch.randn(2, 9, 32)
    with torch.no_grad():
        fused = block(x, None)
    torch.testing.assert_close(block(x, None).detach(), fused, atol=1e-5, rtol=1e-4)


def test_configurations():
    config = SIZES["xs"]
    assert (config.patch, config.head_stride, SIZES["s"].patch, SIZES["s"].head_stride) == (8, 2, 16, 4)
    assert FlareSmallConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="head width"):
        replace(config, width=100)
    with pytest.raises(ValueError, match="stem"):
        replace(config, stem=(32,))
    with pytest.raises(ValueError, match="conditioning"):
        replace(config, conditioning="refined")
    with pytest.raises(TypeError):
        FlareSmallConfig.from_dict({**config.to_dict(), "depth": 3})


@pytest.mark.parametrize(("name", "millions"), [("xs", 4.8), ("s", 24.0)])
def test_sizes_are_what_the_table_says(name, millions):
    with torch.device("meta"):
        network = FlareSmall(SIZES[name])
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
