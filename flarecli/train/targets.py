"""What the network should have answered: poses, point maps and matches from exact depth and cameras."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flarecli.train.generator import Batch
from flarecli.train.storage import project_to_storage, storage_rays

_SKY_FACTOR = 8.0
_VISIBLE = 0.06


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Everything in the frame of view 0.

    Attributes:
        rotation: (B, V, 3, 3) camera to view 0.
        translation: (B, V, 3) in the scene's unit.
        direction: the same divided by its mean length over views 1 to V-1.
        quats_wxyz: (B, V, 4) unit, real part first and not negative.
        log_focal: (B, V) of focal length / long side.
        local: (B, V, H, W, 3) camera-frame points.
        world: (B, V, H, W, 3) points in the frame of view 0.
        valid: (B, V, H, W) points that exist and are not much farther than the rest.
        portrait: (B, V).
    """

    rotation: Tensor
    translation: Tensor
    direction: Tensor
    quats_wxyz: Tensor
    log_focal: Tensor
    local: Tensor
    world: Tensor
    valid: Tensor
    portrait: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Where pixels of one view are in another.

    Attributes:
        cells: (..., n, 4) cells of the other view's grid around the exact location, row-major.
        weights: (..., n, 4) their bilinear weights, summing to 1, or 0 where the location is off the grid.
        location: (..., n, 2) (column, row) in storage pixels.
        visible: (..., n) whether the other view sees the point.
    """

    cells: Tensor
    weights: Tensor
    location: Tensor
    visible: Tensor


def make_targets(batch: Batch) -> Targets:
    """Targets of a batch; depth 0 marks pixels without a point."""
    first = batch.c2w[:, :1].double()
    relative = torch.linalg.solve(first.expand(-1, batch.c2w.shape[1], -1, -1), batch.c2w.double()).float()
    rotation, translation = relative[..., :3, :3], relative[..., :3, 3]
    depth = batch.depth
    solid = depth > 0
    middle = depth.masked_fill(~solid, torch.nan).flatten(2).nanmedian(-1).values.nan_to_num(1.0)
    valid = solid & (depth < _SKY_FACTOR * middle[..., None, None])
    local = storage_rays(depth.shape[-2], depth.shape[-1], batch.focal, batch.portrait) * depth[..., None]
    world = torch.einsum("bvij,bvhwj->bvhwi", rotation, local) + translation[:, :, None, None]
    length = translation[:, 1:].norm(dim=-1).mean(1).clamp_min(1e-6)
    direction = translation / length[:, None, None]
    quats = quats_wxyz(rotation)
    return Targets(rotation, translation, direction, quats, batch.focal.log(), local, world, valid, batch.portrait)


def quats_wxyz(rotation: Tensor) -> Tensor:
    """Unit quaternions (..., 4) of rotation matrices, real part first and not negative.

    Source: Bar-Itzhack 2000, "New method for extracting the quaternion from a rotation matrix".
    """
    r = rotation.double()
    m = [[r[..., i, j] for j in range(3)] for i in range(3)]
    rows = [
        [m[0][0] + m[1][1] + m[2][2], m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]],
        [m[2][1] - m[1][2], m[0][0] - m[1][1] - m[2][2], m[0][1] + m[1][0], m[0][2] + m[2][0]],
        [m[0][2] - m[2][0], m[0][1] + m[1][0], m[1][1] - m[0][0] - m[2][2], m[1][2] + m[2][1]],
        [m[1][0] - m[0][1], m[0][2] + m[2][0], m[1][2] + m[2][1], m[2][2] - m[0][0] - m[1][1]],
    ]
    matrix = torch.stack([torch.stack(row, -1) for row in rows], -2)
    wxyz = torch.linalg.eigh(matrix).eigenvectors[..., -1].float()
    return torch.where(wxyz[..., :1] < 0, -wxyz, wxyz)


def find_matches(targets: Targets, source: Tensor, target: Tensor, pixels: Tensor, stride: int) -> Matches:
    """Exact matches of chosen pixels.

    Args:
        targets: of B scenes.
        source: (B, P) view index of the source of each of P pairs.
        target: (B, P) view index of the target.
        pixels: (B, P, n) flat storage index of the pixels in the source view.
        stride: pixels per cell of the target's grid.

    Returns:
        Matches with leading axes (B, P).
    """
    rows = torch.arange(len(source), device=source.device)[:, None]
    height, width = targets.valid.shape[-2:]
    pick = pixels[..., None].expand(*pixels.shape, 3)
    world = targets.world[rows, source].flatten(2, 3).gather(2, pick)
    solid = targets.valid[rows, source].flatten(2).gather(2, pixels)
    offset = world - targets.translation[rows, target][:, :, None]
    local = torch.einsum("bpji,bpnj->bpni", targets.rotation[rows, target], offset)
    focal = targets.log_focal[rows, target].exp()
    portrait = targets.portrait[rows, target]
    location, depth = project_to_storage(local, focal[..., None], portrait[..., None], (height, width))
    column, row = location.unbind(-1)
    inside = (depth > 1e-3) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat = row.long().clamp(0, height - 1) * width + column.long().clamp(0, width - 1)
    seen = targets.local[rows, target][..., 2].flatten(2).gather(2, flat)
    visible = inside & solid & ((seen - depth).abs() < _VISIBLE * depth)
    cells, weights = _bilinear(location / stride - 0.5, height // stride, width // stride)
    return Matches(cells, weights, location, visible)


def _bilinear(place: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four cells around each place (column, row) and their weights; those beyond the grid count nothing."""
    corners = torch.tensor([(0, 0), (1, 0), (0, 1), (1, 1)], device=place.device)
    around = place.floor()[..., None, :] + corners
    weights = (1 - (place[..., None, :] - around).abs()).clamp_min(0).prod(-1)
    size = torch.tensor([width, height], device=place.device)
    weights = weights * ((around >= 0) & (around < size)).all(-1)
    column, row = around.clamp(min=torch.zeros_like(size), max=size - 1).long().unbind(-1)
    return row * width + column, weights / weights.sum(-1, keepdim=True).clamp_min(1e-6)


def centre_pixels(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """Flat index of the pixel nearest to the centre of each cell (towards the lower right), row-major."""
    rows = torch.arange(stride // 2, height, stride, device=device)
    columns = torch.arange(stride // 2, width, stride, device=device)
    return (rows[:, None] * width + columns[None]).flatten()
