"""Predicted Gaussians follow the cameras of the scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from flarecli.geometry.projection import ideal_pixels, map_pixels, photo_pixels, pixel_grid, project, values_at
from flarecli.geometry.transforms import Sim3
from flarecli.inference.assemble import assemble_views, scene_views
from flarecli.inference.gaussians import place_gaussians
from flarecli.inference.predict import Predicted, Window
from flarecli.refine.place import place
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.harmonics import sh_basis
from flarecli.scene.priors import Priors
from flarecli.scene.reconstruction import Reconstruction, Tracks
from flarecli.scene.views import GaussianMaps

from .perfect import CANVAS, cameras_of, photos_of, predicted_of, priors_of

SIZES = [(48, 64), (64, 48), (48, 64)]  # the second is a portrait photo


def with_gaussians(window: Window) -> Window:
    """A Gaussian per pixel: long along the normal of the reference camera, redder the more it is seen along +x."""
    count = len(window.photos)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(count, *CANVAS, 1)
    scales = torch.tensor([0.01, 0.02, 0.05]).repeat(count, *CANVAS, 1)
    sh = torch.zeros(count, *CANVAS, 4, 3)
    sh[..., 3, 0] = -0.4
    maps = GaussianMaps(scales, quats, torch.full((count, *CANVAS), 0.7), sh)
    return Window(window.photos, replace(window.prediction, gaussians=maps))


@pytest.fixture
def setting(tmp_path: Path):
    cameras = cameras_of(SIZES)
    photos = photos_of(tmp_path / "photos", SIZES)
    # Two windows of two photos in units of their own, as a network of two views makes them of three photos.
    predicted = predicted_of(photos, cameras, [[1, 0], [0, 2]], [2.0, 3.0])
    predicted = Predicted(tuple(map(with_gaussians, predicted.windows)), predicted.prepared)
    priors = priors_of(cameras, sigma=0)
    views = scene_views(predicted, priors)
    return cameras, views, assemble_views(photos, views, predicted, priors), priors


def offset_px(gaussians: Gaussians, scene: Reconstruction, view: int, rows: slice) -> float:
    """Largest distance between a photo's Gaussians and the centres of their pixels."""
    means, w2c = gaussians.means[rows].astype(np.float64), scene.cameras.w2c[view]
    depth_map = scene.depth_maps[view]
    assert depth_map is not None
    pixel, _ = project(means, w2c, depth_map.K)
    height, width = depth_map.depth.shape
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return float(np.abs(pixel - np.stack([x, y], -1).reshape(-1, 2)).max())


def test_gaussians_of_two_windows_lie_on_the_pixels_of_one_scene(setting) -> None:
    _, views, initial, _ = setting
    gaussians = place_gaussians(views, initial, initial)
    assert gaussians is not None
    count = CANVAS[0] * CANVAS[1]
    assert len(gaussians) == 3 * count
    for view in range(3):
        assert offset_px(gaussians, initial, view, slice(view * count, (view + 1) * count)) < 0.05
    # One unit in both windows: the second window's scales were given in a unit 1.5 times as large.
    first, last = gaussians.scales[0, 2], gaussians.scales[-1, 2]
    assert first / last == pytest.approx(1.5, rel=0.02)


def test_axes_and_colours_turn_with_the_scene(setting) -> None:
    _, views, initial, _ = setting
    gaussians = place_gaussians(views, initial, initial)
    assert gaussians is not None
    # Reference of the first window is photo 1, but the world is the frame of photo 0.
    turn = initial.cameras.c2w[1, :3, :3]
    assert np.abs(turn - np.eye(3)).max() > 0.05
    axes = Rotation.from_quat(gaussians.quats_wxyz[0], scalar_first=True).as_matrix()
    np.testing.assert_allclose(axes, turn, atol=1e-3)
    looks = np.stack([turn[:, 0], turn[:, 1]])
    red = (sh_basis(looks, 1) @ gaussians.sh[0])[:, 0]
    assert red[0] == pytest.approx(0.4 * 0.4886, rel=1e-2) and abs(red[1]) < 1e-2


def refined(initial: Reconstruction, sim: Sim3, zoom: float, stretch: float) -> Reconstruction:
    """The same scene elsewhere, with another focal length and a deeper depth map."""
    K = np.array(initial.cameras.K)
    K[:, [0, 1], [0, 1]] *= zoom
    maps = []
    for depth_map in initial.depth_maps:
        assert depth_map is not None
        K_map = np.array(depth_map.K)
        K_map[[0, 1], [0, 1]] *= zoom
        maps.append(replace(depth_map, depth=depth_map.depth * sim.scale * stretch, K=K_map))
    return replace(initial, cameras=replace(initial.cameras.transformed(sim), K=K), depth_maps=tuple(maps))


