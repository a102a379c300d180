"""Predicted Gaussians moved out of space that other photos saw to be empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from flarecli.geometry.projection import project
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.reconstruction import Reconstruction

_NEARER = 0.03  # of the measured depth: what is nearer stands in the way
_STEPS = (1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5)  # of the depth of a Gaussian in its own photo
_JUDGES = 24  # nearest photos that are asked
_NETWORK_SHARE = 2 / 3


def behind_measured(gaussians: Gaussians, reconstruction: Reconstruction, photos: Sequence[int]) -> Gaussians:
    """The same Gaussians, none of them before a surface that another photo measured.

    A Gaussian on a pixel without measured depth has the network's, which is off by several per cent: too near, it hides
    what other photos show sharply. Where one of them measured a surface behind it, it moves away along the ray of its
    own photo, growing with the distance, until it is in nobody's way, at most to 2.5 times its depth. Its own photo
    sees hardly a difference. Where no photo has measured depth, the network's counts, but two thirds of the photos
    that see the place must agree.

    Args:
        gaussians: with the photo of each.
        reconstruction: cameras and depth maps.
        photos: those whose depth counts; for each photo the nearest of them.
    """
    if gaussians.view_index is None:
        return gaussians
    surfaces, share = _surfaces(reconstruction, photos)
    centers, factor = reconstruction.cameras.centers, np.ones(len(gaussians))
    for own in np.unique(gaussians.view_index).tolist():
        mine = np.flatnonzero(gaussians.view_index == own)
        rays = gaussians.means[mine] - centers[own]
        near = np.argsort(np.linalg.norm(centers - centers[own], axis=1))
        judges = [photo for photo in near.tolist() if photo in surfaces and photo != own][:_JUDGES]
        waiting = np.arange(len(mine))
        for step in _STEPS:
            factor[mine[waiting]] = step
            points = centers[own] + rays[waiting] * step
            seeing, against = np.zeros((2, len(waiting)))
            for photo in judges:
                surface, depth = _before(points, reconstruction, photo, surfaces[photo])
                seeing += surface > 0
                against += depth < (1 - _NEARER) * surface
            waiting = waiting[(against > 0) & (against >= share * seeing)]
    start = centers[gaussians.view_index]
    moved = start + (gaussians.means - start) * factor[:, None]
    return replace(gaussians, means=moved, scales=gaussians.scales * factor[:, None])


def _surfaces(
    reconstruction: Reconstruction, photos: Sequence[int]
) -> tuple[dict[int, Float[np.ndarray, "H W"]], float]:
    """The depth that counts by photo, 0 where none does, and the share of those who see a place that must agree."""
    known = reconstruction.depth_maps or (None,) * len(reconstruction)
    maps = {photo: found for photo in photos if (found := known[photo]) is not None}
    measured = {
        photo: np.where(each.measured, each.depth, 0) for photo, each in maps.items() if each.measured is not None
    }
    if measured:
        return measured, 0.0
    return {photo: each.depth for photo, each in maps.items()}, _NETWORK_SHARE


def _before(
    points: Float[np.ndarray, "N 3"], reconstruction: Reconstruction, photo: int, surface: Float[np.ndarray, "H W"]
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """Depth of the surface that a photo sees in the direction of each point, 0 for none, and that of the point."""
    depth_map = reconstruction.depth_maps[photo]
    assert depth_map is not None  # it has a surface
    pixel, depth = project(points, reconstruction.cameras.w2c[photo], depth_map.K)
    height, width = surface.shape
    inside = (depth > 0) & (pixel >= 0).all(1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
    column, row = pixel[inside].astype(int).T
    out = np.zeros(len(points))
    out[inside] = surface[row, column]
    return out, depth
