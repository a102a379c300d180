"""Depth maps of a network brought onto the sparse points of the refined cameras."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from flarecli.geometry.projection import map_pixels
from flarecli.scene.cameras import Cameras
from flarecli.scene.reconstruction import DepthMap, Tracks

_NEIGHBOURS = 8
_REACH = 0.06  # of the diagonal: how far a sparse point speaks for the depth around it
_PRIOR = 0.5  # weight of the global scale against one sparse point at zero distance


def align_depth(depth_map: DepthMap, view: int, cameras: Cameras, tracks: Tracks) -> DepthMap:
    """Scale a depth map so that it passes through the sparse points that its photo sees.

    The logarithm of the ratio between sparse and predicted depth is taken at every sparse point; its robust mean is the
    scale, and around the points a smooth correction follows their own ratios. Fewer than four points leave the map as
    it is.

    Args:
        depth_map: map whose K belongs to this photo.
        view: index of the photo.
        cameras: refined cameras.
        tracks: sparse points.
    """
    seen = tracks.view_index == view
    w2c = cameras.w2c[view]
    z = tracks.xyz[tracks.point_index[seen]] @ w2c[2, :3] + w2c[2, 3]
    map_from_photo = depth_map.K @ np.linalg.inv(cameras.K[view])
    xy = map_pixels(map_from_photo, tracks.pixel[seen])
    height, width = depth_map.depth.shape
    inside = (z > 0) & (xy >= 0).all(1) & (xy[:, 0] < width) & (xy[:, 1] < height)
    xy, z = xy[inside], z[inside]
    predicted = depth_map.depth[xy[:, 1].astype(int), xy[:, 0].astype(int)]
    xy, ratio = xy[predicted > 0], np.log(z[predicted > 0] / predicted[predicted > 0])
    if len(ratio) < 4:
        return depth_map
    centre = float(np.median(ratio))
    spread = float(np.median(np.abs(ratio - centre))) * 1.4826 + 1e-3
    usable = np.abs(ratio - centre) < 4 * spread
    correction = _smooth(xy[usable], ratio[usable] - centre, (height, width))
    depth = depth_map.depth * np.exp(centre + correction)
    return DepthMap(depth, depth_map.confidence, depth_map.K)


def _smooth(xy: np.ndarray, values: np.ndarray, size_hw: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Gaussian-weighted mean of the nearest values, drawn to zero where none is near."""
    height, width = size_hw
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    query = np.stack([x.ravel(), y.ravel()], 1)
    count = min(_NEIGHBOURS, len(xy))
    distance, index = KDTree(xy).query(query, k=count)
    distance, index = distance.reshape(-1, count), index.reshape(-1, count)
    reach = _REACH * float(np.hypot(height, width))
    weight = np.exp(-0.5 * (distance / reach) ** 2)
    return ((weight * values[index]).sum(1) / (weight.sum(1) + _PRIOR)).reshape(height, width)
