"""Predicted Gaussians moved out of space that other photos saw to be empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from flarecli.geometry.projection import project
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.reconstruction import Reconstruction

_NEARER = 0.03  # of the measured depth: what is nearer stands in the way
_STEPS = (1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5)  # of the depth of a Gaussian in its own photo
_JUDGES = 24  # nearest photos that are asked


def behind_measured(gaussians: Gaussians, reconstruction: Reconstruction, photos: Sequence[int]) -> Gaussians:
    """The same Gaussians, none of them before a surface that another photo measured.

    A Gaussian on a pixel without measured depth has the network's, which is off by several per cent: too near, it hides
    what other photos show sharply. Where one of them measured a surface behind it, it moves away along the ray of its
    own photo, growing with the distance, until it is in nobody's way, at most to 2.5 times its depth. Its own photo
    sees hardly a difference.

    Args:
        gaussians: with the photo of each.
        reconstruction: cameras and depth maps.
        photos: those whose measured depth counts; for each photo the nearest of them.
    """
    if gaussians.view_index is None:
        return gaussians
    measured = {photo: values for photo in photos if (values := _measured(reconstruction, photo)) is not None}
    centers, factor = reconstruction.cameras.centers, np.ones(len(gaussians))
    for own in np.unique(gaussians.view_index).tolist():
        mine = np.flatnonzero(gaussians.view_index == own)
        rays = gaussians.means[mine] - centers[own]
        near = np.argsort(np.linalg.norm(centers - centers[own], axis=1))
        judges = [photo for photo in near.tolist() if photo in measured and photo != own][:_JUDGES]
        waiting = np.arange(len(mine))
        for step in _STEPS:
            factor[mine[waiting]] = step
            points, bad = centers[own] + rays[waiting] * step, np.zeros(len(waiting), bool)
            for photo in judges:
                bad |= _in_the_way(points, reconstruction, photo, measured[photo])
            waiting = waiting[bad]
    start = centers[gaussians.view_index]
    moved = start + (gaussians.means - start) * factor[:, None]
    return replace(gaussians, means=moved, scales=gaussians.scales * factor[:, None])


def _measured(reconstruction: Reconstruction, photo: int) -> Float[np.ndarray, "H W"] | None:
    """Measured depth of a photo, 0 elsewhere."""
    depth_map = reconstruction.depth_maps[photo] if reconstruction.depth_maps else None
    if depth_map is None or depth_map.measured is None:
        return None
    return np.where(depth_map.measured, depth_map.depth, 0)


def _in_the_way(
    points: Float[np.ndarray, "N 3"], reconstruction: Reconstruction, photo: int, measured: Float[np.ndarray, "H W"]
) -> Bool[np.ndarray, "N"]:
    """Points before the surface that a photo measured where it sees them."""
    depth_map = reconstruction.depth_maps[photo]
    assert depth_map is not None  # it has measured depth
    pixel, depth = project(points, reconstruction.cameras.w2c[photo], depth_map.K)
    height, width = measured.shape
    inside = (depth > 0) & (pixel >= 0).all(1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
    column, row = pixel[inside].astype(int).T
    out = np.zeros(len(points), bool)
    out[inside] = depth[inside] < (1 - _NEARER) * measured[row, column]
    return out
