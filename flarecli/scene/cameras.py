"""The cameras of a reconstruction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from flarecli.geometry.transforms import Sim3, invert_rigid
from flarecli.scene.arrays import frozen


@dataclass(frozen=True, slots=True, eq=False)
class Cameras:
    """V cameras in the pixels of the upright original photos.

    Attributes:
        c2w: camera to world, OpenCV axes, float64.
        K: intrinsics in photo pixels, pixel centres at 0.5, no skew.
        size_hw: height and width of every photo in pixels.
        k1: radial distortion of every photo (COLMAP's SIMPLE_RADIAL); zeros when omitted.
    """

    c2w: Float[np.ndarray, "V 4 4"]
    K: Float[np.ndarray, "V 3 3"]
    size_hw: Int[np.ndarray, "V 2"]
    k1: Float[np.ndarray, "V"] | None = None

    def __post_init__(self) -> None:
        num_views = len(self.c2w)
        object.__setattr__(self, "c2w", frozen(self.c2w, np.float64, (num_views, 4, 4), "c2w"))
        object.__setattr__(self, "K", frozen(self.K, np.float64, (num_views, 3, 3), "K"))
        object.__setattr__(self, "size_hw", frozen(self.size_hw, np.int64, (num_views, 2), "size_hw"))
        k1 = np.zeros(num_views) if self.k1 is None else self.k1
        object.__setattr__(self, "k1", frozen(k1, np.float64, (num_views,), "k1"))
        rotation = self.c2w[:, :3, :3]
        if num_views == 0:
            return
        if not np.array_equal(self.c2w[:, 3], np.tile([0.0, 0.0, 0.0, 1.0], (num_views, 1))):
            raise ValueError("the last row of every c2w must be 0 0 0 1")
        identity = np.broadcast_to(np.eye(3), rotation.shape)
        if (
            not np.allclose(rotation @ np.swapaxes(rotation, -1, -2), identity, atol=1e-5)
            or np.linalg.det(rotation).min() < 0
        ):
            raise ValueError("every c2w must be a rotation and a translation")
        if (self.K[:, [0, 1], [0, 1]] <= 0).any():
            raise ValueError("focal lengths must be positive")
        if (self.size_hw <= 0).any():
            raise ValueError("photo sizes must be positive")

    def __len__(self) -> int:
        return len(self.c2w)

    @property
    def w2c(self) -> Float[np.ndarray, "V 4 4"]:
        """World to camera."""
        return invert_rigid(self.c2w)

    @property
    def centers(self) -> Float[np.ndarray, "V 3"]:
        """Camera centres in the world."""
        return self.c2w[:, :3, 3]

    @property
    def focal_px(self) -> Float[np.ndarray, "V"]:
        """Geometric mean of the two focal lengths, in photo pixels."""
        return np.sqrt(self.K[:, 0, 0] * self.K[:, 1, 1])

    def subset(self, index: np.ndarray | list[int]) -> Cameras:
        """The cameras at these positions, in this order."""
        assert self.k1 is not None
        return Cameras(self.c2w[index], self.K[index], self.size_hw[index], self.k1[index])

    def transformed(self, sim: Sim3) -> Cameras:
        """The same cameras in a world moved by a similarity."""
        return replace(self, c2w=sim.apply_to_c2w(self.c2w))
