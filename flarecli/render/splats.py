"""Gaussians as tensors, the form in which they are rendered and optimised."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flarecli.scene.gaussians import Gaussians

MAX_SH_DEGREE = 3


@dataclass(frozen=True, slots=True, eq=False)
class Splats:
    """N Gaussians with activated values on one device.

    Attributes:
        means: centres in the world.
        scales: standard deviations along the axes, world units, positive.
        quats_wxyz: quaternions of any length but zero, real part first.
        opacities: in [0, 1].
        sh: spherical-harmonic coefficients, D = (degree + 1)^2 with degree at most 3.
    """

    means: Float[Tensor, "N 3"]
    scales: Float[Tensor, "N 3"]
    quats_wxyz: Float[Tensor, "N 4"]
    opacities: Float[Tensor, "N"]
    sh: Float[Tensor, "N D 3"]

    def __post_init__(self) -> None:
        n = len(self.means)
        for name, rest in {"means": (3,), "scales": (3,), "quats_wxyz": (4,), "opacities": ()}.items():
            if getattr(self, name).shape != (n, *rest):
                raise ValueError(f"{name} must have shape {(n, *rest)}, not {tuple(getattr(self, name).shape)}")
        if self.sh.ndim != 3 or len(self.sh) != n or self.sh.shape[1] not in (1, 4, 9, 16) or self.sh.shape[2] != 3:
            raise ValueError(f"sh must have shape (N, 1 or 4 or 9 or 16, 3), not {tuple(self.sh.shape)}")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics."""
        return round(self.sh.shape[1] ** 0.5) - 1

    @staticmethod
    def of(gaussians: Gaussians, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Splats:
        """Tensors with the values of a reconstruction's Gaussians; degrees above 3 are cut to 3, as in the files."""
        values = {each.name: getattr(gaussians, each.name) for each in fields(Splats)}
        values["sh"] = values["sh"][:, : (MAX_SH_DEGREE + 1) ** 2]
        return Splats(**{name: torch.tensor(value, device=device, dtype=dtype) for name, value in values.items()})

    def to_gaussians(self) -> Gaussians:
        """The same as a read-only value in numpy.

        Raises:
            ValueError: a value is not finite.
        """
        values = {each.name: getattr(self, each.name).detach().cpu().numpy() for each in fields(Splats)}
        quats = values["quats_wxyz"]
        values["quats_wxyz"] = quats / np.linalg.norm(quats, axis=1, keepdims=True)
        return Gaussians(**values)
