"""Relative poses and focal profiles on two photos whose truth is known."""

import numpy as np
import pytest

from flarecli.geometry.transforms import direction_angle_deg, rotation_angle_deg
from flarecli.refine.focal import FocalEstimate, combine_profiles
from flarecli.refine.twoview import (
    FOCAL_GRID,
    focal_profile,
    in_front,
    pose_support,
    refine_with_focal,
    relative_pose,
    sampson_px,
)

from .exact import two_views


def with_outliers(pixels, fraction, seed=0):
    rng = np.random.default_rng(seed)
    bad = rng.random(len(pixels)) < fraction
    out = pixels.copy()
    out[bad] = rng.uniform([-320, -240], [320, 240], (bad.sum(), 2))
    return out, bad


def test_true_poses_have_no_epipolar_error_and_every_point_in_front():
    views = two_views()
    a, b = views.rays()
    for length in (1.0, 7.5):
        assert sampson_px(views.rotation, length * views.translation, a, b, 600).max() < 1e-9
    assert in_front(views.rotation, views.translation, a, b).all()
    assert not in_front(views.rotation, -views.translation, a, b).any()


def test_the_sampson_error_is_the_distance_in_pixels():
    views = two_views()
    a, b = views.rays()
    line = np.cross(views.translation, np.column_stack([a, np.ones(len(a))]) @ views.rotation.T)
    across = line[:, :2] / np.linalg.norm(line[:, :2], axis=1, keepdims=True)
    # 2 px off in one photo is at most 2 px, and 2/sqrt(2) where both photos share the correction
    error = sampson_px(views.rotation, views.translation, a, b + 2 / 600 * across, 600)
    assert (error < 2.01).all() and (error > 1.2).all()
    along = np.column_stack([-across[:, 1], across[:, 0]])
    assert sampson_px(views.rotation, views.translation, a, b + 2 / 600 * along, 600).max() < 1e-6


def test_points_behind_one_camera_are_not_in_front():
    rotation, translation = np.eye(3), np.array([1.0, 0, 0])
    front, behind = np.array([[0.0, 0.0]]), np.array([[0.2, 0.0]])
    assert in_front(rotation, translation, front, behind).all()
    assert not in_front(rotation, translation, front, -behind).any()


@pytest.mark.parametrize("focal_px", [420.0, 760.0])
def test_the_profile_finds_the_focal_length_of_a_general_pair(focal_px):
    views = two_views(focal_px=focal_px, noise_px=0.3)
    profile = focal_profile(views.a, views.b, (640, 640), 1.25)
    assert profile is not None and profile.inliers > 180
    ratio = FOCAL_GRID[np.argmin(profile.cost)]
    assert ratio == pytest.approx(focal_px / 640, rel=0.12)
    # so sharp that no sensible prior can move it
    assert profile.cost.max() - profile.cost.min() > 50
    estimate = combine_profiles([profile], FocalEstimate(0.9, 0.35))
    assert estimate.ratio == pytest.approx(focal_px / 640, rel=0.08)
    assert estimate.sigma < 0.1


def test_the_profile_of_pure_forward_motion_is_flat_and_the_prior_decides():
    views = two_views(kind="forward", noise_px=0.2)
    profile = focal_profile(views.a, views.b, (640, 640), 1.25)
    assert profile is not None
    general = focal_profile(two_views(noise_px=0.2).a, two_views(noise_px=0.2).b, (640, 640), 1.25)
    assert general is not None
    near = np.abs(np.log(FOCAL_GRID / (600 / 640))) < 0.7
    assert np.ptp(profile.cost[near]) < 0.1 * np.ptp(general.cost[near])
    assert combine_profiles([profile], FocalEstimate(1.3, 0.1)).ratio == pytest.approx(1.3, rel=0.12)


