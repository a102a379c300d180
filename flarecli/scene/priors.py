"""What is known about the cameras before any reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from flarecli.scene.arrays import frozen

CALIBRATED = 0.1
"""Standard deviation of the logarithm of a focal length that EXIF tells, or better: below it no network knows more."""


@dataclass(frozen=True, slots=True, eq=False)
class Priors:
    """Prior knowledge about V photos, in the pixels of the upright originals.

    Attributes:
        group: photos with the same number share one camera.
        size_hw: photo sizes.
        K: best guess of the intrinsics; exact where sigma is 0.
        sigma: standard deviation of the logarithm of the focal length; 0 = known, must not move.
        k1: known radial distortion, 0 where unknown.
        c2w: known poses, or None.
        warnings: what of the given knowledge could not be kept, one line each.
    """

    group: Int[np.ndarray, "V"]
    size_hw: Int[np.ndarray, "V 2"]
    K: Float[np.ndarray, "V 3 3"]
    sigma: Float[np.ndarray, "V"]
    k1: Float[np.ndarray, "V"]
    c2w: Float[np.ndarray, "V 4 4"] | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.group)
        object.__setattr__(self, "group", frozen(self.group, np.int64, (count,), "group"))
        object.__setattr__(self, "size_hw", frozen(self.size_hw, np.int64, (count, 2), "size_hw"))
        object.__setattr__(self, "K", frozen(self.K, np.float64, (count, 3, 3), "K"))
        object.__setattr__(self, "sigma", frozen(self.sigma, np.float64, (count,), "sigma"))
        object.__setattr__(self, "k1", frozen(self.k1, np.float64, (count,), "k1"))
        if self.c2w is not None:
            object.__setattr__(self, "c2w", frozen(self.c2w, np.float64, (count, 4, 4), "c2w"))

    @property
    def known(self) -> np.ndarray:
        """Photos whose intrinsics are known exactly."""
        return self.sigma == 0
