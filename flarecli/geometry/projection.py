"""The pinhole camera with one radial term: projection, un-projection, pixel maps, focal from point maps (numpy)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped

NEGLIGIBLE_PX = 0.25
"""A picture whose pixels a lens moves by less is as good as free of distortion."""


def pixel_grid(height: int, width: int) -> Float[np.ndarray, "H W 2"]:
    """(x, y) of every pixel centre; the top-left one is (0.5, 0.5)."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([x, y], -1)


def intrinsics(focal_px: float, size_hw: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
    """K of a camera with square pixels and its principal point in the middle of the image."""
    height, width = size_hw
    return np.array([[focal_px, 0.0, width / 2], [0.0, focal_px, height / 2], [0.0, 0.0, 1.0]])


def map_intrinsics(K: Float[np.ndarray, "3 3"], b_from_a: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """K in pixels of image b from K in pixels of image a, for a map of scale and shift (resize, crop, pad)."""
    return np.asarray(b_from_a, np.float64) @ np.asarray(K, np.float64)


def map_pixels(b_from_a: Float[np.ndarray, "3 3"], pixels: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    """Move pixel coordinates through a 3x3 map of scale and shift."""
    scale_and_shift = np.asarray(b_from_a)
    return np.asarray(pixels) @ scale_and_shift[:2, :2].T + scale_and_shift[:2, 2]


def nearest_values(
    values: Shaped[np.ndarray, "h w"], size_hw: tuple[int, int], values_from_pixels: Float[np.ndarray, "3 3"]
) -> Shaped[np.ndarray, "H W"]:
    """What a map of another size holds at every pixel of an image, by the nearest of its own pixels; 0 outside."""
    return values_at(values, map_pixels(values_from_pixels, pixel_grid(*size_hw)))


def values_at(values: Shaped[np.ndarray, "h w"], pixels: Float[np.ndarray, "*n 2"]) -> Shaped[np.ndarray, "*n"]:
    """What a map holds at these of its pixels, by the nearest one; 0 outside."""
    place = np.floor(pixels)
    size = np.array(values.shape[::-1])
    column, row = np.moveaxis(place.clip(0, size - 1).astype(int), -1, 0)
    inside = ((place >= 0) & (place < size)).all(-1)
    return np.where(inside, values[row, column], np.zeros((), values.dtype))


def normalise(K: Float[np.ndarray, "3 3"], pixels: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    """Pixels to points on the plane z = 1 of the camera."""
    return (np.asarray(pixels, np.float64) - K[:2, 2]) / np.array([K[0, 0], K[1, 1]])


def denormalise(K: Float[np.ndarray, "3 3"], points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    """Points on the plane z = 1 to pixels."""
    return np.asarray(points) * np.array([K[0, 0], K[1, 1]]) + K[:2, 2]


def distort(points: Float[np.ndarray, "*n 2"], k1: float) -> Float[np.ndarray, "*n 2"]:
    """Points on z = 1 of the ideal camera to where the lens shows them (COLMAP's SIMPLE_RADIAL)."""
    return points * (1 + k1 * np.sum(points**2, -1, keepdims=True))


def undistort(points: Float[np.ndarray, "*n 2"], k1: float, iterations: int = 20) -> Float[np.ndarray, "*n 2"]:
    """Inverse of :func:`distort` by Newton's method on the radius.

    For k1 < 0 radii beyond the fold of the model have no inverse; they map to the fold.
    """
    seen = np.linalg.norm(points, axis=-1, keepdims=True)
    fold = np.sqrt(1 / (-3 * k1)) if k1 < 0 else np.inf
    radius = np.minimum(seen, fold)
    for _ in range(iterations):
        slope = np.maximum(1 + 3 * k1 * radius**2, 1e-6)
        radius = np.clip(radius - (radius * (1 + k1 * radius**2) - seen) / slope, 0, fold)
    return points * np.where(seen > 0, radius / np.maximum(seen, 1e-300), 1.0)


def ideal_pixels(K: np.ndarray, k1: float, pixels: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    """Photo pixels to the pixels of the distortion-free camera with the same K."""
    return np.asarray(pixels, np.float64) if k1 == 0 else denormalise(K, undistort(normalise(K, pixels), k1))


def photo_pixels(K: np.ndarray, k1: float, pixels: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    """Pixels of the distortion-free camera to photo pixels; inverse of :func:`ideal_pixels`."""
    return np.asarray(pixels, np.float64) if k1 == 0 else denormalise(K, distort(normalise(K, pixels), k1))


def project(
    points_world: Float[np.ndarray, "N 3"], w2c: Float[np.ndarray, "4 4"], K: Float[np.ndarray, "3 3"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N"]]:
    """Ideal pixels and z-depths of world points; pixels of points with depth <= 0 are NaN."""
    cam = np.asarray(points_world, np.float64) @ w2c[:3, :3].T + w2c[:3, 3]
    depth = cam[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        plane = np.where(depth[:, None] > 0, cam[:, :2] / depth[:, None], np.nan)
    return denormalise(K, plane), depth


def unproject_depth(depth: Float[np.ndarray, "H W"], K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "H W 3"]:
    """Lift z-depth to points in the camera's own frame."""
    plane = normalise(K, pixel_grid(*depth.shape))
    return np.concatenate([plane, np.ones((*depth.shape, 1))], -1) * depth[..., None]


def focal_from_pointmap(
    points_cam: Float[np.ndarray, "H W 3"],
    principal_px: tuple[float, float],
    weights: Float[np.ndarray, "H W"] | None = None,
) -> float:
    """Focal length in pixels under which a camera-frame point map projects onto its own pixel grid.

    Minimises the weighted L1 distance between pixels and projections by re-weighted least squares (Weiszfeld) from the
    median of every pixel's own answer, which ignores the minority of bad pixels that a plain mean would follow.

    Args:
        points_cam: camera-frame points, any unit.
        principal_px: principal point in pixels of this map.
        weights: confidence per pixel; None weighs all alike.

    Raises:
        ValueError: fewer than ten usable points.

    Source: DUSt3R, arXiv 2312.14132, section 3.3 (recovering intrinsics).
    """
    height, width = points_cam.shape[:2]
    pixel = (pixel_grid(height, width) - np.asarray(principal_px)).reshape(-1, 2)
    cam = np.asarray(points_cam, np.float64).reshape(-1, 3)
    w = np.ones(len(cam)) if weights is None else np.asarray(weights, np.float64).ravel()
    good = np.isfinite(cam).all(1) & (cam[:, 2] > 1e-9) & (w > 0)
    if good.sum() < 10:
        raise ValueError("the point map has too few usable points for a focal length")
    plane, pixel, w = cam[good, :2] / cam[good, 2:], pixel[good], w[good]
    dot_pp, dot_px = (plane**2).sum(1), (plane * pixel).sum(1)
    focal = _weighted_median(dot_px / np.maximum(dot_pp, 1e-12), w * np.linalg.norm(pixel, axis=1))
    # A wild ray far outside of the image would outweigh all others in an L1 fit; its leverage ends at the corner.
    w = w * np.minimum(1, np.linalg.norm(pixel, axis=1).max() / np.maximum(abs(focal) * np.sqrt(dot_pp), 1e-12))
    for _ in range(30):
        residual = np.linalg.norm(pixel - focal * plane, axis=1)
        robust = w / np.maximum(residual, 1e-3)
        focal = float((robust * dot_px).sum() / max((robust * dot_pp).sum(), 1e-12))
    return focal


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])
