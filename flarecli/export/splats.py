"""First Gaussians from the dense cloud: one flat disc per point, as large as the pixels that it stands for."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from flarecli.errors import InputError
from flarecli.export.surface import point_normals
from flarecli.scene.gaussians import SH_C0, Gaussians
from flarecli.scene.reconstruction import Reconstruction

_STD_PER_FOOTPRINT = 0.6  # neighbouring discs overlap enough to leave no holes
_THICKNESS = 0.15
_MAX_STRETCH = 4.0  # a surface seen at a grazing angle; beyond it the normal is not trusted
_MAX_SPACING_PX = 16.0
_OPACITY_RANGE = (0.1, 0.95)


def gaussians_from_points(reconstruction: Reconstruction) -> Gaussians:
    """Gaussians of degree 0, one per dense point, in the order of the points.

    A point covers depth / focal of its photo times the spacing of that photo's points. The disc lies in the surface
    (normal from the depth map) and is stretched along the direction in which the surface leans away from the camera.
    Opacity grows with the network's confidence c as 1 - 1/c.

    Raises:
        InputError: the reconstruction has no dense points.
    """
    points = reconstruction.points
    if not len(points):
        raise InputError("there are no dense points to make Gaussians from", "write other formats with --to")
    xyz = points.xyz.astype(np.float64)
    normals = point_normals(reconstruction)
    to_camera = reconstruction.cameras.centers[points.view_index] - xyz
    to_camera /= np.maximum(np.linalg.norm(to_camera, axis=1, keepdims=True), 1e-30)
    lean, across = _surface_axes(normals, to_camera)
    cosine = np.clip(np.sum(normals * to_camera, 1), 1 / _MAX_STRETCH, 1)
    std = _STD_PER_FOOTPRINT * _footprints(reconstruction)
    scales = np.stack([std / cosine, std, _THICKNESS * std], 1)
    # scipy's conversion takes a quarter of the time of the project's own, which is for few cameras; its order is xyzw.
    quats = np.roll(Rotation.from_matrix(np.stack([lean, across, normals], 2)).as_quat(), 1, axis=1)
    colour = (points.rgb / 255.0 - 0.5) / SH_C0
    opacity = np.clip(1 - 1 / np.maximum(points.confidence, 1.0), *_OPACITY_RANGE)
    return Gaussians(xyz, np.maximum(scales, 1e-12), quats, opacity, colour[:, None])


def _surface_axes(normals: np.ndarray, to_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit axes in the surface, right-handed with the normal; the first one leans away from the camera."""
    lean = to_camera - np.sum(to_camera * normals, 1, keepdims=True) * normals
    # Seen head-on there is no such direction: take any, from the coordinate axis that is least parallel to the normal.
    helper = np.eye(3)[np.argmin(np.abs(normals), 1)]
    fallback = helper - np.sum(helper * normals, 1, keepdims=True) * normals
    lean = np.where(np.linalg.norm(lean, axis=1, keepdims=True) > 1e-3, lean, fallback)
    lean /= np.linalg.norm(lean, axis=1, keepdims=True)
    return lean, np.cross(normals, lean)


def _footprints(reconstruction: Reconstruction) -> np.ndarray:
    """Side in world units of the patch that each point stands for, facing the camera."""
    points, cameras = reconstruction.points, reconstruction.cameras
    w2c = cameras.w2c[points.view_index]
    depth = np.einsum("ni,ni->n", w2c[:, 2, :3], points.xyz.astype(np.float64)) + w2c[:, 2, 3]
    spacing_px = np.ones(len(cameras))
    counts = np.bincount(points.view_index, minlength=len(cameras))
    for view, number in enumerate(counts):
        depth_map = reconstruction.depth_maps[view] if reconstruction.depth_maps else None
        share = 1.0 if depth_map is None else float((depth_map.depth > 0).mean())
        area_px = float(np.prod(cameras.size_hw[view])) * share
        least = 1.0 if depth_map is None else cameras.focal_px[view] / np.sqrt(depth_map.K[0, 0] * depth_map.K[1, 1])
        spacing_px[view] = np.clip(np.sqrt(area_px / max(number, 1)), least, _MAX_SPACING_PX * least)
    # A point behind its own camera is no surface patch; the absolute value keeps it from becoming an invalid Gaussian.
    return np.abs(depth) / cameras.focal_px[points.view_index] * spacing_px[points.view_index]
