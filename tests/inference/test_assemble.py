"""Windows become one reconstruction in the pixels of the photos."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flarecli.geometry.projection import pixel_grid
from flarecli.geometry.transforms import Sim3, rotation_angle_deg
from flarecli.inference import assemble as assemble_module
from flarecli.inference.assemble import assemble, join_windows
from flarecli.inference.readout import View

from .perfect import cameras_of, photos_of, predicted_of, priors_of

SIZES = [(96, 128), (128, 96), (120, 160), (90, 120), (96, 128), (96, 128)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photos_of(tmp_path_factory.mktemp("photos"), SIZES)


def check(found, cameras, degrees=0.1, offset=0.01):
    """Right up to the unit of the world."""
    assert rotation_angle_deg(found.cameras.c2w[:, :3, :3], cameras.c2w[:, :3, :3]).max() < degrees
    mine, truth = found.cameras.centers, cameras.centers
    scale = np.sum(mine * truth) / np.sum(truth * truth)
    assert np.linalg.norm(mine / scale - truth, axis=1).max() < offset * np.linalg.norm(truth, axis=1).max()
    return scale


def test_one_window_becomes_cameras_in_photo_pixels(photos):
    cameras = cameras_of(SIZES)
    found = assemble(photos, predicted_of(photos, cameras, [[0, 1, 2, 3, 4, 5]]), priors_of(cameras))
    scale = check(found, cameras)
    np.testing.assert_allclose(found.cameras.c2w[0], np.eye(4), atol=1e-9)
    np.testing.assert_allclose(found.cameras.focal_px, cameras.focal_px, rtol=0.01)
    np.testing.assert_allclose(found.cameras.K[:, :2, 2], cameras.K[:, :2, 2])
    np.testing.assert_array_equal(found.cameras.size_hw, np.array(SIZES))
    assert found.image_names == tuple(photo.name for photo in photos)
    assert {verdict.status for verdict in found.verdicts} == {"network-only"}
    # a pixel of each depth map, seen through its K, is a point whose photo pixel is where the photo shows it
    for view, depth_map in enumerate(found.depth_maps):
        assert depth_map is not None
        assert (depth_map.depth.shape[0] > depth_map.depth.shape[1]) == (SIZES[view][0] > SIZES[view][1])
        assert (depth_map.depth > 0).all() and 2 < np.median(depth_map.depth) / scale < 9


def test_grain_of_single_pixels_goes_and_steps_stay(photos):
    exact = assemble(photos, predicted_of(photos, cameras_of(SIZES), [range(6)]), priors_of(cameras_of(SIZES)))
    predicted = predicted_of(photos, cameras_of(SIZES), [range(6)])
    (window,) = predicted.windows
    grain = 1 + 0.05 * torch.randn(window.prediction.points_local.shape[:3], generator=torch.Generator().manual_seed(0))
    noisy = replace(window.prediction, points_local=window.prediction.points_local * grain[..., None])
    found = assemble(
        photos, replace(predicted, windows=(replace(window, prediction=noisy),)), priors_of(cameras_of(SIZES))
    )
    for clean, left in zip(exact.depth_maps, found.depth_maps, strict=True):
        assert clean is not None and left is not None
        error = np.log(left.depth / clean.depth)
        assert 0 < error.std() < 0.5 * 0.05 and np.ptp(np.log(clean.depth)) > 0.3


def test_masked_pixels_have_no_depth_also_in_portrait_photos(photos):
    predicted = predicted_of(photos, cameras_of(SIZES), [range(6)])
    masks = torch.ones(predicted.prepared.views.rgb.shape[0], 48, 64, dtype=torch.bool)
    masks[:, :10] = False  # rows as stored, so columns of the portrait photo
    predicted = replace(predicted, prepared=replace(predicted.prepared, masks=masks))
    found = assemble(photos, predicted, priors_of(cameras_of(SIZES)))
    landscape, portrait = found.depth_maps[0], found.depth_maps[1]
    assert landscape is not None and portrait is not None
    assert (landscape.depth[:10] == 0).all() and (landscape.depth[10:] > 0).all()
    assert (portrait.depth[:, :10] == 0).all() and (portrait.depth[:, 10:] > 0).all()


def test_photos_of_one_camera_share_its_focal_length(photos):
    cameras = cameras_of(SIZES)
    priors = priors_of(cameras)
    priors = replace(priors, group=np.array([0, 1, 2, 3, 0, 0]))
    predicted = predicted_of(photos, cameras, [[0, 1, 2, 3, 4, 5]])
    found = assemble(photos, predicted, priors)
    assert found.cameras.focal_px[0] == found.cameras.focal_px[4] == found.cameras.focal_px[5]
    np.testing.assert_allclose(found.cameras.focal_px, cameras.focal_px, rtol=0.01)


def test_focal_lengths_from_exif_are_not_replaced_by_the_network(photos):
    cameras = cameras_of(SIZES)
    priors = priors_of(cameras, sigma=0.08)
    K = np.array(priors.K)
    K[:, [0, 1], [0, 1]] *= 1.1
    found = assemble(photos, predicted_of(photos, cameras, [[0, 1, 2, 3, 4, 5]]), replace(priors, K=K))
    np.testing.assert_array_equal(found.cameras.K, K)


def test_known_intrinsics_are_kept_as_they_are(photos):
    cameras = cameras_of(SIZES)
    K = np.array(cameras.K)
    K[:, 0, 2] += 1.5
    priors = replace(priors_of(cameras, sigma=0.0), K=K)
    found = assemble(photos, predicted_of(photos, cameras, [[0, 1, 2, 3, 4, 5]]), priors)
    np.testing.assert_array_equal(found.cameras.K, K)


def test_windows_are_joined_to_one_frame(photos):
    cameras = cameras_of(SIZES)
    windows = [[2, 0, 1, 3], [1, 3, 4, 5]]
    found = assemble(photos, predicted_of(photos, cameras, windows, units=[2.0, 0.6]), priors_of(cameras))
    check(found, cameras, degrees=0.2, offset=0.02)
    one = assemble(photos, predicted_of(photos, cameras, [[2, 0, 1, 3, 4, 5]]), priors_of(cameras))
    for a, b in zip(found.depth_maps, one.depth_maps, strict=True):
        assert a is not None and b is not None
        np.testing.assert_allclose(a.depth, b.depth, rtol=0.02)


@pytest.mark.parametrize(("shared", "sky", "infinite"), [(3, 20.0, False), (3, 60.0, False), (1, 8.0, True)])
def test_skies_that_each_window_guesses_anew_do_not_decide_the_scale(shared, sky, infinite):
    true = Sim3(1.7, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([0.3, -0.2, 0.5]))
    draw = np.random.default_rng(0)
    plane = (pixel_grid(36, 48) - [24, 18]) / 40
    rays = np.concatenate([plane, np.ones((36, 48, 1))], -1)
    far = plane[..., 1] < np.quantile(plane[..., 1], 0.4)
    moving, fixed = [], []
    for number in range(shared):
        c2w = np.eye(4)
        c2w[0, 3] = 0.4 * number
        views = []
        for _ in range(2):
            surface = 2 + 0.5 * np.sin(5 * plane[..., 0]) + plane[..., 1] + draw.normal(0, 0.02, far.shape)
            guess = sky * np.exp(draw.normal(0, 0.7)) * draw.uniform(0.9, 1.1, far.shape)
            depth = np.where(far, guess, surface)
            points = rays * depth[..., None] + c2w[:3, 3]
            if infinite:
                points[:2] = np.inf
            views.append(View(number, c2w, 40.0, points, depth, np.where(far, 1.3, 6.0), "pnp", {}))
        inverse = true.inverse()
        moving.append(replace(views[0], c2w=inverse.apply_to_c2w(c2w), points=inverse.apply(views[0].points)))
        fixed.append(views[1])
    found = assemble_module._joint(moving, fixed)
    assert abs(found.scale / true.scale - 1) < 0.005
    assert rotation_angle_deg(found.rotation, true.rotation) < 0.5


def test_the_reference_may_be_any_photo(photos):
    """Order inside of a window changes nothing about the order of the result."""
    cameras = cameras_of(SIZES)
    views = join_windows(predicted_of(photos, cameras, [[4, 0, 1, 2, 3, 5]]), priors_of(cameras))
    assert sorted(views) == list(range(6)) and all(index == view.photo for index, view in views.items())
    found = assemble(photos, predicted_of(photos, cameras, [[4, 0, 1, 2, 3, 5]]), priors_of(cameras))
    check(found, cameras)


def test_known_poses_are_kept_and_the_depth_is_scaled_to_them(photos):
    cameras = cameras_of(SIZES)
    sim = Sim3(7.0, np.diag([-1.0, -1, 1]), np.array([3.0, 4, 5]))
    known = sim.apply_to_c2w(cameras.c2w)
    predicted = predicted_of(photos, cameras, [[0, 1, 2, 3, 4, 5]])
    found = assemble(photos, predicted, priors_of(cameras, sigma=0.0, c2w=known))
    np.testing.assert_array_equal(found.cameras.c2w, known)
    free = assemble(photos, predicted, priors_of(cameras, sigma=0.0))
    scale = check(free, cameras)
    for a, b in zip(found.depth_maps, free.depth_maps, strict=True):
        assert a is not None and b is not None
        np.testing.assert_allclose(a.depth, b.depth * 7 / scale, rtol=0.02)


@pytest.mark.parametrize("count", [2, 6])
def test_known_poses_with_one_centre_are_kept_too(photos, count):
    cameras = cameras_of(SIZES[:count])
    known = np.array(cameras.c2w)
    known[:, :3, 3] = [1, 2, 3]
    predicted = predicted_of(photos[:count], cameras, [list(range(count))])
    found = assemble(photos[:count], predicted, priors_of(cameras, sigma=0.0, c2w=known))
    np.testing.assert_array_equal(found.cameras.c2w, known)
    assert all(depth is not None and np.isfinite(depth.depth).all() for depth in found.depth_maps)
