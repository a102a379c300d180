"""Accuracy of a network on held-out synthetic scenes and on posed photographs."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor
from torch.nn import functional

from flarecli.model.flare_small import FlareSmall
from flarecli.model.small_output import SmallOutput
from flarecli.model.small_pose import pose_matrices
from flarecli.train.augment import augment
from flarecli.train.data import ShardSource
from flarecli.train.generator import Batch
from flarecli.train.losses import ordered_pairs
from flarecli.train.primitives import Draw
from flarecli.train.targets import Targets, centre_pixels, find_matches, make_targets

_MILD = 0.25
_NEAR = 0.1
_SHARES = ("pck", "token_pck", "points_near")
_CLOSE_CELLS, _CLOSE_TOKENS = 2.5, 1.5


@torch.no_grad()
def evaluate_synthetic(
    network: FlareSmall, held_out: ShardSource, scenes: int, views: int, device: torch.device
) -> dict[str, float]:
    """Median errors over held-out scenes.

    Returns:
        ``rotation_coarse``, ``rotation``, ``direction_coarse``, ``direction`` in degrees, ``auc30_coarse`` and
        ``auc30`` from 0 to 1, ``focal`` (median relative error), ``absrel`` (camera-centric depth after the median
        scale), ``absrel_global`` (the same of the global points of view 0), ``points`` (mean distance of the other
        views' global points from the truth, relative to the distance from view 0), ``points_near`` (share of them
        within a tenth), ``pck`` (nearest dense descriptor within two and a half cells of the truth) and ``token_pck``
        (within one and a half tokens). The halves are there because answers are centres of cells, and truths are not.
    """
    was_training = network.training
    network.eval()
    draw, rows = Draw.seeded(11), []
    for batch in held_out.fixed(scenes, views):
        photographed = Batch(augment(batch.rgb, draw, _MILD), *(getattr(batch, f.name) for f in fields(Batch)[1:]))
        photographed = photographed.to(device)
        out = network(photographed.rgb, photographed.portrait)
        rows.append(_errors(out, make_targets(photographed)))
    network.train(was_training)
    merged = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    found = {
        name: float(values.nanmean() if name in _SHARES else values.nanmedian()) for name, values in merged.items()
    }
    for suffix in ("", "_coarse"):
        worst = torch.maximum(merged["rotation" + suffix], merged["direction" + suffix])
        found["auc30" + suffix] = area_under_curve(worst, 30)
    return {name: round(value, 4) for name, value in found.items()}


def _errors(out: SmallOutput, targets: Targets) -> dict[str, Tensor]:
    rows: dict[str, Tensor] = {}
    for suffix, iterations in (("_coarse", out.coarse), ("", out.refined)):
        predicted = pose_matrices(iterations[-1])
        rows["rotation" + suffix] = rotation_degrees(predicted[:, 1:, :3, :3], targets.rotation[:, 1:]).flatten()
        rows["direction" + suffix] = direction_degrees(predicted[:, 1:, :3, 3], targets.direction[:, 1:]).flatten()
    rows["focal"] = ((out.refined[-1][..., 7] - targets.log_focal).exp() - 1).abs().flatten()
    assert out.local is not None and out.world is not None  # all stages were run
    rows["absrel"] = depth_error(out.local.points[..., 2], targets.local[..., 2], targets.valid)
    in_first = out.world.points[:, :1, ..., 2]
    rows["absrel_global"] = depth_error(in_first, targets.world[:, :1, ..., 2], targets.valid[:, :1])
    rows["points"], rows["points_near"] = point_errors(out.world.points, targets.world, targets.valid)
    dense = out.descriptors.flatten(3).transpose(2, 3)
    rows["pck"] = _matching(dense, out.descriptors.shape[-2:], targets, _CLOSE_CELLS)
    count = out.token_descriptors.shape[2]
    stride = round((targets.valid[0, 0].numel() / count) ** 0.5)
    grid = (targets.valid.shape[-2] // stride, targets.valid.shape[-1] // stride)
    rows["token_pck"] = _matching(out.token_descriptors, grid, targets, _CLOSE_TOKENS)
    return rows


def _matching(dense: Tensor, grid: tuple[int, int] | torch.Size, targets: Targets, cells: float) -> Tensor:
    """Share of visible cells of a scene whose most similar cell in another view lies within ``cells`` of the truth.

    Scene by scene and pair by pair: the similarities of a shard at once would take tens of gigabytes.
    """
    height, width = targets.valid.shape[-2:]
    stride = height // grid[0]
    source, target = ordered_pairs(1, dense.shape[1], dense.device)
    pairs = list(zip(source[0].tolist(), target[0].tolist(), strict=True))
    pixels = centre_pixels(height, width, stride, dense.device).expand(1, len(pairs), -1)
    shares = []
    for scene, views in enumerate(dense):
        alone = Targets(*(getattr(targets, f.name)[scene : scene + 1] for f in fields(Targets)))
        matches = find_matches(alone, source, target, pixels, stride)
        best = torch.stack([(views[first] @ views[second].T).argmax(-1) for first, second in pairs])
        found = torch.stack([best % grid[1], best // grid[1]], -1) + 0.5
        close = (found - matches.location[0] / stride).norm(dim=-1) <= cells
        visible = matches.visible[0]
        shares.append((close & visible).sum() / visible.sum())
    return torch.stack(shares)


def rotation_degrees(a: Tensor, b: Tensor) -> Tensor:
    """Geodesic distance of rotations in degrees."""
    d = a.transpose(-1, -2) @ b
    axis = torch.stack([d[..., 2, 1] - d[..., 1, 2], d[..., 0, 2] - d[..., 2, 0], d[..., 1, 0] - d[..., 0, 1]], -1)
    return torch.rad2deg(torch.atan2(axis.norm(dim=-1), d.diagonal(dim1=-2, dim2=-1).sum(-1) - 1))


def direction_degrees(a: Tensor, b: Tensor) -> Tensor:
    """Angle between vectors in degrees."""
    cosine = (functional.normalize(a, dim=-1) * functional.normalize(b, dim=-1)).sum(-1)
    return torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))


def depth_error(predicted: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Mean relative depth error of each view (B * V,), medians made equal first; NaN without valid pixels."""
    p, t = predicted.masked_fill(~valid, torch.nan).flatten(2), truth.masked_fill(~valid, torch.nan).flatten(2)
    scale = t.nanmedian(-1, keepdim=True).values / p.nanmedian(-1, keepdim=True).values
    return ((p * scale - t).abs() / t).nanmean(-1).flatten()


def point_errors(predicted: Tensor, truth: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Errors of the global points of the source views, relative to their true distance from view 0.

    One scale per scene makes the median distances of all views' points equal first.

    Returns:
        Mean relative distance (B,), and the share (B,) of points within a tenth; NaN without valid pixels.
    """
    far, found = (points.norm(dim=-1).masked_fill(~valid, torch.nan) for points in (truth, predicted))
    scale = far.flatten(1).nanmedian(-1).values / found.flatten(1).nanmedian(-1).values
    error = ((scale[:, None, None, None, None] * predicted - truth).norm(dim=-1) / far)[:, 1:].flatten(1)
    near = (error < _NEAR).float().masked_fill(error.isnan(), torch.nan)
    return error.nanmean(-1), near.nanmean(-1)


def area_under_curve(errors: Tensor, limit: float) -> float:
    """Area under the recall curve up to ``limit`` degrees, 0 to 1."""
    return float((1 - errors.nan_to_num(180.0) / limit).clamp_min(0).mean())
