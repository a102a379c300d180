"""The dense points of a scene: its sparse points, and one point for every patch of surface in the depth maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from flarecli.export.surface import far_limit, trusted
from flarecli.geometry.projection import map_pixels, pixel_grid, project, unproject_depth
from flarecli.scene.reconstruction import PointCloud, Reconstruction

_SAME_DEPTH = 0.02
_FINER = 0.8  # a later photo must see a patch this much finer to show it once more


def dense_points(reconstruction: Reconstruction, rgb_of: Callable[[int], np.ndarray], keep: np.ndarray) -> PointCloud:
    """The sparse points, and dense points of the depth maps, coloured from the photos.

    A pixel becomes a point where its depth is to be trusted (see :func:`flarecli.export.surface.trusted`) and no
    earlier photo shows the same surface as finely.

    Args:
        reconstruction: cameras and depth maps.
        rgb_of: reads an upright, undistorted photo (H, W, 3) by its index; asked for one after the other.
        keep: photos that contribute.
    """
    cameras, parts = reconstruction.cameras, [_sparse_points(reconstruction)]
    far, shown = far_limit(reconstruction), dict[int, np.ndarray]()
    for view, depth_map in enumerate(reconstruction.depth_maps):
        if depth_map is None or not keep[view]:
            continue
        good = trusted(depth_map, far)
        shown[view] = good
        c2w, K = cameras.c2w[view], depth_map.K
        xyz = unproject_depth(depth_map.depth.astype(np.float64), K)[good] @ c2w[:3, :3].T + c2w[:3, 3]
        footprint = depth_map.depth[good] / K[0, 0]
        new = ~_shown_already(reconstruction, {v: m for v, m in shown.items() if v != view}, xyz, footprint)
        pixel = map_pixels(cameras.K[view] @ np.linalg.inv(K), pixel_grid(*good.shape)[good])[new]
        row, column = pixel[:, 1].astype(int), pixel[:, 0].astype(int)
        rgb = rgb_of(view)
        inside = (row >= 0) & (row < rgb.shape[0]) & (column >= 0) & (column < rgb.shape[1])
        colour = rgb[row[inside], column[inside]]
        views = np.full(len(colour), view)
        parts.append((xyz[new][inside], colour, depth_map.confidence[good][new][inside], views, pixel[inside]))
    return PointCloud(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _shown_already(
    reconstruction: Reconstruction, shown: dict[int, np.ndarray], xyz: np.ndarray, footprint: np.ndarray
) -> Bool[np.ndarray, "N"]:
    """Points that lie on a surface that one of these photos shows, about as finely."""
    out = np.zeros(len(xyz), bool)
    for view, good in shown.items():
        depth_map = reconstruction.depth_maps[view]
        assert depth_map is not None
        pixel, z = project(xyz, reconstruction.cameras.w2c[view], depth_map.K)
        height, width = good.shape
        inside = (z > 0) & (pixel >= 0).all(1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
        row, column = (pixel[inside, axis].astype(int) for axis in (1, 0))
        same = good[row, column] & (np.abs(depth_map.depth[row, column] / z[inside] - 1) < _SAME_DEPTH)
        out[inside] |= same & (_FINER * z[inside] / depth_map.K[0, 0] <= footprint[inside])
    return out


def _sparse_points(reconstruction: Reconstruction) -> tuple[np.ndarray, ...]:
    """Sparse points as dense ones, at their first observation, as trusted as the best tenth of the dense ones."""
    tracks = reconstruction.tracks
    _, first = np.unique(tracks.point_index, return_index=True)
    trusted_most = [np.quantile(depth_map.confidence, 0.9) for depth_map in reconstruction.depth_maps if depth_map]
    confidence = np.full(len(tracks), max([2.0, *map(float, trusted_most)]))
    return tracks.xyz, tracks.rgb, confidence, tracks.view_index[first], tracks.pixel[first]
