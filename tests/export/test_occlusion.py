"""Gaussians are moved out of space that other photos saw to be empty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flarecli.errors import InputError
from flarecli.export.archive import load_scene, save_scene
from flarecli.export.gaussian_files import first_gaussians, scene_gaussians
from flarecli.export.occlusion import behind_measured
from flarecli.geometry.projection import project, unproject_depth
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.reconstruction import Reconstruction


@pytest.fixture
def scene(synthetic) -> Reconstruction:
    """Every photo has a Gaussian per pixel, those of photo 0 at 0.7 of the true depth; all others are measured."""
    exact, parts = synthetic.reconstruction, []
    maps = [replace(part, measured=np.full(part.depth.shape, view > 0)) for view, part in enumerate(exact.depth_maps)]
    for view, part in enumerate(maps):
        points = unproject_depth(part.depth.astype(np.float64) * (0.7 if view == 0 else 1), part.K).reshape(-1, 3)
        points = points[part.depth.ravel() > 0] @ exact.cameras.c2w[view, :3, :3].T + exact.cameras.centers[view]
        n = len(points)
        shape = (np.full((n, 3), 0.01), np.tile([1.0, 0, 0, 0], (n, 1)), np.full(n, 0.5), np.zeros((n, 1, 3)))
        parts.append(Gaussians(points, *shape, view_index=np.full(n, view)))
    names = ("means", "scales", "quats_wxyz", "opacities", "sh", "view_index")
    joined = Gaussians(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    return replace(exact, depth_maps=tuple(maps), first_gaussians=joined)


def of(gaussians: Gaussians, photo: int) -> Gaussians:
    assert gaussians.view_index is not None
    return gaussians.select(gaussians.view_index == photo)


def test_a_layer_in_mid_air_goes_back_along_its_rays_and_grows(scene):
    before, after = of(scene.first_gaussians, 0), of(scene_gaussians(scene), 0)
    part, w2c = scene.depth_maps[0], scene.cameras.w2c[0]
    (pixel_before, z_before), (pixel, z) = (project(each.means, w2c, part.K) for each in (before, after))
    np.testing.assert_allclose(pixel, pixel_before, atol=1e-2)
    moved = z > 1.01 * z_before
    assert moved.mean() > 0.5
    np.testing.assert_allclose(after.scales[:, 0] / before.scales[:, 0], z / z_before, rtol=1e-3)
    truth = part.depth[pixel[:, 1].astype(int), pixel[:, 0].astype(int)]
    assert np.median(np.abs(z / truth - 1)[moved]) < 0.1 < np.median(np.abs(z_before / truth - 1)[moved])


def test_what_is_measured_right_stays_where_it_is(scene):
    exact = replace(scene, first_gaussians=scene.first_gaussians.select(scene.first_gaussians.view_index > 0))
    distance = np.linalg.norm(scene_gaussians(exact).means - exact.first_gaussians.means, axis=1)
    assert (distance < 1e-5).mean() > 0.95  # but for pixels across edges


def test_photos_held_out_neither_contribute_nor_measure(scene):
    only = [view for view in range(len(scene)) if view > 1]
    alone = first_gaussians(scene, without=only)
    assert set(np.unique(alone.view_index)) == {0, 1}
    twisted = list(scene.depth_maps)
    for view in only:
        twisted[view] = replace(twisted[view], depth=twisted[view].depth * 3)
    again = first_gaussians(replace(scene, depth_maps=tuple(twisted)), without=only)
    np.testing.assert_array_equal(alone.means, again.means)
    with pytest.raises(InputError, match="no Gaussians"):
        first_gaussians(replace(scene, first_gaussians=of(scene.first_gaussians, 0)), without=[0])


def test_without_measured_depth_two_thirds_must_agree(scene):
    """Three photos look at what stands in mid-air before photo 0; how many of them say so decides."""
    bare = replace(scene, depth_maps=tuple(replace(part, measured=None) for part in scene.depth_maps))
    start = of(scene.first_gaussians, 0).means
    alone = of(scene_gaussians(bare), 0).means
    moved = np.linalg.norm(alone - start, axis=1) > 1e-3
    assert moved.mean() > 0.5
    blind = list(bare.depth_maps)
    for view in (1, 2):  # these see the layer as a surface
        blind[view] = replace(blind[view], depth=blind[view].depth * 0.5)
    few = of(scene_gaussians(replace(bare, depth_maps=tuple(blind))), 0).means
    assert (np.linalg.norm(few - start, axis=1) > 1e-3).mean() < 0.4 * moved.mean()


def test_gaussians_of_no_known_photo_stay(scene):
    strangers = replace(scene.first_gaussians, view_index=None)
    assert behind_measured(strangers, scene, range(len(scene))) is strangers


def test_gaussians_that_were_fitted_come_first(scene):
    fitted = of(scene.first_gaussians, 1)
    assert scene_gaussians(replace(scene, gaussians=fitted)) is fitted
    assert len(first_gaussians(replace(scene, gaussians=fitted))) == len(scene.first_gaussians)


def test_the_archive_keeps_photos_of_gaussians_and_measured_pixels(scene, tmp_path):
    save_scene(scene, tmp_path)
    loaded = load_scene(tmp_path)
    assert loaded.gaussians is None
    np.testing.assert_array_equal(loaded.first_gaussians.view_index, scene.first_gaussians.view_index)
    for ours, theirs in zip(loaded.depth_maps, scene.depth_maps, strict=True):
        np.testing.assert_array_equal(ours.measured, theirs.measured)
    np.testing.assert_array_equal(scene_gaussians(loaded).means, scene_gaussians(scene).means)
    plain = replace(scene, first_gaussians=None, depth_maps=tuple(replace(p, measured=None) for p in scene.depth_maps))
    save_scene(plain, tmp_path)
    again = load_scene(tmp_path)
    assert again.first_gaussians is None and again.depth_maps[0].measured is None
