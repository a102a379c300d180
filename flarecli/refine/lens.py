"""Intrinsics during refinement: focal length and one radial term per group of photos that share a camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pycolmap
from jaxtyping import Float, Int

from flarecli.geometry.projection import ideal_pixels, normalise, photo_pixels
from flarecli.scene.cameras import Cameras

_WORST_BEND = 0.2  # of the long side; real photos of the kind that are asked for stay below 0.06


@dataclass(frozen=True, slots=True, eq=False)
class Lenses:
    """Intrinsics of V photos in G groups.

    Attributes:
        group: group of every photo, 0..G-1.
        size_hw: photo size per group.
        K: intrinsics per group.
        k1: radial term per group.
        sigma: standard deviation of the logarithm of the focal length per group; 0 where it is known.
    """

    group: Int[np.ndarray, "V"]
    size_hw: Int[np.ndarray, "G 2"]
    K: Float[np.ndarray, "G 3 3"]
    k1: Float[np.ndarray, "G"]
    sigma: Float[np.ndarray, "G"]

    def __len__(self) -> int:
        return len(self.K)

    def long_side(self, photo: int) -> float:
        """Long side of a photo in pixels."""
        return float(self.size_hw[self.group[photo]].max())

    def focal_px(self, photo: int) -> float:
        """Focal length of a photo in pixels (geometric mean of both axes)."""
        K = self.K[self.group[photo]]
        return float(np.sqrt(K[0, 0] * K[1, 1]))

    def believable(self) -> bool:
        """False for lenses that cannot be, as an adjustment makes them of what nothing determines.

        A focal length through zero, or a distortion that folds the picture or moves its corners by a fifth of it.
        """
        for K, k1, size_hw in zip(self.K, self.k1, self.size_hw, strict=True):
            corners = np.array([[0.0, 0.0], [1.0, 1.0]]) * size_hw[::-1]
            if K[0, 0] <= 0:
                return False
            ideal = ideal_pixels(K, float(k1), corners)
            folded = np.abs(photo_pixels(K, float(k1), ideal) - corners).max() > 1
            if folded or np.abs(ideal - corners).max() > _WORST_BEND * size_hw.max():
                return False
        return True

    def rays(self, photo: int, pixels: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Photo pixels to undistorted points on the plane z = 1."""
        K, k1 = self.K[self.group[photo]], float(self.k1[self.group[photo]])
        return normalise(K, ideal_pixels(K, k1, pixels))

    def with_focal_ratio(self, ratio: Sequence[float] | np.ndarray, sigma: Sequence[float] | np.ndarray) -> Lenses:
        """The same lenses with new focal lengths, given over the long side of the photo; known ones keep theirs."""
        K = self.K.copy()
        free = self.sigma > 0
        focal = np.asarray(ratio) * self.size_hw.max(1)
        K[free, 0, 0] = focal[free]
        K[free, 1, 1] = focal[free]
        return replace(self, K=K, sigma=np.where(free, np.asarray(sigma), 0.0))

    def with_focal_of(self, cameras: Cameras) -> Lenses:
        """The same lenses with the focal lengths of these cameras, one per photo; known ones keep theirs."""
        first = np.unique(self.group, return_index=True)[1]
        return self.with_focal_ratio(cameras.K[first, 0, 0] / self.size_hw.max(1), self.sigma)

    def pycolmap_cameras(self, *, trust_focal: bool) -> list[pycolmap.Camera]:
        """SIMPLE_RADIAL cameras, id = group + 1; OPENCV ones where both axes have known, different focal lengths."""
        cameras = []
        for index in range(len(self)):
            height, width = map(int, self.size_hw[index])
            K, k1 = self.K[index], float(self.k1[index])
            if abs(K[0, 0] / K[1, 1] - 1) > 1e-6:
                camera = pycolmap.Camera(model="OPENCV", width=width, height=height)
                camera.params = [K[0, 0], K[1, 1], K[0, 2], K[1, 2], k1, 0.0, 0.0, 0.0]
            else:
                camera = pycolmap.Camera(model="SIMPLE_RADIAL", width=width, height=height)
                camera.params = [K[0, 0], K[0, 2], K[1, 2], k1]
            camera.camera_id = index + 1
            camera.has_prior_focal_length = bool(trust_focal or self.sigma[index] == 0)
            cameras.append(camera)
        return cameras

    def from_pycolmap(self, cameras: dict[int, pycolmap.Camera]) -> Lenses:
        """These lenses with what a mapper made of them; known ones, and groups without a camera, keep theirs."""
        K, k1 = self.K.copy(), self.k1.copy()
        for camera_id, camera in cameras.items():
            index = camera_id - 1
            if self.sigma[index] == 0:
                continue  # global mapping moves what it is given
            K[index] = camera.calibration_matrix()
            k1[index] = camera.params[3]
        return replace(self, K=K, k1=k1)
