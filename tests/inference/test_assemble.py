"""Windows become one reconstruction in the pixels of the photos."""

from dataclasses import replace

import numpy as np
import pytest

from flarecli.geometry.projection import project
from flarecli.geometry.transforms import Sim3, rotation_angle_deg
from flarecli.inference.assemble import assemble, dense_points, in_first_frame, join_windows
from flarecli.scene.reconstruction import Tracks
from tests.synthetic import make_scene

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


def test_photos_of_one_camera_share_its_focal_length(photos):
    cameras = cameras_of(SIZES)
    priors = priors_of(cameras)
    priors = replace(priors, group=np.array([0, 1, 2, 3, 0, 0]))
    predicted = predicted_of(photos, cameras, [[0, 1, 2, 3, 4, 5]])
    found = assemble(photos, predicted, priors)
    assert found.cameras.focal_px[0] == found.cameras.focal_px[4] == found.cameras.focal_px[5]
    np.testing.assert_allclose(found.cameras.focal_px, cameras.focal_px, rtol=0.01)


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


def test_the_world_moves_to_the_first_photo():
    exact = make_scene(3, (48, 64), with_images=False).reconstruction
    moved = replace(exact, cameras=exact.cameras.transformed(Sim3(1.0, np.diag([-1.0, -1, 1]), np.ones(3))))
    back = moved.cameras.transformed(in_first_frame(moved))
    np.testing.assert_allclose(back.c2w, exact.cameras.c2w, atol=1e-12)


def dense(exact, **options):
    images = [
        np.full((*map(int, size), 3), 60 * view + 20, np.uint8) for view, size in enumerate(exact.cameras.size_hw)
    ]
    for image in images:
        image[:, : image.shape[1] // 2, 0] = 7  # the left half has less red
    return dense_points(exact, images, options.get("keep", np.ones(len(exact), bool)))


def test_dense_points_lie_on_the_surface_with_the_colour_of_their_pixel():
    exact = make_scene(3, (96, 128), num_tracks=50, with_images=False).reconstruction
    cloud = dense(exact)
    assert len(cloud) > 3000
    for view in range(3):
        mine = cloud.view_index == view
        pixel, depth = project(cloud.xyz[mine], exact.cameras.w2c[view], exact.cameras.K[view])
        assert (depth > 0).all()
        np.testing.assert_allclose(pixel, cloud.pixel[mine], atol=0.05)
        dense_only = np.flatnonzero(mine)[np.flatnonzero(mine) >= len(exact.tracks)]
        assert (cloud.rgb[dense_only, 1] == 60 * view + 20).all()
        left = cloud.pixel[dense_only, 0] < 64
        np.testing.assert_array_equal(cloud.rgb[dense_only, 0] == 7, left)
    np.testing.assert_array_equal(cloud.xyz[: len(exact.tracks)], exact.tracks.xyz.astype(np.float32))


def test_no_dense_point_hangs_between_two_surfaces():
    exact = make_scene(2, (96, 128), num_tracks=20, with_images=False).reconstruction
    cloud = dense(exact)
    for view in range(2):
        depth_map = exact.depth_maps[view]
        assert depth_map is not None
        at = np.column_stack([cloud.pixel[cloud.view_index == view]])[:, ::-1] * 0.5
        row, column = at[len(exact.tracks) :].astype(int).T
        log = np.log(np.pad(depth_map.depth, 1, mode="edge"))
        jump = np.max([np.abs(log[1:-1, 1:-1] - n) for n in (log[:-2, 1:-1], log[2:, 1:-1], log[1:-1, :-2])], axis=0)
        assert (jump > 0.08).any() and (jump[row, column] <= 0.08 + 1e-6).all()


def test_only_chosen_photos_contribute_and_holes_and_doubts_stay_out():
    exact = make_scene(3, (96, 128), num_tracks=20, with_images=False).reconstruction
    empty = np.zeros((0, 3))
    none = Tracks(empty, empty, np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, 2)))
    exact = replace(exact, tracks=none)
    assert set(dense(exact, keep=np.array([False, True, False])).view_index) == {1}
    first = exact.depth_maps[0]
    assert first is not None
    depth, confidence = np.array(first.depth), np.array(first.confidence)
    depth[:10] = 0
    confidence[40:] = np.linspace(1, 2, confidence[40:].size).reshape(confidence[40:].shape)
    only = replace(exact, depth_maps=(replace(first, depth=depth, confidence=confidence), None, None))
    cloud = dense(only)
    assert set(cloud.view_index) == {0} and cloud.pixel[:, 1].min() > 20
    good = confidence[depth > 0]
    assert cloud.confidence.min() > np.quantile(good, 0.08)
    holes = replace(first, depth=np.zeros_like(depth))
    assert len(dense(replace(exact, depth_maps=(holes, None, None)))) == 0
