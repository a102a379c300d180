"""Lenses to pycolmap and back, rays, and which focal lengths may change."""

from dataclasses import replace

import numpy as np
import pytest

from flarecli.refine.lens import Lenses


def lenses(k1: float = -0.05) -> Lenses:
    K = np.array([[[500.0, 0, 321], [0, 500, 239], [0, 0, 1]], [[700.0, 0, 240], [0, 720, 322], [0, 0, 1]]])
    return Lenses(
        np.array([0, 1, 0]), np.array([[480, 640], [640, 480]]), K, np.array([k1, 0.02]), np.array([0.3, 0.0])
    )


def test_pycolmap_gives_back_what_it_got():
    ours = lenses()
    cameras = ours.pycolmap_cameras(trust_focal=False)
    assert [camera.model.name for camera in cameras] == ["SIMPLE_RADIAL", "OPENCV"]
    assert [camera.has_prior_focal_length for camera in cameras] == [False, True]
    assert all(camera.has_prior_focal_length for camera in ours.pycolmap_cameras(trust_focal=True))
    assert (cameras[1].width, cameras[1].height) == (480, 640)
    blank = replace(ours, K=np.tile(np.eye(3), (2, 1, 1)), k1=np.zeros(2))
    back = blank.from_pycolmap({1: cameras[0]})
    np.testing.assert_allclose(back.K[0], ours.K[0])
    np.testing.assert_allclose(back.k1[0], ours.k1[0])
    np.testing.assert_allclose(back.K[1], np.eye(3))


def test_known_intrinsics_are_not_taken_from_a_mapper_that_moved_them():
    ours = lenses()
    moved = ours.pycolmap_cameras(trust_focal=True)[1]
    moved.params = [600, 610, 240, 322, 0.1, 0, 0, 0]
    back = ours.from_pycolmap({2: moved})
    np.testing.assert_array_equal(back.K, ours.K)
    np.testing.assert_array_equal(back.k1, ours.k1)


def test_rays_are_those_of_pycolmap():
    ours = lenses()
    pixels = np.random.default_rng(0).uniform(100, 400, (20, 2))
    for photo in range(3):
        camera = ours.pycolmap_cameras(trust_focal=True)[ours.group[photo]]
        np.testing.assert_allclose(ours.rays(photo, pixels), np.array(camera.cam_from_img(pixels)), atol=1e-7)


def test_sizes_and_focal_lengths_follow_the_group():
    ours = lenses()
    assert [ours.long_side(photo) for photo in range(3)] == [640, 640, 640]
    assert ours.focal_px(2) == 500 and ours.focal_px(1) == pytest.approx(np.sqrt(700 * 720))


def test_known_focal_lengths_do_not_change():
    changed = lenses().with_focal_ratio([1.5, 2.0], [0.1, 0.1])
    assert changed.K[0, 0, 0] == changed.K[0, 1, 1] == 960
    assert (changed.K[1, 0, 0], changed.K[1, 1, 1]) == (700, 720)
    assert changed.sigma.tolist() == [0.1, 0]
    assert lenses().K[0, 0, 0] == 500


@pytest.mark.parametrize(("k1", "believable"), [(0.0, True), (-0.2, True), (0.15, True), (22.8, False), (-1.0, False)])
def test_lenses_that_cannot_be_are_known(k1, believable):
    assert lenses(k1).believable() == believable
    K = lenses().K * np.array([-1, 1, 1])[:, None]
    assert not replace(lenses(), K=K).believable()
