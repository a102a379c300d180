"""3D Gaussians with activated values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from flarecli.scene.arrays import frozen
from flarecli.scene.harmonics import rotate_sh

SH_C0 = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi))


@dataclass(frozen=True, slots=True, eq=False)
class Gaussians:
    """N Gaussians in the world frame of the cameras.

    Attributes:
        means: centres.
        scales: standard deviations along the three axes, in world units (activated, positive).
        quats_wxyz: unit quaternions of the axes, real part first.
        opacities: in [0, 1] (activated).
        sh: spherical-harmonic colours, D = (degree + 1)^2 coefficients; colour = 0.5 + sum(sh * basis).
        view_index: the photo that each was predicted from, or None where they belong to no single one.
    """

    means: Float[np.ndarray, "N 3"]
    scales: Float[np.ndarray, "N 3"]
    quats_wxyz: Float[np.ndarray, "N 4"]
    opacities: Float[np.ndarray, "N"]
    sh: Float[np.ndarray, "N D 3"]
    view_index: Int[np.ndarray, "N"] | None = None

    def __post_init__(self) -> None:
        n = len(self.means)
        object.__setattr__(self, "means", frozen(self.means, np.float32, (n, 3), "means"))
        object.__setattr__(self, "scales", frozen(self.scales, np.float32, (n, 3), "scales"))
        object.__setattr__(self, "quats_wxyz", frozen(self.quats_wxyz, np.float32, (n, 4), "quats_wxyz"))
        object.__setattr__(self, "opacities", frozen(self.opacities, np.float32, (n,), "opacities"))
        object.__setattr__(self, "sh", frozen(self.sh, np.float32, (n, None, 3), "sh"))
        if self.view_index is not None:
            object.__setattr__(self, "view_index", frozen(self.view_index, np.int32, (n,), "view_index"))
        if self.sh.shape[1] not in (1, 4, 9, 16, 25):
            raise ValueError(f"sh must hold 1, 4, 9, 16 or 25 coefficients, not {self.sh.shape[1]}")
        if n and (self.scales.min() <= 0 or self.opacities.min() < 0 or self.opacities.max() > 1):
            raise ValueError("scales must be positive and opacities in [0, 1]: Gaussians hold activated values")
        if n and not np.allclose(np.linalg.norm(self.quats_wxyz, axis=1), 1, atol=1e-3):
            raise ValueError("quats_wxyz must be unit quaternions")

    def __len__(self) -> int:
        return len(self.means)

    @staticmethod
    def joined(parts: Sequence[Gaussians]) -> Gaussians:
        """All Gaussians of one or more sets of the same degree, in their order."""
        values = {each.name: [getattr(part, each.name) for part in parts] for each in fields(Gaussians)}
        views = values.pop("view_index")
        together = {name: np.concatenate(arrays) for name, arrays in values.items()}
        return Gaussians(**together, view_index=None if any(each is None for each in views) else np.concatenate(views))

    def select(self, keep: Bool[np.ndarray, "N"]) -> Gaussians:
        """Those that are to be kept, in their order."""
        views = None if self.view_index is None else self.view_index[keep]
        parts = (self.means, self.scales, self.quats_wxyz, self.opacities, self.sh)
        return Gaussians(*(part[keep] for part in parts), view_index=views)

    def moved(self, b_from_a: Float[np.ndarray, "4 4"]) -> Gaussians:
        """The same Gaussians in another frame: centres, axes and colours turn together.

        Args:
            b_from_a: rigid motion.
        """
        rotation = b_from_a[:3, :3]
        turned = Rotation.from_matrix(rotation) * Rotation.from_quat(self.quats_wxyz, scalar_first=True)
        return replace(
            self,
            means=self.means.astype(np.float64) @ rotation.T + b_from_a[:3, 3],
            quats_wxyz=turned.as_quat(scalar_first=True),
            sh=rotate_sh(self.sh, rotation),
        )

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics."""
        return int(np.sqrt(self.sh.shape[1])) - 1
