"""Photos and sparse points in the pixels of a training view."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flarecli.geometry.projection import map_pixels, nearest_values
from flarecli.scene.reconstruction import DepthMap, Tracks

_SPLAT = (-1, 0, 1)  # a sparse point speaks for its neighbouring pixels too: depth is smooth at this size


def sample_colours(picture: Float[Tensor, "3 h w"], place: Float[np.ndarray, "H W 2"]) -> Float[Tensor, "3 H W"]:
    """Colours of a picture, bilinear; places outside get those of the edge.

    Args:
        picture: to look up.
        place: (x, y) divided by its size, 0 and 1 at its outer edges.
    """
    # grid_sample has the outer edges at -1 and 1.
    grid = torch.from_numpy(2 * place - 1).float()[None]
    return functional.grid_sample(picture[None], grid, padding_mode="border", align_corners=False)[0]


def measured_alone(depth_map: DepthMap | None) -> DepthMap | None:
    """The map with what photos agree on and 0 elsewhere; None where the map is the network's alone."""
    if depth_map is None or depth_map.measured is None:
        return None
    return replace(depth_map, depth=np.where(depth_map.measured, depth_map.depth, 0))


def known_depth(
    dense: DepthMap | None,
    sparse: Float[np.ndarray, "H W"],
    K: Float[np.ndarray, "3 3"],
    view_from_photo: Float[np.ndarray, "3 3"],
) -> Float[np.ndarray, "H W"]:
    """z-depth of a view: that of a depth map where it has some, else that of sparse points.

    Args:
        dense: of the photo, 0 where it has none.
        sparse: of :func:`sparse_depth`.
        K: intrinsics in pixels of the photo.
        view_from_photo: from its pixels to those of the view.
    """
    if dense is None:
        return sparse
    photo_from_view = np.linalg.inv(view_from_photo)
    height, width = sparse.shape
    found = nearest_values(dense.depth, (height, width), dense.K @ np.linalg.inv(K) @ photo_from_view)
    return np.where(found > 0, found, sparse)


def sparse_depth(
    tracks: Tracks,
    view: int,
    w2c: Float[np.ndarray, "4 4"],
    view_from_photo: Float[np.ndarray, "3 3"],
    size_hw: tuple[int, int],
) -> Float[np.ndarray, "H W"]:
    """z-depth around the sparse points that a photo observes, the nearest where they meet, else 0.

    Args:
        tracks: points and where photos see them.
        view: index of the photo.
        w2c: its pose.
        view_from_photo: from its pixels to those of the view.
        size_hw: of the view, upright.
    """
    mine = tracks.view_index == view
    z = tracks.xyz[tracks.point_index[mine]] @ w2c[2, :3] + w2c[2, 3]
    place = np.floor(map_pixels(view_from_photo, tracks.pixel[mine])).astype(int)
    nearest = np.full(size_hw, np.inf)
    for down in _SPLAT:
        for across in _SPLAT:
            column, row = place[:, 0] + across, place[:, 1] + down
            good = (z > 0) & (column >= 0) & (row >= 0) & (column < size_hw[1]) & (row < size_hw[0])
            np.minimum.at(nearest, (row[good], column[good]), z[good])
    return np.where(np.isfinite(nearest), nearest, 0.0)
