"""The terms of one step: nothing to learn from the truth, and the way back from errors."""

import dataclasses

import pytest
import torch

from flarecli.adapt.objective import ObjectiveWeights, objective, scaled_cameras
from flarecli.model.small_gaussians import RAW_CHANNELS, activate
from flarecli.model.small_output import PointMaps, SmallOutput
from flarecli.train.primitives import Draw
from flarecli.train.reprojection import reprojection_loss
from flarecli.train.targets import make_targets

CONTEXT, TARGET = [0, 1, 2], [3]
UNIT = 2.5  # of the world points per unit of the pose head


def perfect(study, depth_error: float = 0.0) -> SmallOutput:
    """What a perfect network says of the context views, its depth wrong by a slant of this share."""
    batch = study.batch(CONTEXT)
    middle = batch.depth[batch.depth > 0].median()
    truth = make_targets(dataclasses.replace(batch, depth=torch.where(batch.depth > 0, batch.depth, middle)))
    pose = torch.cat([truth.translation / UNIT, truth.quats_wxyz, truth.log_focal[..., None]], -1)
    slant = 1 + depth_error * torch.linspace(-1, 1, study.size_hw[1])[:, None]
    maps = PointMaps(0.3 * truth.local * slant, torch.full(truth.valid.shape, 10.0))
    none = torch.zeros(())
    world = PointMaps(truth.world, torch.full(truth.valid.shape, 10.0))
    gaussians = activate(torch.zeros(1, len(CONTEXT), RAW_CHANNELS, *study.size_hw), batch.rgb)
    return SmallOutput([pose], [pose], none, none, none, none, none, maps, world, gaussians)


def terms(study, out, **weights):
    chosen = ObjectiveWeights(**{"render": 0.0, "own_pixels": 0.0, "matched_pixels": 0.0, "solved": None, **weights})
    return objective(out, study, CONTEXT, TARGET, chosen, Draw.seeded(0))


def test_reprojections_are_zero_at_the_truth_and_measure_errors_of_depth(exact):
    right = terms(exact.study, perfect(exact.study), own_pixels=1.0, matched_pixels=1.0)
    assert right.keys() == {"own_pixels", "matched_pixels"}
    assert max(map(float, right.values())) < 2e-3
    wrong = terms(exact.study, perfect(exact.study, 0.3), matched_pixels=1.0)
    assert float(wrong["matched_pixels"]) > 5 * float(right["matched_pixels"]) + 1e-3


def test_cameras_of_the_pose_head_come_in_the_unit_of_the_points(exact):
    out = perfect(exact.study)
    assert out.world is not None
    truth = make_targets(exact.study.batch(CONTEXT))
    assert torch.allclose(scaled_cameras(out)[..., :3, 3], truth.translation, atol=1e-3)
    # its own poses take part in the reprojection with a gradient
    raw = out.refined[-1].clone().requires_grad_()
    moved = dataclasses.replace(out, refined=[raw])
    focal, portrait = truth.log_focal.exp(), truth.portrait
    reprojection_loss(out.world.points + 0.01, scaled_cameras(moved), focal, portrait).backward()
    assert raw.grad is not None and raw.grad.isfinite().all() and (raw.grad[:, 1:, :7] != 0).all()


@pytest.mark.parametrize("name", ["matched_pixels", "render"])
def test_descent_flattens_a_slanted_depth(exact, name):
    out = perfect(exact.study, 0.15)
    assert out.local is not None
    slope = torch.full((), -0.0).requires_grad_()
    optimizer = torch.optim.Adam([slope], lr=0.02)
    across = torch.linspace(-1, 1, exact.study.size_hw[1])[:, None]
    for _ in range(25):
        local = PointMaps(out.local.points * (1 + slope * across), out.local.confidence)
        loss = terms(exact.study, dataclasses.replace(out, local=local), **{name: 1.0})[name]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert -0.25 < float(slope.detach()) < -0.08  # (1 + 0.15 x)(1 + s x) is flattest near s = -0.15


def test_terms_of_weight_zero_are_not_there(exact):
    assert terms(exact.study, perfect(exact.study), render=2.0).keys() == {"render"}
    without_targets = objective(
        perfect(exact.study), exact.study, CONTEXT, [], ObjectiveWeights(solved=None), Draw.seeded(0)
    )
    assert without_targets.keys() == {"own_pixels", "matched_pixels"}