def test_gaussians_follow_refined_cameras(setting) -> None:
    _, views, initial, _ = setting
    sim = Sim3(2.5, Rotation.from_rotvec([0.4, 0.2, -1.0]).as_matrix(), np.array([3.0, -1.0, 2.0]))
    final = refined(initial, sim, zoom=1.3, stretch=1.1)
    before, after = place_gaussians(views, initial, initial), place_gaussians(views, initial, final)
    assert before is not None and after is not None
    count = CANVAS[0] * CANVAS[1]
    for view in range(3):
        assert offset_px(after, final, view, slice(view * count, (view + 1) * count)) < 0.05
    np.testing.assert_allclose(after.scales, before.scales * 2.5 * 1.1 / 1.3, rtol=1e-4)
    ours, theirs = (
        Rotation.from_quat(each.quats_wxyz[::97], scalar_first=True).as_matrix() for each in (after, before)
    )
    np.testing.assert_allclose(ours, sim.rotation @ theirs, atol=1e-4)


def test_measured_depth_of_another_size_pulls_the_gaussians_along(setting) -> None:
    _, views, initial, _ = setting
    maps = list(initial.depth_maps)
    old = maps[0]
    assert old is not None
    twice = np.diag([2.0, 2.0, 1.0])
    depth = 1.2 * old.depth.repeat(2, 0).repeat(2, 1)
    depth[:20] = 0  # not measured there
    maps[0] = replace(old, depth=depth, confidence=np.ones_like(depth), K=twice @ old.K)
    before, after = (
        place_gaussians(views, initial, scene) for scene in (initial, replace(initial, depth_maps=tuple(maps)))
    )
    assert before is not None and after is not None
    dropped, count = 10 * CANVAS[1], CANVAS[0] * CANVAS[1]
    assert len(after) == len(before) - dropped
    # Photo 0 is the world, so that its depth is z.
    np.testing.assert_allclose(after.means[: count - dropped], 1.2 * before.means[dropped:count], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.scales[: count - dropped], 1.2 * before.scales[dropped:count], rtol=1e-4)
    np.testing.assert_array_equal(after.means[count - dropped :], before.means[count:])


def bent_px(gaussians: Gaussians, scene: Reconstruction, view: int, rows: slice, seen: np.ndarray) -> float:
    """Largest distance between a photo's Gaussians and where its lens shows them, of the pixels that were seen."""
    cameras = scene.cameras
    assert cameras.k1 is not None
    ideal, _ = project(gaussians.means[rows].astype(np.float64), cameras.w2c[view], cameras.K[view])
    return float(np.abs(photo_pixels(cameras.K[view], float(cameras.k1[view]), ideal) - seen).max())


@pytest.mark.parametrize("rays", [False, True])
@pytest.mark.parametrize("k1", [-0.15, 0.15])
def test_gaussians_are_where_the_lens_shows_them(setting, waiting, k1, rays) -> None:
    """The network saw the photos with their distortion, which is known only after the refinement."""
    _, views, initial, priors = setting
    if rays:
        views, initial = waiting
    cameras = replace(initial.cameras, k1=np.full(3, k1))
    final = place(initial, cameras, Tracks.empty(), priors)
    gaussians = place_gaussians(views, initial, final)
    assert gaussians is not None and gaussians.view_index is not None
    old, new = initial.depth_maps[0], final.depth_maps[0]
    assert old is not None and new is not None
    seen = map_pixels(initial.cameras.K[0] @ np.linalg.inv(old.K), pixel_grid(*CANVAS))
    ideal = ideal_pixels(cameras.K[0], k1, seen)
    kept = values_at(new.depth, map_pixels(new.K @ np.linalg.inv(final.cameras.K[0]), ideal)) > 0
    assert kept.mean() > 0.6
    mine = gaussians.view_index == 0
    rows = slice(0, int(mine.sum()))
    if rays:
        assert mine.sum() <= kept.sum()
        pixels = seen.reshape(-1, 2)
        ideal_of, _ = project(gaussians.means[rows].astype(np.float64), final.cameras.w2c[0], final.cameras.K[0])
        shown = photo_pixels(final.cameras.K[0], k1, ideal_of)
        distance = np.abs(shown[:, None] - pixels[None]).max(-1).min(1)
        assert distance.max() < 0.05
    else:
        assert mine.sum() == kept.sum()
        assert bent_px(gaussians, final, 0, rows, seen[kept]) < 0.05
    # And the depth map shows the same surface: a pixel of it has the depth that the photo's pixel had.
    grid = pixel_grid(*new.depth.shape)
    back = photo_pixels(new.K, k1, grid)
    there = new.depth > 0
    np.testing.assert_allclose(new.depth[there], values_at(old.depth, back)[there], rtol=1e-6)


def test_photos_without_depth_and_unverified_photos_are_left_out(setting) -> None:
    _, views, initial, _ = setting
    verdicts = tuple(
        replace(each, status="verified" if index == 0 else "network-only")
        for index, each in enumerate(initial.verdicts)
    )
    final = replace(initial, verdicts=verdicts)
    gaussians = place_gaussians(views, initial, final)
    assert gaussians is not None and len(gaussians) == CANVAS[0] * CANVAS[1]
    first = initial.depth_maps[0]
    assert first is not None
    nothing = replace(first, depth=np.zeros_like(first.depth))
    assert place_gaussians(views, initial, replace(final, depth_maps=(nothing, None, None))) is None


