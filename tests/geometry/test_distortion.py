"""Distortion of several terms, and the one radial term that stands for it."""

from __future__ import annotations

import numpy as np
import pycolmap
import pytest

from flarecli.geometry.distortion import NEAR_PX, Distortion, nearest_one_term
from flarecli.geometry.projection import distort, intrinsics

K = intrinsics(500.0, (480, 640))
TERMS = {
    "RADIAL": [-0.2, 0.05],
    "OPENCV": [-0.3, 0.1, 2e-3, -1e-3],
}


def distortion_of(model: str) -> Distortion:
    terms = TERMS[model]
    return Distortion(model, tuple(terms[:2]), (terms[2], terms[3]) if len(terms) > 2 else (0.0, 0.0))


@pytest.mark.parametrize("model", TERMS)
def test_points_are_seen_where_pycolmap_sees_them(model: str) -> None:
    head = [500, 320, 240] if model == "RADIAL" else [500, 500, 320, 240]
    camera = pycolmap.Camera(model=model, width=640, height=480, params=head + TERMS[model])
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (50, 2))
    seen = np.asarray(camera.img_from_cam(np.c_[points, np.ones(50)]))
    ours = distortion_of(model).distort(points)
    np.testing.assert_allclose(500 * ours + [320, 240], seen, atol=1e-9)
    np.testing.assert_allclose(distortion_of(model).undistort(ours), points, atol=1e-9)


def test_one_term_is_found_again() -> None:
    fitted, k1, worst_px = nearest_one_term(K, Distortion("RADIAL", (-0.15, 0.0)), (480, 640))
    assert np.array_equal(fitted, K) and k1 == pytest.approx(-0.15) and worst_px < 1e-6


def test_a_weak_second_term_leaves_the_focal_length() -> None:
    fitted, k1, worst_px = nearest_one_term(K, Distortion("RADIAL", (-0.05, 0.01)), (480, 640))
    assert np.array_equal(fitted, K) and -0.05 < k1 < -0.04
    assert worst_px < NEAR_PX


def test_the_focal_length_moves_where_that_is_clearly_better() -> None:
    distortion = distortion_of("OPENCV")
    points = np.random.default_rng(0).uniform(-1, 1, (500, 2)) * [0.7, 0.55]
    pixels = 500 * distortion.distort(points) + [320, 240]
    inside = ((pixels > 0) & (pixels < [640, 480])).all(1)
    first = np.linalg.norm(500 * distort(points, -0.3) + [320, 240] - pixels, axis=1)[inside].max()
    fitted, k1, worst_px = nearest_one_term(K, distortion, (480, 640))
    off = fitted[0, 0] * distort(points, k1) + [320, 240] - pixels
    assert np.linalg.norm(off, axis=1)[inside].max() <= worst_px < 0.5 * first
    assert fitted[0, 0] == fitted[1, 1] != 500


def test_a_fold_within_the_photo_is_no_lens() -> None:
    with pytest.raises(ValueError, match="folds"):
        nearest_one_term(K, Distortion("RADIAL", (-1.0, -1.0)), (480, 640))
