"""Rendering loss of the Gaussian head: views of the scene are rendered and compared with what was to be seen.

Source: FLARE, arXiv 2502.12138, rendering term of the training loss (squared error + perceptual distance + depth). The
perceptual network of the paper can't be shipped; one minus the structural similarity stands in for it unless a function
is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from flarecli.model.small_output import SmallOutput
from flarecli.render.quality import ssim
from flarecli.render.rasterize import Rendered, render
from flarecli.render.rays import place_on_rays
from flarecli.render.splats import Splats
from flarecli.train.cameras import storage_rays
from flarecli.train.gaussian_depth import choose_kinds, place_depth
from flarecli.train.generator import Batch
from flarecli.train.losses import LossWeights
from flarecli.train.primitives import Draw
from flarecli.train.targets import quats_wxyz

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Distance of two pictures (H, W, 3) in [0, 1] as a number with a gradient."""

_MIDDLE = 3.0  # median depth of the rendered scenes, far beyond the near plane
_SOLID = 0.5  # opacity
_BARE = 0.3  # weight of pixels below it: most show what no seen view shows


def rendering_losses(
    out: SmallOutput,
    batch: Batch,
    weights: LossWeights,
    draw: Draw,
    perceptual: Perceptual | None = None,
) -> dict[str, Tensor]:
    """Weighted terms of views rendered from the predicted Gaussians at the true cameras.

    Rendered are the views that the network did not see, and one that it saw.

    Args:
        out: of the network for the first views of the batch, at their size or at half of it.
        batch: photographs with exact geometry, all views.
        weights: of the terms.
        draw: random source on the same device.
        perceptual: instead of 1 - SSIM.

    Returns:
        ``render`` (squared error), ``render_detail`` and ``render_depth`` (mean error relative to the depth of
        pixels that are covered), means over scenes and views.
    """
    assert out.gaussians is not None  # asked of the network by the caller
    seen, batch = out.gaussians.opacities.shape[1], in_unit(batch)
    kinds = choose_kinds(draw, len(batch.kind))
    chosen = draw.integers(seen, len(batch.kind)).tolist()
    rows: list[Tensor] = []
    for scene, splats in enumerate(scene_splats(out, batch, kinds, draw)):
        for view in (chosen[scene], *range(seen, batch.depth.shape[1])):
            shown, rgb, depth = show_view(splats, batch, scene, view)
            color = shown.color[0]
            covered = shown.alpha[0].detach() > _SOLID
            weight = torch.where(covered, 1.0, _BARE)
            colour = ((color - rgb).square().mean(-1) * weight).sum() / weight.sum()
            detail = 1 - ssim(color.clamp(0, 1), rgb, weight) if perceptual is None else perceptual(color, rgb)
            counts = covered & (depth > 0)
            error = ((shown.depth[0] - depth).abs() / depth.clamp_min(1e-6)).clamp_max(1) * counts
            rows.append(torch.stack([colour, detail, error.sum() / counts.sum().clamp_min(1)]))
    render_, detail, depth = torch.stack(rows).mean(0)
    return {
        "render": weights.render * render_,
        "render_detail": weights.render_detail * detail,
        "render_depth": weights.render_depth * depth,
    }


def scene_splats(out: SmallOutput, batch: Batch, kinds: Tensor, draw: Draw) -> list[Splats]:
    """The predicted Gaussians of each scene at its true cameras.

    Args:
        out: as for :func:`rendering_losses`.
        batch: of :func:`in_unit`; all views, the seen ones first.
        kinds: index of the kind of depth of each scene.
        draw: random source on the same device.
    """
    assert out.gaussians is not None and out.local is not None  # all stages were run
    seen, (height, width) = out.gaussians.opacities.shape[1], out.gaussians.opacities.shape[2:]
    step = batch.depth.shape[-1] // width
    truth = batch.depth[:, :seen, step // 2 :: step, step // 2 :: step]
    rgb = batch.rgb[:, :seen, :, step // 2 :: step, step // 2 :: step]
    placement = place_depth(truth, out.local.points[..., 2].detach(), rgb, kinds, draw)
    focal, portrait = batch.focal[:, :seen], batch.portrait[:, :seen]
    rays = storage_rays(height, width, focal, portrait)
    c2w = batch.c2w[:, :seen]
    cameras = quats_wxyz(c2w[..., :3, :3])
    maps = out.gaussians
    return [
        place_on_rays(
            maps.map(lambda each, b=b: each[b]),
            rays[b],
            placement.depth[b],
            placement.unmeasured[b],
            focal[b] * width,
            cameras[b],
            c2w[b],
        )
        for b in range(len(batch.kind))
    ]


def in_unit(batch: Batch) -> Batch:
    """The same scenes in the frame of view 0, with a median depth of ``_MIDDLE``."""
    middle = batch.depth.masked_fill(batch.depth <= 0, torch.nan).flatten(1).nanmedian(-1).values
    scale = _MIDDLE / middle.nan_to_num(1.0).clamp_min(1e-6)
    # Single precision is too coarse far from the origin.
    relative = torch.linalg.solve(batch.c2w[:, :1].double(), batch.c2w.double()).float()
    relative[..., :3, 3] *= scale[:, None, None]
    return replace(batch, depth=batch.depth * scale[:, None, None, None], c2w=relative)


def show_stored(splats: Splats, c2w: Tensor, focal: Tensor, size_hw: tuple[int, int]) -> Rendered:
    """Gaussians from the camera of a stored view, upright.

    Args:
        splats: Gaussians.
        c2w: camera to world (4, 4).
        focal: focal length divided by the long side; the principal point is in the middle.
        size_hw: of the upright picture.
    """
    height, width = size_hw
    focal_px = float(focal) * max(size_hw)
    K = torch.tensor([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1]], device=c2w.device)
    return render(splats, torch.linalg.inv(c2w)[None], K[None], size_hw)


def show_view(splats: Splats, batch: Batch, scene: int, view: int) -> tuple[Rendered, Tensor, Tensor]:
    """A view of a scene in its unit as rendered, its colours (H, W, 3) and its depth (H, W), all upright."""
    rgb, depth = batch.rgb[scene, view], batch.depth[scene, view]
    if bool(batch.portrait[scene, view]):
        rgb, depth = rgb.transpose(1, 2), depth.transpose(0, 1)
    size_hw = int(depth.shape[0]), int(depth.shape[1])
    return show_stored(splats, batch.c2w[scene, view], batch.focal[scene, view], size_hw), rgb.permute(1, 2, 0), depth


def halved(batch: Batch, views: int) -> Tensor:
    """The first views of a batch at half their size (B, views, 3, H/2, W/2)."""
    rgb = batch.rgb[:, :views]
    return functional.avg_pool2d(rgb.flatten(0, 1), 2).unflatten(0, rgb.shape[:2])
