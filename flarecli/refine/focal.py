"""Focal length of a group of photos from the profiles of their pairs and a prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flarecli.refine.twoview import FOCAL_GRID, FocalProfile

_MATCH_WEIGHT = 0.1
# The errors of neighbouring matches are not independent and the model has no lens distortion: a tenth of the nominal
# information of the matches is what pairs with known focal length bear out.

_PAIR_CAP = 150.0
# One wrong pair (repeated structure) must not outvote the others.


@dataclass(frozen=True, slots=True)
class FocalEstimate:
    """Focal length over long side with the standard deviation of its logarithm.

    Attributes:
        ratio: focal length divided by the long side of the photo.
        sigma: standard deviation of log(ratio).
    """

    ratio: float
    sigma: float


def combine_profiles(profiles: Sequence[FocalProfile], prior: FocalEstimate, weight: float = 1.0) -> FocalEstimate:
    """Maximum a posteriori focal length, between grid points by a parabola through the three lowest costs."""
    cost = 0.5 * (np.log(FOCAL_GRID / prior.ratio) / prior.sigma) ** 2
    for profile in profiles:
        if profile.inliers >= 20:
            cost = cost + weight * _MATCH_WEIGHT * np.minimum(profile.cost - profile.cost.min(), _PAIR_CAP)
    best = int(np.argmin(cost))
    step = float(np.log(FOCAL_GRID[1] / FOCAL_GRID[0]))
    if best in (0, len(cost) - 1):
        return FocalEstimate(float(FOCAL_GRID[best]), step)
    left, middle, right = cost[best - 1 : best + 2]
    curvature = max(left - 2 * middle + right, 1e-6)
    offset = float(np.clip(0.5 * (left - right) / curvature, -0.5, 0.5))
    return FocalEstimate(float(FOCAL_GRID[best] * np.exp(offset * step)), float(min(step / np.sqrt(curvature), 1.0)))