def test_the_profile_of_a_plane_says_less_than_that_of_depth():
    plane, depth = two_views(kind="plane", noise_px=0.3), two_views(noise_px=0.3)
    flat = focal_profile(plane.a, plane.b, (640, 640), 1.25)
    sharp = focal_profile(depth.a, depth.b, (640, 640), 1.25)
    assert flat is not None and sharp is not None
    near = np.abs(np.log(FOCAL_GRID / (600 / 640))) < 0.5
    assert np.ptp(flat.cost[near]) < 0.5 * np.ptp(sharp.cost[near])


def test_too_few_matches_have_no_answer():
    views = two_views(7)
    assert focal_profile(views.a, views.b, (640, 640), 1.25) is None
    assert relative_pose(*views.rays(), (600, 600), 1.25) is None


def test_nothing_to_combine_leaves_the_prior():
    estimate = combine_profiles([], FocalEstimate(1.1, 0.2))
    assert estimate.ratio == pytest.approx(1.1, rel=0.01)
    assert estimate.sigma == pytest.approx(0.2, rel=0.2)


def test_two_profiles_know_more_than_one_and_a_wrong_one_is_capped():
    good = [focal_profile(v.a, v.b, (640, 640), 1.25) for v in (two_views(noise_px=0.3, seed=s) for s in range(3))]
    wrong = two_views(focal_px=1500, noise_px=0.3, seed=9)
    bad = focal_profile(wrong.a, wrong.b, (640, 640), 1.25)
    profiles = [profile for profile in good if profile is not None]
    assert bad is not None and len(profiles) == 3
    prior = FocalEstimate(0.9, 0.35)
    assert combine_profiles(profiles, prior).sigma <= combine_profiles(profiles[:1], prior).sigma
    assert combine_profiles([*profiles, bad], prior).ratio == pytest.approx(600 / 640, rel=0.1)


@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_the_relative_pose_comes_back_with_its_inliers(fraction):
    views = two_views(noise_px=0.3)
    b, bad = with_outliers(views.b, fraction)
    pose = relative_pose(views.a / 600, b / 600, (600, 600), 1.25, seed=1)
    assert pose is not None
    assert rotation_angle_deg(pose.rotation, views.rotation) < 0.4
    assert direction_angle_deg(pose.translation, views.translation) < 2
    assert np.linalg.norm(pose.translation) == pytest.approx(1)
    assert (pose.inliers & ~bad).sum() > 0.9 * (~bad).sum()
    assert (pose.inliers & bad).sum() <= 0.1 * max(bad.sum(), 1)
    assert 2 < pose.parallax_deg < 30
    again = relative_pose(views.a / 600, b / 600, (600, 600), 1.25, seed=1)
    assert again is not None and np.array_equal(again.rotation, pose.rotation)


def test_support_counts_only_what_agrees():
    views = two_views()
    b, bad = with_outliers(views.b, 0.5)
    pose = pose_support(views.rotation, views.translation, views.a / 600, b / 600, 600, 1e-3)
    assert np.array_equal(pose.inliers, ~bad)
    mirrored = pose_support(views.rotation, -views.translation, *views.rays(), 600, 1e-3)
    assert mirrored.support == 0 and mirrored.parallax_deg == 0


def test_pose_and_focal_length_settle_together():
    views = two_views(noise_px=0.2)
    start = relative_pose(views.a / 690, views.b / 690, (690, 690), 3.0)
    assert start is not None
    rotation, translation, factor = refine_with_focal(start, views.a, views.b, (690, 690), 0.3, 0.35)
    assert 690 * factor == pytest.approx(600, rel=0.03)
    assert rotation_angle_deg(rotation, views.rotation) < 0.5
    assert direction_angle_deg(translation, views.translation) < 2
    assert np.linalg.norm(translation) == pytest.approx(1)
    # a prior that is sure keeps its focal length
    _, _, held = refine_with_focal(start, views.a, views.b, (690, 690), 0.3, 1e-4)
    assert held == pytest.approx(1, abs=1e-3)