def test_known_poses_carry_the_gaussians_too(setting, tmp_path: Path) -> None:
    cameras, _, _, priors = setting
    photos = photos_of(tmp_path / "again", SIZES)
    world = Sim3(1.0, Rotation.from_rotvec([0, 1.0, 0]).as_matrix(), np.array([5.0, 0.0, 0.0]))
    known = Priors(priors.group, priors.size_hw, priors.K, priors.sigma, priors.k1, cameras.transformed(world).c2w)
    predicted = predicted_of(photos, cameras, [[1, 0, 2]])
    predicted = Predicted(tuple(map(with_gaussians, predicted.windows)), predicted.prepared)
    views = scene_views(predicted, known)
    scene = assemble_views(photos, views, predicted, known)
    gaussians = place_gaussians(views, scene, scene)
    assert gaussians is not None
    for view in range(3):
        rows = slice(view * CANVAS[0] * CANVAS[1], (view + 1) * CANVAS[0] * CANVAS[1])
        assert offset_px(gaussians, scene, view, rows) < 0.1


def with_rays(window: Window, opacity: float = 0.9) -> Window:
    """Half a pixel wide, long along the optical axis, and grey."""
    count = len(window.photos)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(count, *CANVAS, 1)
    scales = torch.tensor([0.5, 0.5, 1.0]).repeat(count, *CANVAS, 1)
    sh, opacities = torch.zeros(count, *CANVAS, 1, 3), torch.full((count, *CANVAS), opacity)
    maps = GaussianMaps(scales, quats, opacities, sh, on_rays=True)
    return Window(window.photos, replace(window.prediction, gaussians=maps))


@pytest.fixture
def waiting(tmp_path: Path):
    """Gaussians that wait for a depth, of cameras whose focal length the network had wrong."""
    cameras = cameras_of(SIZES)
    photos = photos_of(tmp_path / "photos", SIZES)
    predicted = predicted_of(photos, cameras, [[1, 0, 2]])
    predicted = Predicted(tuple(map(with_rays, predicted.windows)), predicted.prepared)
    priors = priors_of(cameras, sigma=0)
    views = scene_views(predicted, priors)
    return views, assemble_views(photos, views, predicted, priors)


def test_gaussians_on_rays_lie_on_their_pixels_at_the_final_depth(waiting) -> None:
    views, initial = waiting
    sim = Sim3(2.5, Rotation.from_rotvec([0.4, 0.2, -1.0]).as_matrix(), np.array([3.0, -1.0, 2.0]))
    final = refined(initial, sim, zoom=1.3, stretch=1.1)
    gaussians = place_gaussians(views, initial, final)
    assert gaussians is not None and gaussians.view_index is not None
    assert set(np.unique(gaussians.view_index)) == {0, 1, 2}
    for view in range(3):
        mine = gaussians.select(gaussians.view_index == view)
        depth_map, cameras = final.depth_maps[view], final.cameras
        assert depth_map is not None and len(mine) > 0.9 * depth_map.depth.size  # all but edges
        pixel, depth = project(mine.means.astype(np.float64), cameras.w2c[view], depth_map.K)
        assert np.abs(pixel - np.floor(pixel) - 0.5).max() < 0.01
        row, column = pixel[:, 1].astype(int), pixel[:, 0].astype(int)
        np.testing.assert_allclose(depth, depth_map.depth[row, column], rtol=1e-4)
        np.testing.assert_allclose(mine.scales[:, 0], 0.5 * depth / depth_map.K[0, 0], rtol=1e-4)
        axes = Rotation.from_quat(mine.quats_wxyz[0], scalar_first=True).as_matrix()
        np.testing.assert_allclose(axes, cameras.c2w[view, :3, :3], atol=1e-5)


def test_gaussians_of_unmeasured_pixels_are_larger_and_thinner(waiting) -> None:
    views, initial = waiting
    first = initial.depth_maps[0]
    assert first is not None
    measured = np.zeros(first.depth.shape, bool)
    measured[:, :32] = True
    scene = replace(initial, depth_maps=(replace(first, measured=measured), *initial.depth_maps[1:]))
    gaussians = place_gaussians(views, initial, scene)
    assert gaussians is not None
    seen = gaussians.select(gaussians.view_index == 0)
    pixel, depth = project(seen.means.astype(np.float64), scene.cameras.w2c[0], first.K)
    guessed = pixel[:, 0] > 32
    assert 0.3 < guessed.mean() < 0.7
    assert seen.opacities[guessed].max() < 0.9 * seen.opacities[~guessed].min()
    width = seen.scales[:, 0] / depth
    assert width[guessed].min() > 1.5 * width[~guessed].max()
    others = gaussians.select(gaussians.view_index != 0)
    assert others.opacities.min() == pytest.approx(0.9)  # where nothing is measured nothing steps back
