"""The camera model: inverses, pixel maps, the lens beyond its fold, focal lengths from point maps."""

import numpy as np
import pycolmap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flarecli.geometry.projection import (
    distort,
    focal_from_pointmap,
    ideal_pixels,
    intrinsics,
    map_intrinsics,
    map_pixels,
    nearest_values,
    normalise,
    photo_pixels,
    pixel_grid,
    project,
    undistort,
    unproject_depth,
)
from flarecli.geometry.transforms import rigid

from .test_transforms import random_cameras

settings.load_profile("flare")

seeds = st.integers(0, 2**32 - 1)


def test_pixel_centres_are_at_half():
    grid = pixel_grid(2, 3)
    assert grid.shape == (2, 3, 2)
    assert grid[0, 0].tolist() == [0.5, 0.5] and grid[1, 2].tolist() == [2.5, 1.5]
    assert intrinsics(7.0, (2, 3)).tolist() == [[7, 0, 1.5], [0, 7, 1], [0, 0, 1]]


@given(seeds)
def test_projection_and_unprojection_are_inverse(seed):
    rng = np.random.default_rng(seed)
    depth, K = rng.uniform(0.5, 9, (6, 8)), np.array([[9.0, 0, 3.7], [0, 11, 3.2], [0, 0, 1]])
    c2w = random_cameras(seed, 1)[0]
    points = unproject_depth(depth, K).reshape(-1, 3) @ c2w[:3, :3].T + c2w[:3, 3]
    pixels, z = project(points, np.linalg.inv(c2w), K)
    np.testing.assert_allclose(pixels, pixel_grid(6, 8).reshape(-1, 2), atol=1e-8)
    np.testing.assert_allclose(z, depth.ravel(), atol=1e-9)


def test_points_behind_have_no_pixel():
    pixels, depth = project(np.array([[0, 0, 2.0], [0, 0, 0], [1, 0, -2]]), np.eye(4), intrinsics(5, (4, 4)))
    assert pixels[0].tolist() == [2, 2] and np.isnan(pixels[1:]).all()
    assert depth.tolist() == [2, 0, -2]


@given(seeds)
def test_projecting_and_mapping_pixels_commute(seed):
    rng = np.random.default_rng(seed)
    K = np.array([[90.0, 0, 31], [0, 80, 25], [0, 0, 1]])
    b_from_a = np.array([[rng.uniform(0.1, 3), 0, rng.normal()], [0, rng.uniform(0.1, 3), rng.normal()], [0, 0, 1]])
    points = rng.normal(size=(10, 3)) + np.array([0, 0, 6])
    mapped = map_pixels(b_from_a, project(points, np.eye(4), K)[0])
    np.testing.assert_allclose(project(points, np.eye(4), map_intrinsics(K, b_from_a))[0], mapped, atol=1e-9)


@given(seeds, st.floats(-0.3, 0.5))
def test_distortion_is_undone_inside_of_the_fold(seed, k1):
    fold = np.sqrt(1 / (-3 * k1)) if k1 < -1e-6 else 3.0
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(20, 2))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    ideal = direction * rng.uniform(0, 0.95 * min(fold, 3.0), (20, 1))
    np.testing.assert_allclose(undistort(distort(ideal, k1), k1), ideal, atol=1e-7)


@given(st.floats(-0.5, -0.02), st.floats(1.001, 30.0))
def test_rays_beyond_the_fold_end_on_it(k1, beyond):
    fold = np.sqrt(1 / (-3 * k1))
    seen = np.array([[0.6, -0.8]]) * 2 / 3 * fold * beyond
    found = undistort(seen, k1)
    assert np.linalg.norm(found) == pytest.approx(fold, rel=1e-4)
    assert found[0] @ seen[0] > 0


def test_undistorting_the_centre_gives_the_centre():
    assert undistort(np.zeros((1, 2)), 0.2).tolist() == [[0, 0]]


@given(st.floats(-0.2, 0.3))
def test_photo_pixels_are_those_of_pycolmap(k1):
    K = np.array([[100.0, 0, 60], [0, 100.0, 45], [0, 0, 1]])
    camera = pycolmap.Camera(model="SIMPLE_RADIAL", width=120, height=90, params=[100, 60, 45, k1])
    ideal = np.random.default_rng(0).uniform([20, 15], [100, 75], (30, 2))
    rays = np.column_stack([normalise(K, ideal), np.ones(30)])
    seen = photo_pixels(K, k1, ideal)
    np.testing.assert_allclose(seen, np.array(camera.img_from_cam(rays)), atol=1e-9)
    np.testing.assert_allclose(ideal_pixels(K, k1, seen), ideal, atol=1e-6)


@given(seeds, st.floats(30, 300))
def test_the_focal_length_survives_thirty_percent_of_outliers(seed, focal):
    rng = np.random.default_rng(seed)
    size_hw = 24, 32
    points = unproject_depth(rng.uniform(1, 6, size_hw), intrinsics(focal, size_hw))
    bad = rng.random(size_hw) < 0.3
    points[bad] = rng.normal(size=(bad.sum(), 3)) * 2 + [0, 0, 3]
    assert focal_from_pointmap(points, (16, 12)) == pytest.approx(focal, rel=0.01)
    # confidence that knows the bad ones makes it exact
    assert focal_from_pointmap(points, (16, 12), np.where(bad, 0.0, 2.0)) == pytest.approx(focal, rel=1e-9)


def test_focal_length_off_centre_and_without_points():
    K = np.array([[50.0, 0, 9], [0, 50, 17], [0, 0, 1]])
    points = unproject_depth(np.full((20, 30), 2.0), K)
    assert focal_from_pointmap(points, (9, 17)) == pytest.approx(50)
    points[..., 2] *= -1
    with pytest.raises(ValueError, match="too few"):
        focal_from_pointmap(points, (9, 17))
    with pytest.raises(ValueError, match="too few"):
        focal_from_pointmap(np.full((20, 30, 3), np.nan), (9, 17))


def test_rigid_matrices_are_assembled_in_batches():
    rotation = np.stack([np.eye(3), np.diag([1.0, -1, -1])])
    matrix = rigid(rotation, np.arange(6.0).reshape(2, 3))
    assert matrix[1].tolist() == [[1, 0, 0, 3], [0, -1, 0, 4], [0, 0, -1, 5], [0, 0, 0, 1]]


def test_the_nearest_value_of_a_smaller_shifted_map():
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    half = np.array([[0.5, 0, -0.5], [0, 0.5, 0], [0, 0, 1]])  # twice the pixels, one of its own further left
    found = nearest_values(values, (5, 10), half)
    wanted = np.zeros((5, 10))
    wanted[:4, 1:7] = np.kron(values, np.ones((2, 2)))
    np.testing.assert_array_equal(found, wanted)
    truths = nearest_values(values > 3, (5, 10), half)
    assert truths.dtype == bool and truths.sum() == 12
