"""Cameras from point maps: the proposal that fits is taken, in one unit, upright."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flarecli.geometry.transforms import rotation_angle_deg
from flarecli.inference.predict import Window
from flarecli.inference.readout import read_window

from .perfect import cameras_of, photos_of, predicted_of

SIZES = [(96, 128), (128, 96), (90, 120)]
UNIT = 2.0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    cameras = cameras_of(SIZES)
    predicted = predicted_of(photos_of(tmp_path_factory.mktemp("p"), SIZES), cameras, [[0, 1, 2]], [UNIT])
    return cameras, predicted


def read(predicted, window: Window, K=None, known=(False,) * 3):
    portrait, maps = predicted.prepared.views.portrait.numpy(), predicted.prepared.prepared_from_photo
    return read_window(window, portrait, maps, np.tile(np.eye(3), (3, 1, 1)) if K is None else K, np.array(known))


def changed(window: Window, **fields) -> Window:
    return replace(window, prediction=replace(window.prediction, **fields))


def check(views, cameras, *, degrees=0.1, offset=0.01):
    for view in views:
        truth = cameras.c2w[view.photo]
        assert rotation_angle_deg(view.c2w[:3, :3], truth[:3, :3]) < degrees
        np.testing.assert_allclose(view.c2w[:3, 3], UNIT * truth[:3, 3], atol=offset * UNIT)


def test_a_perfect_prediction_is_read_exactly(made):
    cameras, predicted = made
    assert predicted.prepared.views.portrait.tolist() == [False, True, False]
    views = read(predicted, predicted.windows[0])
    check(views, cameras)
    for view, size in zip(views, SIZES, strict=True):
        assert view.depth.shape == view.points.shape[:2] == ((64, 48) if size[0] > size[1] else (48, 64))
        focal = cameras.K[view.photo, 0, 0] * predicted.prepared.prepared_from_photo[view.photo, 0, 0]
        assert view.focal_px == pytest.approx(focal, rel=0.01)
        # one unit: the depth map and the global points are the same surface
        z = (view.points - view.c2w[:3, 3]) @ view.c2w[:3, 2]
        np.testing.assert_allclose(view.depth, z, rtol=0.01)


def test_a_wrong_pose_head_is_not_taken(made):
    cameras, predicted = made
    window = predicted.windows[0]
    turned = window.prediction.refined_c2w.clone()
    turn = torch.tensor([[np.cos(0.4), 0, np.sin(0.4)], [0, 1, 0], [-np.sin(0.4), 0, np.cos(0.4)]])
    turned[1:, :3, :3] = turned[1:, :3, :3] @ turn
    views = read(predicted, changed(window, refined_c2w=turned))
    assert {view.pose_from for view in views[1:]} <= {"pnp", "procrustes"}
    check(views, cameras)


def test_rotations_of_the_pose_head_are_exact_where_single_precision_left_them_short(made):
    """Files hold rotations as quaternions, which only exact ones come back from."""
    _, predicted = made
    window = predicted.windows[0]
    short, points = window.prediction.refined_c2w.float(), window.prediction.points_global.clone()
    short[:, :3, :3] *= 1 - 2e-6
    points[1] = torch.nan
    view = read(predicted, changed(window, refined_c2w=short, points_global=points))[1]
    assert view.pose_from == "head"
    np.testing.assert_allclose(view.c2w[:3, :3] @ view.c2w[:3, :3].T, np.eye(3), atol=1e-12)


def test_noisy_point_maps_leave_the_word_to_the_pose_head(made):
    """The global points of a view are scattered, so only the head knows its rotation."""
    cameras, predicted = made
    window = predicted.windows[0]
    points = window.prediction.points_global.clone()
    points[1] = torch.full_like(points[1], float("nan"))
    views = read(predicted, changed(window, points_global=points))
    assert views[1].pose_from == "head"
    assert rotation_angle_deg(views[1].c2w[:3, :3], cameras.c2w[1, :3, :3]) < 0.1
    assert np.isfinite(views[1].depth).all()


def test_known_intrinsics_replace_those_of_the_point_map(made):
    cameras, predicted = made
    views = read(predicted, predicted.windows[0], np.array(cameras.K), (True, True, False))
    maps = predicted.prepared.prepared_from_photo
    assert views[0].focal_px == pytest.approx(cameras.K[0, 0, 0] * np.sqrt(maps[0, 0, 0] * maps[0, 1, 1]), rel=1e-9)
    check(views, cameras)


def test_outliers_in_the_maps_do_no_harm(made):
    cameras, predicted = made
    window = predicted.windows[0]
    generator = torch.Generator().manual_seed(0)
    points = window.prediction.points_global.clone()
    bad = torch.rand(points.shape[:3], generator=generator) < 0.2
    points[bad] += 3 * torch.randn(int(bad.sum()), 3, generator=generator)
    views = read(predicted, changed(window, points_global=points))
    check(views, cameras, degrees=0.5, offset=0.05)


def test_the_heads_focal_length_is_weighed_in(made):
    _, predicted = made
    window = predicted.windows[0]
    exact = read(predicted, window)[0].focal_px
    views = read(predicted, changed(window, focal=torch.full((3,), 4 * exact / 64)))
    assert views[0].focal_px == pytest.approx(2 * exact, rel=0.01)  # geometric mean of exact and 4 x exact


def test_a_map_behind_the_camera_still_gives_a_view(made):
    _, predicted = made
    window = predicted.windows[0]
    views = read(predicted, changed(window, points_local=-window.prediction.points_local))
    assert all(np.isfinite(view.c2w).all() and (view.depth >= 0).all() and view.focal_px > 0 for view in views)
