"""Reprojection losses on an exact scene: zero at the truth, gradients that lead back to it, masks."""

import pytest
import torch

from flarecli.train.cameras import storage_rays
from flarecli.train.generator import Batch
from flarecli.train.reprojection import matched_reprojection_loss, reprojection_loss
from flarecli.train.targets import find_matches, make_targets

HEIGHT, WIDTH = 24, 32


def turn(degrees: float, axis: int) -> torch.Tensor:
    """4 x 4 rotation about an axis."""
    angle = torch.deg2rad(torch.tensor(degrees))
    out, (a, b) = torch.eye(4), [i for i in range(3) if i != axis]
    out[a, a], out[b, b], out[a, b], out[b, a] = angle.cos(), angle.cos(), -angle.sin(), angle.sin()
    return out


@pytest.fixture
def scene() -> Batch:
    """A slanted wall seen by a landscape, a turned and a portrait camera."""
    c2w = torch.stack([torch.eye(4), turn(8.0, 1), turn(-6.0, 0)])[None].clone()
    c2w[0, 1, :3, 3], c2w[0, 2, :3, 3] = torch.tensor([-0.5, 0.1, 0.0]), torch.tensor([0.3, -0.2, 0.2])
    focal, portrait = torch.tensor([[1.0, 1.1, 0.9]]), torch.tensor([[False, False, True]])
    rays = storage_rays(HEIGHT, WIDTH, focal, portrait)
    world = torch.einsum("bvij,bvhwj->bvhwi", c2w[..., :3, :3], rays)
    normal = torch.tensor([0.2, -0.1, 1.0])
    depth = (4.0 - c2w[..., :3, 3] @ normal)[..., None, None] / (world @ normal)
    shared = torch.ones(1, 3, 3)
    return Batch(torch.zeros(1, 3, 3, HEIGHT, WIDTH), depth, c2w, focal, portrait, shared, torch.zeros(1))


def own(scene: Batch, points: torch.Tensor, c2w: torch.Tensor, **options) -> torch.Tensor:
    return reprojection_loss(points, c2w, scene.focal, scene.portrait, **options)


def relative(scene: Batch) -> torch.Tensor:
    """Poses in the frame of view 0, like the points of the targets."""
    return torch.linalg.inv(scene.c2w[:, :1]) @ scene.c2w


def test_the_truth_costs_nothing_and_errors_cost_what_they_measure(scene):
    points, c2w = make_targets(scene).world, relative(scene)
    assert own(scene, points, c2w) < 1e-5
    # 1 % of the unit to the right at depth z is 0.01 f / z long sides; far below the saturation.
    moved = c2w.clone()
    moved[:, 0, 0, 3] -= 0.01
    share = (0.01 * 1.0 / scene.depth[:, 0]).mean() / 3
    assert float(own(scene, points, moved)) == pytest.approx(float(share), rel=1e-2)


def test_a_change_of_the_common_frame_or_unit_changes_nothing(scene):
    points, c2w = make_targets(scene).world + 0.02 * torch.randn(1, 3, HEIGHT, WIDTH, 3), relative(scene)
    before = own(scene, points, c2w)
    frame = turn(30.0, 2) @ turn(20.0, 0)
    frame[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    turned = points @ frame[:3, :3].T + frame[:3, 3]
    assert float(own(scene, turned, frame @ c2w)) == pytest.approx(float(before), rel=1e-3)
    grown = c2w.clone()
    grown[..., :3, 3] *= 5
    assert float(own(scene, 5 * points, grown)) == pytest.approx(float(before), rel=1e-3)


@pytest.mark.parametrize("free", ["poses", "points", "focal"])
def test_gradients_lead_back_to_the_truth(scene, free):
    truth = {"points": make_targets(scene).world, "poses": relative(scene)[..., :3, 3], "focal": scene.focal}
    torch.manual_seed(0)
    start = truth[free] + 0.03 * torch.randn_like(truth[free])
    value = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([value], lr=3e-3)
    for _ in range(150):
        now = {**truth, free: value}
        c2w = torch.cat([torch.cat([relative(scene)[..., :3, :3], now["poses"][..., None]], -1)], 0)
        c2w = torch.cat([c2w, torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(1, 3, 1, 4)], -2)
        loss = reprojection_loss(now["points"], c2w, now["focal"], scene.portrait)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if free == "points":  # along its ray a point may be anywhere
        assert float(loss.detach()) < 2e-3
    else:
        assert (value - truth[free]).abs().max() < 0.25 * (start - truth[free]).abs().max()


def test_only_pixels_with_weight_and_in_front_of_the_camera_count(scene):
    points, c2w = make_targets(scene).world.clone(), relative(scene)
    points[:, :, :5] += 1.0
    weight = torch.ones(1, 3, HEIGHT, WIDTH)
    assert own(scene, points, c2w) > 1e-3
    weight[:, :, :5] = 0
    assert own(scene, points, c2w, weight=weight) < 1e-5
    behind = make_targets(scene).world.clone()
    behind[:, 0, 3] = torch.tensor([0.0, 0.0, -2.0])
    behind.requires_grad_()
    loss = own(scene, behind, c2w)
    assert loss < 1e-5
    assert torch.autograd.grad(loss, behind)[0].isfinite().all()
    assert own(scene, points, c2w, weight=torch.zeros_like(weight)) == 0


def test_outliers_are_saturated(scene):
    points, c2w = make_targets(scene).world.clone(), relative(scene)
    points[:, 0, 0, 0, 0] += 1e4
    assert float(own(scene, points, c2w)) == pytest.approx(0.1 / (3 * HEIGHT * WIDTH), rel=0.05)


def test_points_fall_onto_their_matches_in_other_views(scene):
    targets, c2w = make_targets(scene), relative(scene)
    source, target = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[1, 2, 2, 0]])
    pixels = torch.arange(HEIGHT * WIDTH).expand(1, 4, -1)
    matches = find_matches(targets, source, target, pixels, 1)
    assert 0.2 < float(matches.visible.float().mean()) < 1  # some, but not all, are seen by both
    points = targets.world[:, source[0]].flatten(2, 3)

    def loss(points: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        seen_by = (c2w[:, target[0]], scene.focal[:, target[0]], scene.portrait[:, target[0]])
        return matched_reprojection_loss(points, *seen_by, matches.location, weight, (HEIGHT, WIDTH))

    visible = matches.visible.float()
    assert loss(points, visible) < 1e-5
    # A wrong depth leaves every pixel on its own ray, where only other views notice it.
    centers = c2w[:, :, None, None, :3, 3]
    everywhere = centers + 0.9 * (targets.world - centers)
    assert own(scene, everywhere, c2w) < 1e-5
    nearer = everywhere[:, source[0]].flatten(2, 3)
    assert loss(nearer, visible) > 5e-3
    free = nearer.clone().requires_grad_()
    gradient = torch.autograd.grad(loss(free, visible), free)[0]
    assert (gradient[~matches.visible] == 0).all() and (gradient[matches.visible].norm(dim=-1) > 0).all()
    # Following it lengthens the rays again.
    along = (gradient * (points - nearer)).sum(-1)[matches.visible]
    assert (along < 0).float().mean() > 0.95
