import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from flarecli.errors import InputError
from flarecli.model.config_small import GAUSSIAN_PART, SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.small_output import PointMaps
from flarecli.train.cameras import RigRules
from flarecli.train.data import vary
from flarecli.train.generator import Batch
from flarecli.train.losses import (
    LossWeights,
    compute_losses,
    focal_loss,
    info_nce,
    ordered_pairs,
    point_loss,
    pose_loss,
)
from flarecli.train.primitives import Draw, random_rotations
from flarecli.train.renderer import RenderSize
from flarecli.train.targets import Matches, Targets, centre_pixels, find_matches, make_targets, quats_wxyz


def _two_plane_batch() -> Batch:
    """Two cameras one unit apart (along x) before a wall at depth 4, focal 1, 16 x 24 pixels."""
    c2w = torch.eye(4).repeat(1, 2, 1, 1)
    c2w[0, 1, 0, 3] = 1.0
    return Batch(
        rgb=torch.rand(1, 2, 3, 16, 24),
        depth=torch.full((1, 2, 16, 24), 4.0),
        c2w=c2w,
        focal=torch.ones(1, 2),
        portrait=torch.zeros(1, 2, dtype=torch.bool),
        overlap=torch.ones(1, 2, 2),
        kind=torch.zeros(1, dtype=torch.long),
    )


def _raw(targets: Targets) -> torch.Tensor:
    return torch.cat([targets.direction, targets.quats_wxyz, targets.log_focal[..., None]], -1)


@pytest.fixture
def targets() -> Targets:
    return make_targets(_two_plane_batch())


def test_targets_of_a_wall(targets):
    torch.testing.assert_close(targets.direction[0, 1], torch.tensor([1.0, 0, 0]))
    assert torch.allclose(targets.world[..., 2], torch.tensor(4.0))
    shift = targets.world[0, 1] - targets.world[0, 0]
    torch.testing.assert_close(shift, torch.tensor([1.0, 0, 0]).expand_as(shift))


