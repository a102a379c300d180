"""Lens distortion of several terms, as other programs state it, and the one radial term that comes nearest to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flarecli.geometry.projection import denormalise, distort, normalise

PERSPECTIVE = frozenset({"SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"})
"""Names of the camera models, COLMAP's and nerfstudio's, whose distortion is that of :class:`Distortion`."""

NEAR_PX = 1.0
"""A lens that shows every point within this distance of where another one shows it can stand for it."""

_GRID = 17  # samples along each side of the photo
_STEP = 1e-5


@dataclass(frozen=True, slots=True)
class Distortion:
    """Distortion on the plane z = 1, in OpenCV's terms.

    Attributes:
        model: name of the camera model; without meaning for the terms unless it is in ``PERSPECTIVE``.
        radial: coefficients of r^2, r^4, ...
        tangential: p1 and p2.

    Source: OpenCV, camera calibration and 3D reconstruction; COLMAP, src/colmap/sensor/models.h.
    """

    model: str
    radial: tuple[float, ...] = ()
    tangential: tuple[float, float] = (0.0, 0.0)

    @property
    def one_term(self) -> bool:
        """Whether nothing but the first radial term is there."""
        return not any((*self.radial[1:], *self.tangential))

    def distort(self, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Points of the ideal camera to where the lens shows them."""
        x, y = points.T
        squared = x**2 + y**2
        factor = 1 + sum(term * squared ** (power + 1) for power, term in enumerate(self.radial))
        p1, p2 = self.tangential
        sideways = [2 * p1 * x * y + p2 * (squared + 2 * x**2), p1 * (squared + 2 * y**2) + 2 * p2 * x * y]
        return np.stack([x * factor, y * factor], -1) + np.stack(sideways, -1)

    def undistort(self, seen: Float[np.ndarray, "N 2"], iterations: int = 30) -> Float[np.ndarray, "N 2"]:
        """Inverse of :meth:`distort` by Newton's method; NaN where it finds none, as beyond a fold."""
        points = np.array(seen, np.float64)
        steps = _STEP * np.eye(2)
        with np.errstate(all="ignore"):
            for _ in range(iterations):
                slopes = [(self.distort(points + step) - self.distort(points - step)) / (2 * _STEP) for step in steps]
                (a, c), (b, d) = (slope.T for slope in slopes)
                x, y = (seen - self.distort(points)).T
                points = points + np.stack([d * x - b * y, a * y - c * x], -1) / (a * d - b * c)[:, None]
            missed = np.abs(self.distort(points) - seen).max(-1) > 1e-6
        return np.where(missed[:, None] | ~np.isfinite(points), np.nan, points)


def nearest_one_term(
    K: Float[np.ndarray, "3 3"], distortion: Distortion, size_hw: tuple[int, int]
) -> tuple[Float[np.ndarray, "3 3"], float, float]:
    """K and k1 of the camera with one radial term that shows a photo's points where the full distortion shows them.

    Least squares over the photo. The focal length moves too only where keeping it leaves more than ``NEAR_PX``, and
    moving it less than two thirds of that.

    Returns:
        K, k1, and the largest distance in pixels that is left anywhere in the photo.

    Raises:
        ValueError: the distortion folds within the photo.
    """
    height, width = size_hw
    x, y = np.meshgrid(np.linspace(0, width, _GRID), np.linspace(0, height, _GRID))
    pixels = np.stack([x, y], -1).reshape(-1, 2)
    seen = normalise(K, pixels)
    ideal = distortion.undistort(seen)
    if not np.isfinite(ideal).all():
        raise ValueError("the distortion folds within the photo")
    focal = K[[0, 1], [0, 1]]
    straight, bent = ((each * focal).ravel() for each in (ideal, ideal * (ideal**2).sum(-1, keepdims=True)))
    target = (seen * focal).ravel()
    k1 = float(bent @ (target - straight) / (bent @ bent))
    (scale, scaled_k1), *_ = np.linalg.lstsq(np.stack([straight, bent], -1), target, rcond=None)

    def worst_px(K: np.ndarray, k1: float) -> float:
        return float(np.linalg.norm(denormalise(K, distort(ideal, k1)) - pixels, axis=-1).max())

    moved = K * np.array([[scale, 1, 1], [1, scale, 1], [1, 1, 1]])
    kept_px, moved_px = worst_px(K, k1), worst_px(moved, float(scaled_k1 / scale))
    if kept_px > NEAR_PX and moved_px < 2 / 3 * kept_px:
        return moved, float(scaled_k1 / scale), moved_px
    return K, k1, kept_px
