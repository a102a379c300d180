"""From raw Gaussian parameters to activated ones, as the published networks were trained."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flarecli.scene.views import GaussianMaps

SH_COEFFICIENTS = 25
"""Of one colour channel: degree 4."""

SPLAT_CHANNELS = 8 + 3 * SH_COEFFICIENTS
"""Opacity (1), scale (3), quaternion (4), harmonics (75)."""

_FLARE_SCALE_SHIFT = 4.0
_FLARE_SCALE_RANGE = (5e-4, 0.3)
_SPLAT_SCALE_UNIT = 1e-3
_SPLAT_MAX_SCALE = 0.3


def flare_gaussians(raw: Float[Tensor, "*v 83 H W"]) -> GaussianMaps:
    """Gaussians of FLARE's novel-view network, in units of the distance between its two views.

    Source: the published evaluation of FLARE (scale mode "precomp_5e-4_0.3_4"); coefficients of the directional part
    are coefficient-major.
    """
    colour, detail, opacity, scale, quaternion = raw.float().movedim(-3, -1).split([3, 72, 1, 3, 4], dim=-1)
    low, high = _FLARE_SCALE_RANGE
    scales = (scale - _FLARE_SCALE_SHIFT).clamp(max=math.log(high)).exp().clamp(low, high)
    sh = torch.cat([colour[..., None, :], detail.unflatten(-1, (SH_COEFFICIENTS - 1, 3))], dim=-2)
    return GaussianMaps(scales, functional.normalize(quaternion, dim=-1), opacity[..., 0].sigmoid(), sh)


def splat_gaussians(raw: Float[Tensor, "*v 83 H W"], *, real_part_first: bool) -> GaussianMaps:
    """Gaussians of NoPoSplat and SPFSplat, in the unit of their points.

    Args:
        raw: outputs of the Gaussian head.
        real_part_first: how the renderer that the network was trained with read the four numbers of the quaternion:
            w x y z for SPFSplat, x y z w for NoPoSplat.

    Source: Ye et al., NoPoSplat, arXiv 2410.24207, and its published adapter; harmonics are colour-major and damped
    by degree.
    """
    opacity, scale, quaternion, harmonics = raw.float().movedim(-3, -1).split([1, 3, 4, 75], dim=-1)
    scales = (_SPLAT_SCALE_UNIT * functional.softplus(scale)).clamp(max=_SPLAT_MAX_SCALE)
    quaternion = quaternion / (quaternion.norm(dim=-1, keepdim=True) + 1e-8)
    if not real_part_first:
        quaternion = quaternion.roll(1, dims=-1)
    sh = harmonics.unflatten(-1, (3, SH_COEFFICIENTS)) * sh_damping(harmonics.device)
    return GaussianMaps(scales, quaternion, opacity[..., 0].sigmoid(), sh.transpose(-1, -2))


def seen_coefficients(gaussians: GaussianMaps) -> GaussianMaps:
    """Without the harmonics of degree 4, which the renderer of NoPoSplat and SPFSplat never evaluated."""
    return replace(gaussians, sh=gaussians.sh[..., :16, :])


def sh_damping(device: torch.device | None = None) -> Float[Tensor, "25"]:
    """Factor of each coefficient: 1 for the constant, 0.1 / 4^l for degree l."""
    factors = [1.0 if degree == 0 else 0.1 * 0.25**degree for degree in range(5) for _ in range(2 * degree + 1)]
    return torch.tensor(factors, device=device)