def test_matches_of_a_wall_shift_by_focal_times_baseline_over_depth(targets):
    pixels = centre_pixels(16, 24, 8, torch.device("cpu"))[None, None]
    matches = find_matches(targets, torch.zeros(1, 1).long(), torch.ones(1, 1).long(), pixels, 8)
    start = torch.stack([pixels % 24, pixels // 24], -1) + 0.5
    torch.testing.assert_close(matches.location - start, torch.tensor([-6.0, 0.0]).expand_as(start), atol=1e-4, rtol=0)
    assert matches.visible[0, 0].tolist() == [False, True, True] * 2
    # The third cell's centre pixel (20.5, 4.5) lands on 14.5: 1.3125 cells, a bilinear mixture of columns 1 and 2.
    weights = torch.zeros(6).index_add(0, matches.cells[0, 0, 2], matches.weights[0, 0, 2]).view(2, 3)
    torch.testing.assert_close(weights.sum(0), torch.tensor([0.0, 1 - 0.3125, 0.3125]), atol=1e-4, rtol=0)


def test_occluded_points_do_not_match():
    batch = _two_plane_batch()
    batch.depth[0, 1] = 2.0  # the second camera sees something nearer
    matches = find_matches(
        make_targets(batch), torch.zeros(1, 1).long(), torch.ones(1, 1).long(), torch.arange(384)[None, None], 1
    )
    assert not matches.visible.any()


def test_far_sky_is_not_valid():
    batch = _two_plane_batch()
    batch.depth[0, 0, 0] = 0.0
    batch.depth[0, 0, 1] = 100.0
    valid = make_targets(batch).valid
    assert not valid[0, 0, :2].any()
    assert valid[0, 0, 2:].all()


def test_quaternions_match_their_matrices_and_have_positive_real_parts():
    rotation = random_rotations(Draw.seeded(0), 200)
    w, x, _, z = quats_wxyz(rotation).unbind(-1)
    assert (w >= 0).all()
    trace = rotation.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(4 * w * w - 1, trace, atol=1e-4, rtol=0)
    torch.testing.assert_close(4 * w * x, rotation[:, 2, 1] - rotation[:, 1, 2], atol=1e-4, rtol=0)
    torch.testing.assert_close(4 * w * z, rotation[:, 1, 0] - rotation[:, 0, 1], atol=1e-4, rtol=0)


def test_pose_loss_is_zero_at_the_truth_and_blind_to_the_sign_of_quaternions(targets):
    raw = _raw(targets)
    assert pose_loss([raw], targets) < 1e-10
    flipped = raw.clone()
    flipped[..., 3:7] *= -3
    assert pose_loss([flipped], targets) < 1e-10


def test_pose_loss_closed_form_and_weights_of_iterations(targets):
    raw = _raw(targets)
    wrong = raw.clone()
    wrong[:, 1, 0] += 0.5
    # Huber with delta d, divided by d: |e| - d / 2 far from zero; mean over three coordinates.
    expected = 2.5 * (0.5 - 0.01) / 3
    assert math.isclose(pose_loss([wrong], targets).item(), expected, rel_tol=1e-5)
    assert math.isclose(pose_loss([wrong, raw], targets).item(), 0.8 * expected, rel_tol=1e-5)


def test_translation_is_not_normalised_by_the_loss(targets):
    """Near zero the gradient must stay of order one, and point towards the truth."""
    raw = _raw(targets)
    raw[:, 1, :3] = 1e-6
    raw.requires_grad_()
    pose_loss([raw], targets).backward()
    gradient = raw.grad[0, 1, :3]
    assert gradient[0] < -0.5
    assert gradient.abs().max() < 5


def test_reference_view_has_no_pose_gradient(targets):
    raw = (_raw(targets) + 0.1).requires_grad_()
    pose_loss([raw], targets).backward()
    assert raw.grad[:, 0].abs().max() == 0


def test_three_views_compare_relative_rotations():
    batch = _two_plane_batch()
    three = batch.views(torch.tensor([[0, 1, 0]]))
    targets = make_targets(three)
    raw = _raw(targets)
    raw[:, 2, 3:7] = functional.normalize(torch.tensor([1.0, 0.2, 0, 0]), dim=0)
    single = pose_loss([raw[:, [0, 2]]], make_targets(three.views(torch.tensor([[0, 2]]))))
    assert pose_loss([raw], targets) > 0.5 * single


def test_focal_loss_is_the_mean_log_ratio(targets):
    raw = _raw(targets)
    raw[..., 7] += math.log(1.5)
    assert math.isclose(focal_loss([raw], targets).item(), math.log(1.5), rel_tol=1e-5)


def test_point_loss_ignores_scale_and_invalid_pixels_and_prefers_low_confidence_where_wrong(targets):
    confidence = torch.full((1, 2, 16, 24), 1.0)
    truth = targets.world
    assert point_loss(PointMaps(7 * truth, confidence), truth, targets.valid).abs() < 1e-6
    valid = targets.valid.clone()
    valid[0, 0, 3] = False
    broken = truth.clone()
    broken[0, 0, 3] += 100
    assert point_loss(PointMaps(broken, confidence), truth, valid).abs() < 1e-6
    # d/dc (c e - 0.2 log c) = 0 at c = 0.2 / e.
    wrong = truth + torch.tensor([0.0, 0.05, 0.0])
    scores = [
        point_loss(PointMaps(wrong, torch.full_like(confidence, c)), truth, valid) for c in (1.0, 5.0, 10.0, 20.0, 60.0)
    ]
    assert scores.index(min(scores)) in {2, 3}


def test_info_nce_closed_form():
    cells = torch.tensor([[0, 1, 2, 3]] * 3)
    weights = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [1.0, 0, 0, 0]])
    location, visible = torch.zeros(3, 2), torch.tensor([True, True, False])
    matches = Matches(cells, weights, location, visible)
    assert math.isclose(info_nce(torch.zeros(3, 4), matches).item(), math.log(4), rel_tol=1e-6)
    sharp = torch.tensor([[50.0, 0, 0, 0], [50.0, 50.0, 0, 0], [0, 50.0, 0, 0]])
    assert math.isclose(info_nce(sharp, matches).item(), math.log(2) / 2, rel_tol=1e-5)
    assert info_nce(sharp, replace(matches, visible=torch.zeros(3, dtype=torch.bool))) == 0


