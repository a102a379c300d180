"""Reprojection losses: geometry without known poses, from how predicted points fall into predicted cameras.

Neither needs truth about cameras. Points, poses and focal lengths of one prediction have to agree with the pixels that
the points come from, and with the pixels where other views show the same points.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flarecli.train.cameras import project_to_storage

_SATURATION = 0.1  # of the long side: beyond it an error is an outlier, whose gradient fades
_NEAR = 1e-3  # project_to_storage divides by no smaller depth


def reprojection_loss(
    points: Float[Tensor, "B V H W 3"],
    c2w: Float[Tensor, "B V 4 4"],
    focal: Float[Tensor, "B V"],
    portrait: Bool[Tensor, "B V"],
    weight: Float[Tensor, "B V H W"] | None = None,
) -> Tensor:
    """How far the points of each view, seen by the view's own camera, are from the pixels that they belong to.

    Args:
        points: one per pixel of the stored views, in the common world of the poses.
        c2w: camera to world.
        focal: focal length divided by the long side; the principal point is in the middle.
        portrait: views stored transposed.
        weight: how much each pixel counts; None counts all alike.

    Returns:
        Weighted mean over the pixels in front of their cameras, in long sides; 0 where there are none.

    Source: SPFSplat, arXiv 2508.01171, section 3.3, loss L_reproj; each error e is saturated as s tanh(e / s), as in
        its published training.
    """
    height, width = points.shape[2:4]
    rows = torch.arange(height, device=points.device) + 0.5
    columns = torch.arange(width, device=points.device) + 0.5
    grid = torch.stack(torch.broadcast_tensors(columns[None, :], rows[:, None]), -1)
    found, depth = _seen(points.flatten(2, 3), c2w, focal, portrait, (height, width))
    weight = torch.ones_like(depth) if weight is None else weight.flatten(2)
    return _saturated(found - grid.flatten(0, 1), depth, weight, width)


def matched_reprojection_loss(
    points: Float[Tensor, "B P N 3"],
    c2w: Float[Tensor, "B P 4 4"],
    focal: Float[Tensor, "B P"],
    portrait: Bool[Tensor, "B P"],
    location: Float[Tensor, "B P N 2"],
    weight: Float[Tensor, "B P N"],
    size_hw: tuple[int, int],
) -> Tensor:
    """How far points of one view, seen by another view, are from their matches there.

    Args:
        points: N points for each of P pairs of views, in the common world of the poses.
        c2w: camera to world of the pairs' second views.
        focal: their focal lengths divided by the long side.
        portrait: whether they are stored transposed.
        location: (column, row) of the matches in the stored second views.
        weight: how much each match counts; 0 where there is none or the second view does not show the point.
        size_hw: of the stored views.

    Returns:
        As :func:`reprojection_loss`, of which this is the form across views.

    Source: as :func:`reprojection_loss`; the residual of bundle adjustment (Triggs et al. 2000, section 2).
    """
    found, depth = _seen(points, c2w, focal, portrait, size_hw)
    return _saturated(found - location, depth, weight, size_hw[1])


def _seen(
    points: Tensor, c2w: Tensor, focal: Tensor, portrait: Tensor, size_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(column, row) in storage, and depth, of world points (B, V, N, 3) in the cameras of their views."""
    local = torch.einsum("bvji,bvnj->bvni", c2w[..., :3, :3], points - c2w[:, :, None, :3, 3])
    return project_to_storage(local, focal[..., None], portrait[..., None], size_hw)


def _saturated(offset: Tensor, depth: Tensor, weight: Tensor, width: int) -> Tensor:
    # A point behind the camera has a projection, but moving it towards its pixel would push it farther back.
    weight = weight * (depth > _NEAR)
    # The norm has no gradient at zero; the smallest number here is far below a thousandth of a pixel.
    error = (offset.square().sum(-1) + 1e-12).sqrt() / width
    bounded = _SATURATION * torch.tanh(error / _SATURATION)
    return (bounded * weight).sum() / weight.sum().clamp_min(1e-6)
