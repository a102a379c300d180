"""Plane sweep on rendered photos whose depth is known."""

from dataclasses import replace

import numpy as np
import pytest

from flarecli.refine.stereo import Picture, sweep
from tests.synthetic import make_scene


@pytest.fixture(scope="module")
def scene():
    return make_scene(4, (120, 160), arc_deg=24, depth_scale=1.0)


def pictures_of(scene):
    cameras = scene.reconstruction.cameras
    return [Picture(image.mean(-1), cameras.K[view], cameras.c2w[view]) for view, image in enumerate(scene.images)]


def wrong(found, scene, view=1):
    """Relative error of pixels away from the rim of the sphere."""
    exact = scene.reconstruction.depth_maps[view]
    return np.abs(found / exact.depth - 1)[exact.confidence > 2]


@pytest.mark.parametrize("others", [[0], [0, 2, 3]])
def test_depth_is_found_from_one_photo_or_more(scene, others):
    pictures = pictures_of(scene)
    found = sweep(pictures[1], [pictures[other] for other in others], (2.5, 9.0))
    assert np.median(wrong(found.depth, scene)) < 0.01
    assert np.percentile(wrong(found.depth, scene), 75) < 0.03
    assert found.score.min() >= 0 and np.median(found.score) > 0.8


def test_pictures_of_other_sizes_and_focal_lengths_serve_too(scene):
    pictures = pictures_of(scene)
    half = Picture(
        pictures[0].grey.reshape(60, 2, 80, 2).mean((1, 3)), np.diag([0.5, 0.5, 1]) @ pictures[0].K, pictures[0].c2w
    )
    found = sweep(pictures[1], [half], (2.5, 9.0))
    assert np.median(wrong(found.depth, scene)) < 0.02


def test_without_texture_the_hint_decides_and_with_texture_it_does_not(scene):
    pictures = pictures_of(scene)
    hint = np.full((120, 160), 3.4)
    bare = [replace(picture, grey=np.full((120, 160), 100.0)) for picture in pictures]
    flat = sweep(bare[1], [bare[0], bare[2]], (2.5, 9.0), hint)
    np.testing.assert_allclose(flat.depth, 3.4, rtol=0.02)
    assert flat.score.max() < 0.1
    found = sweep(pictures[1], [pictures[0], pictures[2]], (2.5, 9.0), hint)
    assert np.median(wrong(found.depth, scene)) < 0.01


def test_wrong_cameras_do_not_agree(scene):
    pictures = pictures_of(scene)
    turned = pictures[2].c2w.copy()
    turned[:3, 3] += [0.0, 0.8, 0.0]
    right = sweep(pictures[1], [pictures[2]], (2.5, 9.0))
    found = sweep(pictures[1], [replace(pictures[2], c2w=turned)], (2.5, 9.0))
    assert np.median(found.score) < np.median(right.score) - 0.1


def test_what_the_other_photo_does_not_reach_scores_nothing(scene):
    pictures = pictures_of(scene)
    away = pictures[0].c2w.copy()
    away[:3, :3] = away[:3, :3] @ np.diag([-1.0, 1.0, -1.0])  # looks backwards
    assert sweep(pictures[1], [replace(pictures[0], c2w=away)], (2.5, 9.0)).score.max() == 0