def test_cells_and_weights_are_the_hats_around_the_place():
    """Against all hats of the grid: inside, on cells, beyond one edge, and outside."""
    pairs = torch.zeros(1, 1).long(), torch.ones(1, 1).long()
    matches = find_matches(make_targets(_two_plane_batch()), *pairs, torch.arange(384)[None, None], 4)
    column, row = (matches.location[0, 0, :, None] / 4 - 0.5).unbind(-1)
    assert column.min() < -1 and column.max() > 3
    across = (1 - (column - torch.arange(6)).abs()).clamp_min(0)
    down = (1 - (row - torch.arange(4)).abs()).clamp_min(0)
    hats = (down[:, :, None] * across[:, None]).flatten(1)
    found = torch.zeros(384, 24).scatter_add(1, matches.cells[0, 0], matches.weights[0, 0])
    torch.testing.assert_close(found, hats / hats.sum(1, keepdim=True).clamp_min(1e-6))


def test_ordered_pairs_are_all_pairs():
    source, target = ordered_pairs(2, 3, torch.device("cpu"))
    assert sorted(zip(source[0].tolist(), target[0].tolist(), strict=True)) == [
        (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)
    ]  # fmt: skip


def test_every_parameter_gets_a_finite_gradient(generator):
    network = FlareSmall(SIZES["tiny"]).train()
    batch = vary(generator.batch(2, RigRules(3), RenderSize(24, 32, samples=1)), Draw.seeded(0))
    out = network(batch.rgb, batch.portrait)
    terms = compute_losses(out, make_targets(batch), LossWeights(), Draw.seeded(0))
    assert set(terms) == {
        "pose_coarse", "pose_refined", "focal", "match_encoder", "match_decoder", "descriptor", "local", "global"
    }  # fmt: skip
    sum(terms.values()).backward()
    trunk = [(n, p) for n, p in network.named_parameters() if not n.startswith(GAUSSIAN_PART)]
    silent = [n for n, p in trunk if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []
    still = [n for n, p in trunk if p.grad.abs().max() == 0]
    assert still == []


@pytest.mark.parametrize(
    ("weights", "left_out"),
    [
        ({"match": 0, "descriptor": 0}, {"match_encoder", "match_decoder", "descriptor"}),
        ({"pose": 0, "focal": 0}, {"pose_coarse", "pose_refined", "focal"}),
        ({"points": 0}, {"local", "global"}),
        ({"local": 0}, {"local", "pose_refined"}),
    ],
)
def test_losses_of_weight_zero_are_not_computed(generator, weights, left_out):
    network = FlareSmall(SIZES["tiny"]).train()
    batch = generator.batch(2, RigRules(2), RenderSize(24, 32, samples=1))
    out, targets = network(batch.rgb, batch.portrait), make_targets(batch)
    every = compute_losses(out, targets, LossWeights(), Draw.seeded(0))
    some = compute_losses(out, targets, LossWeights(**weights), Draw.seeded(0))
    assert set(every) - set(some) == left_out
    for name in set(some) - {"focal"}:
        torch.testing.assert_close(some[name], every[name])
    if weights == {"local": 0}:  # the focal length of stage 2 is not taught either
        torch.testing.assert_close(some["focal"], focal_loss(out.coarse, targets))


def test_a_phase_without_any_loss_is_refused(generator):
    batch = generator.batch(2, RigRules(2), RenderSize(24, 32, samples=1))
    out = FlareSmall(SIZES["tiny"])(batch.rgb, batch.portrait, stages=1)
    nothing = LossWeights(pose=0, focal=0, match=0, descriptor=0)
    with pytest.raises(InputError, match="nothing is left to train"):
        compute_losses(out, make_targets(batch), nothing, Draw.seeded(0))
