"""Depth maps find the scale and the smooth bend that brings them onto the sparse points."""

from dataclasses import replace

import numpy as np
import pytest

from flarecli.geometry.projection import normalise, pixel_grid
from flarecli.refine.depth import align_depth
from tests.synthetic import make_scene


@pytest.fixture(scope="module")
def scene():
    return make_scene(3, (96, 128), num_tracks=900, with_images=False).reconstruction


def off_by(depth, scene, view=1):
    good = scene.depth_maps[view].confidence > 2
    return np.abs(np.log(depth.depth / scene.depth_maps[view].depth))[good]


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
def test_a_scale_is_undone(scene, scale):
    exact = scene.depth_maps[1]
    found = align_depth(replace(exact, depth=exact.depth * scale), 1, scene.cameras, scene.tracks)
    assert np.median(off_by(found, scene)) < 0.003
    np.testing.assert_array_equal(found.confidence, exact.confidence)
    np.testing.assert_array_equal(found.K, exact.K)


def test_a_smooth_bend_is_undone_where_there_are_points(scene):
    exact = scene.depth_maps[1]
    plane = normalise(exact.K, pixel_grid(*exact.depth.shape))
    bend = np.exp(0.25 * plane[..., 0] + 0.15 * plane[..., 1])
    bent = replace(exact, depth=exact.depth * 3 * bend)
    found = align_depth(bent, 1, scene.cameras, scene.tracks)
    without = np.abs(np.log(bend) - np.median(np.log(bend)))
    assert np.median(off_by(found, scene)) < 0.25 * np.median(without)


def test_wrong_points_do_not_pull_the_depth_along(scene):
    exact, tracks = scene.depth_maps[1], scene.tracks
    xyz = np.array(tracks.xyz)
    xyz[::5] *= 4
    found = align_depth(exact, 1, scene.cameras, replace(tracks, xyz=xyz))
    assert np.median(off_by(found, scene)) < 0.01


def test_holes_stay_holes_and_few_points_change_nothing(scene):
    exact = scene.depth_maps[1]
    depth = np.array(exact.depth) * 2
    depth[:20] = 0
    found = align_depth(replace(exact, depth=depth), 1, scene.cameras, scene.tracks)
    assert (found.depth[:20] == 0).all() and (found.depth[20:] > 0).all()
    few = scene.tracks.view_index != 1
    tracks = scene.tracks
    counts = np.bincount(tracks.point_index[few], minlength=len(tracks))
    keep = few & (counts[tracks.point_index] >= 2)
    points, index = np.unique(tracks.point_index[keep], return_inverse=True)
    without = type(tracks)(
        tracks.xyz[points],
        tracks.rgb[points],
        tracks.error_px[points],
        index,
        tracks.view_index[keep],
        tracks.pixel[keep],
    )
    assert align_depth(exact, 1, scene.cameras, without) is exact
