"""Gaussians that lie on the rays of their pixels, once a depth is known there (torch, differentiable)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flarecli.geometry.quaternions import multiply_quaternions
from flarecli.render.splats import Splats
from flarecli.scene.views import GaussianMaps

UNMEASURED_OPACITY, UNMEASURED_SCALE = 0.4, 2.0
"""Factors where the depth is not measured but the network's: what is measured behind it or beside it shows through."""

_LEAST_SCALE = 1e-12


def place_on_rays(
    maps: GaussianMaps,
    rays: Float[Tensor, "*v H W 3"],
    depth: Float[Tensor, "*v H W"],
    unmeasured: Bool[Tensor, "*v H W"],
    focal_px: Float[Tensor, "*v"],
    camera_wxyz: Float[Tensor, "*v 4"],
    c2w: Float[Tensor, "*v 4 4"],
) -> Splats:
    """Gaussians of the pixels that have a depth, in row-major order.

    Args:
        maps: Gaussians that are ``on_rays``, colours of degree 0.
        rays: camera-frame directions of unit depth.
        depth: z-depth in world units; 0 or less leaves the pixel out.
        unmeasured: pixels whose depth is only the network's.
        focal_px: focal length in the pixels of the maps.
        camera_wxyz: the rotations of ``c2w`` as quaternions.
        c2w: camera to world.

    Raises:
        ValueError: the Gaussians have a place already, or colours that depend on the direction.
    """
    if not maps.on_rays or maps.sh.shape[-2] != 1:
        raise ValueError("only Gaussians on rays with colours of degree 0 can be placed")
    there = depth > 0
    points = torch.einsum("...ij,...hwj->...hwi", c2w[..., :3, :3], rays * depth[..., None])
    points = points + c2w[..., None, None, :3, 3]
    factor = torch.where(unmeasured, UNMEASURED_SCALE, 1.0)
    scales = maps.scales * (factor * depth / focal_px[..., None, None])[..., None]
    quats = multiply_quaternions(camera_wxyz[..., None, None, :].expand_as(maps.quats_wxyz), maps.quats_wxyz)
    opacities = maps.opacities * torch.where(unmeasured, UNMEASURED_OPACITY, 1.0)
    return Splats(points[there], scales[there].clamp_min(_LEAST_SCALE), quats[there], opacities[there], maps.sh[there])
