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


def behind_measured(gaussians: Gaussians, reconstruction: Reconstruction, photos: Sequence[int]) -> Gaussians:
    """The same Gaussians, none of them before a surface that another photo measured.

    A Gaussian on a pixel without measured depth has the network's, which is off by several per cent: too near, it hides
    what other photos show sharply. Where one of them measured a surface behind it, it moves away along the ray of its
    own photo, growing with the distance, until it is in nobody's way, at most to 2.5 times its depth. Its own photo
    sees hardly a difference.

    Args:
        gaussians: with the photo of each.
        reconstruction: cameras and depth maps.
        photos: those whose measured depth counts.
    """
    if gaussians.view_index is None:
        return gaussians
    measured = {photo: values for photo in photos if (values := _measured(reconstruction, photo)) is not None}
    centers = reconstruction.cameras.centers[gaussians.view_index]
    means, factor = gaussians.means.astype(np.float64), np.ones(len(gaussians))
    waiting = np.arange(len(gaussians))
    for step in _STEPS:
        factor[waiting] = step
        points = centers[waiting] + (means[waiting] - centers[waiting]) * step
        waiting = waiting[_in_the_way(points, gaussians.view_index[waiting], reconstruction, measured)]
    moved = centers + (means - centers) * factor[:, None]
    return replace(gaussians, means=moved, scales=gaussians.scales * factor[:, None])


def _measured(reconstruction: Reconstruction, photo: int) -> Float[np.ndarray, "H W"] | None:
    """Measured depth of a photo, 0 elsewhere."""
    depth_map = reconstruction.depth_maps[photo] if reconstruction.depth_maps else None
    if depth_map is None or depth_map.measured is None:
        return None
    return np.where(depth_map.measured, depth_map.depth, 0)


def _in_the_way(
    points: Float[np.ndarray, "N 3"],
    own: np.ndarray,
    reconstruction: Reconstruction,
    measured: dict[int, Float[np.ndarray, "H W"]],
) -> Bool[np.ndarray, "N"]:
    """Points before a surface that a photo other than their own measured."""
    out = np.zeros(len(points), bool)
    for photo, values in measured.items():
        surface, depth = _seen(points, reconstruction, photo, values)
        out |= (surface > 0) & (depth < (1 - _NEARER) * surface) & (own != photo)
    return out


def _seen(
    points: np.ndarray, reconstruction: Reconstruction, photo: int, values: Float[np.ndarray, "H W"]
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """The value of a photo's map where it sees each point, 0 where it does not; and the depth of the point."""
    depth_map = reconstruction.depth_maps[photo]
    assert depth_map is not None  # it has values
    pixel, depth = project(np.asarray(points, np.float64), reconstruction.cameras.w2c[photo], depth_map.K)
    height, width = values.shape
    inside = (depth > 0) & (pixel >= 0).all(1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
    out = np.zeros(len(points))
    column, row = pixel[inside].astype(int).T
    out[inside] = values[row, column]
    return out, depth
