"""What a depth map says about the surface: normals, edges, which pixels to trust."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from flarecli.geometry.projection import map_pixels, unproject_depth
from flarecli.scene.reconstruction import DepthMap, Reconstruction

# A step of more than this many pixel footprints between neighbours is a tilt beyond 84 degrees: an edge, not a surface.
_MAX_STEP_FOOTPRINTS = 10.0
_MIN_CONFIDENCE_SHARE = 0.15
_FAR_FACTOR = 4.0


def normals_from_depth(depth_map: DepthMap) -> Float[np.ndarray, "H W 3"]:
    """Unit normals in the camera's frame, towards the camera; the viewing direction where they are not determined.

    Central differences of the un-projected map, one-sided where the other side is an edge or has no depth.
    """
    depth = depth_map.depth.astype(np.float64)
    cam = unproject_depth(depth, depth_map.K)
    along_x, along_y = (_difference(cam, depth, depth_map.K, axis) for axis in (1, 0))
    normal = np.cross(along_x, along_y)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    view = -cam / np.maximum(np.linalg.norm(cam, axis=-1, keepdims=True), 1e-30)
    view[depth <= 0] = (0.0, 0.0, -1.0)
    normal = np.where(length > 1e-20, normal / np.maximum(length, 1e-20), view)
    return np.where(np.sum(normal * view, -1, keepdims=True) < 0, -normal, normal)


def _difference(cam: np.ndarray, depth: np.ndarray, K: np.ndarray, axis: int) -> np.ndarray:
    """Derivative of a point map along an axis from the neighbours on the same surface; zero without any."""
    step = np.diff(cam, axis=axis)
    smooth = ~_is_step(depth, K, axis)
    step = np.where(smooth[..., None], step, 0.0)
    pad = [(0, 0)] * 3
    pad[axis] = (0, 1)
    forward, has_forward = np.pad(step, pad), np.pad(smooth, pad[:2])
    pad[axis] = (1, 0)
    backward, has_backward = np.pad(step, pad), np.pad(smooth, pad[:2])
    number = has_forward.astype(int) + has_backward
    return (forward + backward) / np.maximum(number, 1)[..., None]


def _is_step(depth: np.ndarray, K: np.ndarray, axis: int) -> np.ndarray:
    """Whether neighbours along an axis lie on different surfaces (or one has no depth)."""
    first, second = (np.take(depth, np.arange(a, depth.shape[axis] - 1 + a), axis) for a in (0, 1))
    footprint = np.minimum(first, second) / np.sqrt(K[0, 0] * K[1, 1])
    return (np.abs(first - second) > _MAX_STEP_FOOTPRINTS * footprint) | (first <= 0) | (second <= 0)


def edges(depth_map: DepthMap) -> Bool[np.ndarray, "H W"]:
    """Pixels next to a jump of depth or a hole; networks smear surfaces there."""
    depth = depth_map.depth.astype(np.float64)
    found = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        step = _is_step(depth, depth_map.K, axis)
        before, after = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        before[axis], after[axis] = (1, 0), (0, 1)
        found |= np.pad(step, before) | np.pad(step, after)
    return found


def far_limit(reconstruction: Reconstruction) -> float:
    """Depth beyond which pixels count as sky: four times the 90th percentile of the trusted depths' medians."""
    medians = [
        np.median(m.depth[m.depth > 0]) for m in reconstruction.depth_maps if m is not None and (m.depth > 0).any()
    ]
    return _FAR_FACTOR * float(np.percentile(medians, 90)) if medians else 0.0


def trusted(depth_map: DepthMap, far: float) -> Bool[np.ndarray, "H W"]:
    """Pixels for points and meshes: depth there, not sky, no edge, and confidence not far below the photo's best fifth.

    Where a fifth of a photo or more is measured, the network's depth in between thus stays out.
    """
    there = (depth_map.depth > 0) & (depth_map.depth < far)
    if not there.any():
        return there
    least = 1 + _MIN_CONFIDENCE_SHARE * (float(np.percentile(depth_map.confidence[there], 80)) - 1)
    return there & (depth_map.confidence >= least) & ~edges(depth_map)


def point_normals(reconstruction: Reconstruction) -> Float[np.ndarray, "N 3"]:
    """World normals of the dense points from the depth map of the photo that each comes from.

    Points of photos without depth map get the direction towards their camera.
    """
    points, cameras = reconstruction.points, reconstruction.cameras
    out = cameras.centers[points.view_index] - points.xyz
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-30)
    for view, depth_map in enumerate(reconstruction.depth_maps):
        mine = points.view_index == view
        if depth_map is None or not mine.any():
            continue
        place = map_pixels(depth_map.K @ np.linalg.inv(cameras.K[view]), points.pixel[mine])[:, ::-1]
        rows, columns = np.clip(place.astype(int), 0, np.array(depth_map.depth.shape) - 1).T
        out[mine] = normals_from_depth(depth_map)[rows, columns] @ cameras.c2w[view, :3, :3].T
    return out
