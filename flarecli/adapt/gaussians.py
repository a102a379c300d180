"""Gaussians of context views at solved cameras, with a gradient to the depth and the head that they are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flarecli.adapt.study import Study
from flarecli.render.rasterize import Rendered
from flarecli.render.rays import place_on_rays
from flarecli.render.splats import Splats
from flarecli.scene.views import GaussianMaps
from flarecli.train.cameras import storage_rays
from flarecli.train.render_loss import show_stored
from flarecli.train.targets import quats_wxyz

_MIN_MEASURED = 16  # pixels that a scale needs


def scale_to_measured(
    depth: Float[Tensor, "N H W"], measured: Float[Tensor, "N H W"]
) -> tuple[Float[Tensor, "N"], Tensor]:
    """Factor that brings predicted depth of each view onto the measured one, and which views have one (N,).

    The factor is the median ratio, as in the reconstruction, and has no gradient.
    """
    both = (measured > 0) & (depth > 0)
    ratio = torch.where(both, measured.clamp_min(1e-9).log() - depth.detach().clamp_min(1e-9).log(), torch.nan)
    median = ratio.flatten(1).nanmedian(1).values
    known = both.flatten(1).sum(1) >= _MIN_MEASURED
    return torch.where(known, median, 0.0).exp(), known


def context_splats(
    study: Study, index: Sequence[int], depth: Float[Tensor, "N H W"], maps: GaussianMaps, stride: int = 1
) -> Splats:
    """The predicted Gaussians of some views, on the rays of their pixels at the predicted depth.

    Args:
        study: photos and cameras, at the size of the prediction.
        index: which views.
        depth: predicted z-depth of these views, each on a scale of its own.
        maps: predicted Gaussians of these views, on their rays.
        stride: only every so many rows and columns, with Gaussians as much larger.
    """
    chosen = list(index)
    height, width = study.size_hw
    focal, c2w = study.focal[chosen], study.c2w[chosen]
    factor, known = scale_to_measured(depth, study.depth[chosen])
    there = (study.use[chosen] > 0) & known[:, None, None]
    placed = torch.where(there, depth * factor[:, None, None], 0)
    rays = storage_rays(height, width, focal, study.portrait[chosen])

    def sampled(values: Tensor) -> Tensor:
        return values[:, stride // 2 :: stride, stride // 2 :: stride]

    return place_on_rays(
        maps.map(sampled),
        sampled(rays),
        sampled(placed),
        torch.zeros_like(sampled(there)),
        focal * width / stride,
        quats_wxyz(c2w[:, :3, :3]),
        c2w,
    )


def show_view(splats: Splats, study: Study, view: int) -> tuple[Rendered, Tensor, Tensor]:
    """Gaussians from the solved camera of a photo; with the photo (H, W, 3) and the pixels that count, all upright."""
    rgb, use = study.rgb[view], study.use[view]
    if bool(study.portrait[view]):
        rgb, use = rgb.transpose(1, 2), use.T
    size_hw = int(use.shape[0]), int(use.shape[1])
    return show_stored(splats, study.c2w[view], study.focal[view], size_hw), rgb.permute(1, 2, 0), use
