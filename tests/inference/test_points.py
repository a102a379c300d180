"""Depth maps become one cloud: trusted pixels only, every surface once."""

from dataclasses import replace

import numpy as np

from flarecli.geometry.projection import project
from flarecli.inference.points import dense_points
from flarecli.scene.reconstruction import Tracks
from tests.synthetic import make_scene


def dense(exact, **options):
    images = [
        np.full((*map(int, size), 3), 60 * view + 20, np.uint8) for view, size in enumerate(exact.cameras.size_hw)
    ]
    for image in images:
        image[:, : image.shape[1] // 2, 0] = 7  # the left half has less red
    return dense_points(exact, images.__getitem__, options.get("keep", np.ones(len(exact), bool)))


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
    assert cloud.confidence.min() > 1 + 0.1 * (np.quantile(good, 0.8) - 1)
    holes = replace(first, depth=np.zeros_like(depth))
    assert len(dense(replace(exact, depth_maps=(holes, None, None)))) == 0


def test_a_surface_that_an_earlier_photo_shows_as_finely_is_not_repeated():
    exact = make_scene(3, (96, 128), num_tracks=20, with_images=False).reconstruction
    alone = [int((dense(exact, keep=np.arange(3) == view).view_index == view).sum()) for view in range(3)]
    together = np.bincount(dense(exact).view_index, minlength=3)
    assert together[0] >= 0.98 * alone[0]
    assert 0.02 * alone[1] < together[1] < 0.5 * alone[1]  # what only it sees, or sees from nearer
    coarse = exact.depth_maps[0]
    assert coarse is not None
    every_third = replace(
        coarse,
        depth=coarse.depth[1::3, 1::3],
        confidence=coarse.confidence[1::3, 1::3],
        K=np.diag([1 / 3, 1 / 3, 1]) @ coarse.K,
    )
    finer = replace(exact, depth_maps=(every_third, *exact.depth_maps[1:]))
    assert (dense(finer).view_index == 1).sum() > 0.9 * alone[1]
