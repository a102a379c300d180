"""Solved cameras back into a reconstruction: starting lenses, the common world, depth on the sparse points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flarecli.geometry.projection import ideal_pixels, map_intrinsics, map_pixels, photo_pixels, pixel_grid
from flarecli.geometry.transforms import Sim3
from flarecli.refine.depth import align_depth
from flarecli.refine.lens import Lenses
from flarecli.scene.cameras import Cameras
from flarecli.scene.priors import Priors
from flarecli.scene.reconstruction import DepthMap, Reconstruction, Tracks


def prior_lenses(priors: Priors) -> Lenses:
    """One lens per group of photos that share a camera."""
    groups = np.unique(priors.group)
    first = np.array([int(np.flatnonzero(priors.group == group)[0]) for group in groups])
    index = np.searchsorted(groups, priors.group)
    return Lenses(index, priors.size_hw[first], priors.K[first].copy(), priors.k1[first].copy(), priors.sigma[first])


def place(initial: Reconstruction, cameras: Cameras, tracks: Tracks, priors: Priors) -> Reconstruction:
    """Replace cameras and sparse points, and bring every depth map onto them.

    The world becomes the frame of the first photo, in the unit of the network's scene; known poses stay where they are.

    Args:
        initial: what the network made.
        cameras: solved cameras of all photos, in any world.
        tracks: sparse points in that world.
        priors: known poses.
    """
    sim = _common_world(cameras, initial.cameras, priors)
    # Known poses pass through pycolmap and come back with other last digits.
    cameras = cameras.transformed(sim) if priors.c2w is None else replace(cameras, c2w=priors.c2w)
    tracks = replace(tracks, xyz=sim.apply(tracks.xyz))
    depth_maps = tuple(
        None if depth_map is None else _placed_depth(depth_map, view, initial.cameras, cameras, tracks)
        for view, depth_map in enumerate(initial.depth_maps)
    )
    return replace(initial, cameras=cameras, tracks=tracks, depth_maps=depth_maps)


def _common_world(cameras: Cameras, initial: Cameras, priors: Priors) -> Sim3:
    if priors.c2w is not None:
        return Sim3.identity()
    spread, wanted = (float(np.linalg.norm(each.centers - each.centers.mean(0))) for each in (cameras, initial))
    # By size alone: the best fit of a scale shrinks the scene the more the worse the network's positions are.
    scale = wanted / spread if spread > 0 and wanted > 0 else 1.0
    rotation, center = cameras.c2w[0, :3, :3], cameras.c2w[0, :3, 3]
    return Sim3(scale, rotation.T, -scale * rotation.T @ center)


def _placed_depth(depth_map: DepthMap, view: int, old: Cameras, new: Cameras, tracks: Tracks) -> DepthMap:
    """A depth map with the intrinsics and the lens of its photo's new camera, brought onto the sparse points."""
    assert old.k1 is not None
    assert new.k1 is not None
    map_from_photo = depth_map.K @ np.linalg.inv(old.K[view])
    ideal = map_pixels(np.linalg.inv(map_from_photo), pixel_grid(*depth_map.depth.shape))
    seen = photo_pixels(new.K[view], float(new.k1[view]), ideal)
    pixels = map_pixels(map_from_photo, ideal_pixels(old.K[view], float(old.k1[view]), seen))
    moved = depth_map.resampled(pixels, map_intrinsics(new.K[view], map_from_photo))
    return align_depth(moved, view, new, tracks)
