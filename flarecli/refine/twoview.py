"""Relative pose of two photos from their matches when the focal length is not, or only roughly, known.

The cost of the best relative pose is computed as a function of the focal length (a profile likelihood on a grid). Pairs
that determine the focal length have a sharp profile, degenerate ones (planes, pure forward motion, small rotation) a
flat one, and then the prior decides; so the profiles of several pairs and the prior can simply be added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import poselib
from jaxtyping import Bool, Float
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

FOCAL_GRID = np.exp(np.linspace(np.log(0.4), np.log(3.6), 24))
"""Focal lengths divided by the long side of the photo: fields of view from 103 to 16 degrees."""

_SEED_FOCALS = (0.6, 0.9, 1.35, 2.0)
_RANSAC_MATCHES = 700


@dataclass(frozen=True, slots=True, eq=False)
class FocalProfile:
    """Cost of the best relative pose of one pair for every focal length of ``FOCAL_GRID``.

    Attributes:
        cost: truncated squared epipolar error, half its sum in units of the match noise; a negative log-likelihood.
        num_matches: matches that went in.
    """

    cost: Float[np.ndarray, "G"]
    num_matches: int

    @property
    def inliers(self) -> int:
        """Matches that the best focal length explains, at least approximately."""
        return int(self.num_matches - self.cost.min() / _TRUNCATED_COST)


_TRUNCATED_COST = 2.0  # (threshold / noise)^2 / 2 for a threshold of two standard deviations


def sampson_px(
    rotation: Float[np.ndarray, "3 3"],
    translation: Float[np.ndarray, "3"],
    rays_a: Float[np.ndarray, "N 2"],
    rays_b: Float[np.ndarray, "N 2"],
    focal_px: float,
) -> Float[np.ndarray, "N"]:
    """First-order distance of matches to their epipolar lines, in pixels.

    Args:
        rotation: camera b from camera a.
        translation: camera b from camera a, any length.
        rays_a: points on the plane z = 1 of camera a.
        rays_b: points on the plane z = 1 of camera b.
        focal_px: focal length that turns the distance into pixels.

    Source: Hartley and Zisserman, Multiple View Geometry, eq. 11.9.
    """
    tx, ty, tz = translation
    essential = np.array([[0, -tz, ty], [tz, 0, -tx], [-ty, tx, 0]]) @ rotation
    a, b = np.column_stack([rays_a, np.ones(len(rays_a))]), np.column_stack([rays_b, np.ones(len(rays_b))])
    line_b, line_a = a @ essential.T, b @ essential
    gradient = (line_b[:, :2] ** 2).sum(1) + (line_a[:, :2] ** 2).sum(1)
    return focal_px * np.abs((b * line_b).sum(1)) / np.sqrt(np.maximum(gradient, 1e-24))


def in_front(
    rotation: Float[np.ndarray, "3 3"],
    translation: Float[np.ndarray, "3"],
    rays_a: Float[np.ndarray, "N 2"],
    rays_b: Float[np.ndarray, "N 2"],
) -> Bool[np.ndarray, "N"]:
    """Whether the two rays of a match meet in front of both cameras."""
    depth_a, depth_b = ray_depths(rotation, translation, rays_a, rays_b)
    return (depth_a > 0) & (depth_b > 0)


def ray_depths(
    rotation: Float[np.ndarray, "3 3"],
    translation: Float[np.ndarray, "3"],
    rays_a: Float[np.ndarray, "N 2"],
    rays_b: Float[np.ndarray, "N 2"],
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """z-depths in both cameras at which the two rays of a match come nearest, in units of the translation.

    Arguments as for :func:`sampson_px`. Mid-point triangulation: both depths by least squares.
    """
    a = np.column_stack([rays_a, np.ones(len(rays_a))]) @ rotation.T
    b = np.column_stack([rays_b, np.ones(len(rays_b))])
    # depth_a * a + translation = depth_b * b
    aa, bb, ab = (a * a).sum(1), (b * b).sum(1), (a * b).sum(1)
    at, bt = a @ translation, b @ translation
    determinant = np.maximum(aa * bb - ab * ab, 1e-18)
    return (ab * bt - bb * at) / determinant, (aa * bt - ab * at) / determinant


def focal_profile(
    centred_a: Float[np.ndarray, "N 2"],
    centred_b: Float[np.ndarray, "N 2"],
    long_side_px: tuple[float, float],
    threshold_px: float,
    seed: int = 0,
) -> FocalProfile | None:
    """Profile of the relative-pose cost of one pair over ``FOCAL_GRID``.

    Both photos are taken to have the same focal length relative to their long side. Robust estimation runs at four
    focal lengths; from each answer the pose is followed over the grid in both directions by non-linear refinement.

    Args:
        centred_a: matched pixels of the first photo relative to its principal point.
        centred_b: the same of the second photo.
        long_side_px: long side of both photos in pixels.
        threshold_px: inlier threshold, two standard deviations of the match noise.
        seed: of the robust estimation.

    Returns:
        None with fewer than eight matches.
    """
    if len(centred_a) < 8:
        return None
    if len(centred_a) > _RANSAC_MATCHES:
        chosen = np.random.default_rng(seed).choice(len(centred_a), _RANSAC_MATCHES, replace=False)
        centred_a, centred_b = centred_a[chosen], centred_b[chosen]
    a, b = centred_a / long_side_px[0], centred_b / long_side_px[1]
    threshold = threshold_px / np.sqrt(long_side_px[0] * long_side_px[1])
    cost = np.full(len(FOCAL_GRID), np.inf)

    def follow(start: int, pose: Any, step: int) -> None:
        index = start
        while 0 <= index < len(cost):
            focal = FOCAL_GRID[index]
            # Cauchy: one step along the grid can take every match beyond a truncated loss, which then stands still
            options = {"loss_type": "CAUCHY", "loss_scale": threshold}
            pose, _ = poselib.refine_relative_pose(a, b, pose, _camera(focal), _camera(focal), options)
            error = sampson_px(pose.R, pose.t, a / focal, b / focal, focal) / threshold
            value = _TRUNCATED_COST * float(np.minimum(error**2, 1).sum())
            if value >= cost[index] and index != start:
                return
            cost[index] = min(value, cost[index])
            index += step

    for focal in _SEED_FOCALS:
        pose, _ = poselib.estimate_relative_pose(a, b, _camera(focal), _camera(focal), _ransac(threshold, seed), {})
        start = int(np.argmin(np.abs(np.log(FOCAL_GRID / focal))))
        follow(start, pose, 1)
        follow(start, pose, -1)
    return FocalProfile(cost, len(a))


@dataclass(frozen=True, slots=True, eq=False)
class RelativePose:
    """Camera b from camera a, with the matches that support it.

    Attributes:
        rotation: 3x3.
        translation: unit length.
        inliers: which matches agree within the threshold and lie in front of both cameras.
        parallax_deg: median angle between the two rays of the inliers.
    """

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]
    inliers: Bool[np.ndarray, "N"]
    parallax_deg: float

    @property
    def support(self) -> int:
        """Number of inliers."""
        return int(self.inliers.sum())


def relative_pose(
    rays_a: Float[np.ndarray, "N 2"],
    rays_b: Float[np.ndarray, "N 2"],
    focal_px: tuple[float, float],
    threshold_px: float,
    seed: int = 0,
) -> RelativePose | None:
    """Robust relative pose of two calibrated photos; None with fewer than eight matches or no support.

    Args:
        rays_a: matches on the plane z = 1 of the first camera.
        rays_b: the same of the second camera.
        focal_px: focal lengths of both, to measure errors in pixels.
        threshold_px: inlier threshold.
        seed: of the robust estimation.
    """
    if len(rays_a) < 8:
        return None
    focal = float(np.sqrt(focal_px[0] * focal_px[1]))
    pose, _ = poselib.estimate_relative_pose(
        rays_a, rays_b, _camera(1.0), _camera(1.0), _ransac(threshold_px / focal, seed), {}
    )
    length = float(np.linalg.norm(pose.t))
    if not length > 0:
        return None
    return pose_support(np.asarray(pose.R), np.asarray(pose.t) / length, rays_a, rays_b, focal, threshold_px)


def pose_support(
    rotation: np.ndarray,
    translation: np.ndarray,
    rays_a: np.ndarray,
    rays_b: np.ndarray,
    focal_px: float,
    threshold_px: float,
) -> RelativePose:
    """A given relative pose with the matches that support it."""
    inliers = sampson_px(rotation, translation, rays_a, rays_b, focal_px) < threshold_px
    inliers &= in_front(rotation, translation, rays_a, rays_b)
    return RelativePose(rotation, translation, inliers, _parallax_deg(rotation, rays_a[inliers], rays_b[inliers]))


def _parallax_deg(rotation: np.ndarray, rays_a: np.ndarray, rays_b: np.ndarray) -> float:
    if len(rays_a) == 0:
        return 0.0
    a = np.column_stack([rays_a, np.ones(len(rays_a))]) @ rotation.T
    b = np.column_stack([rays_b, np.ones(len(rays_b))])
    sine, cosine = np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(1)
    return float(np.degrees(np.median(np.arctan2(sine, cosine))))


def refine_with_focal(
    start: RelativePose,
    centred_a: Float[np.ndarray, "N 2"],
    centred_b: Float[np.ndarray, "N 2"],
    focal_px: tuple[float, float],
    noise_px: float,
    focal_sigma: float,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Relative pose and common focal scale of one pair by maximum a posteriori over its inliers.

    Args:
        start: pose to begin with; its inliers take part.
        centred_a: matched pixels of the first photo relative to its principal point.
        centred_b: the same of the second photo.
        focal_px: prior focal lengths of both photos.
        noise_px: standard deviation of a match.
        focal_sigma: standard deviation of the prior on the logarithm of the focal scale.

    Returns:
        rotation, unit translation, and the factor by which both focal lengths are to be multiplied.
    """
    a, b = centred_a[start.inliers], centred_b[start.inliers]
    axis = np.linalg.svd(start.translation[None])[2][1:]  # two directions across the translation

    def unpack(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        direction = start.translation + x[3] * axis[0] + x[4] * axis[1]
        rotation = Rotation.from_rotvec(x[:3]).as_matrix() @ start.rotation
        return rotation, direction / np.linalg.norm(direction), float(np.exp(x[5]))

    def residuals(x: np.ndarray) -> np.ndarray:
        rotation, translation, factor = unpack(x)
        fa, fb = focal_px[0] * factor, focal_px[1] * factor
        error = sampson_px(rotation, translation, a / fa, b / fb, float(np.sqrt(fa * fb))) / noise_px
        # soft L1 on the matches alone: the prior must stay quadratic
        return np.append(np.sqrt(2 * (np.sqrt(1 + error**2) - 1)), x[5] / focal_sigma)

    solution = least_squares(residuals, np.zeros(6), method="trf", x_scale=[0.01] * 6, max_nfev=60)
    return unpack(solution.x)


def _camera(focal: float) -> dict[str, Any]:
    # poselib only uses the size to normalise; the points are centred already
    return {"model": "SIMPLE_PINHOLE", "width": 2, "height": 2, "params": [float(focal), 0.0, 0.0]}


def _ransac(threshold: float, seed: int) -> dict[str, Any]:
    return {
        "max_epipolar_error": float(threshold),
        "min_iterations": 500,
        "max_iterations": 10_000,
        "success_prob": 0.9999,
        "seed": int(seed),
    }
