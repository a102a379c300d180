"""Pixels of stored images: all have the long side across, portrait photos are stored transposed.

Focal lengths are divided by the long side, the principal point is the middle, pixel centres lie at 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor


def storage_rays(height: int, width: int, focal: Tensor, portrait: Tensor) -> Tensor:
    """Camera-frame rays with unit depth through the pixels of stored images.

    Args:
        height: rows of the storage.
        width: columns of the storage, the long side.
        focal: (...) focal length divided by the long side.
        portrait: (...) transposed images; their columns run down the upright picture.

    Returns:
        (..., height, width, 3)
    """
    across = (torch.arange(width, device=focal.device) + 0.5 - 0.5 * width) / width
    down = (torch.arange(height, device=focal.device) + 0.5 - 0.5 * height) / width
    plane = torch.stack(torch.broadcast_tensors(across[None, :], down[:, None]), -1)
    plane = torch.where(portrait[..., None, None, None], plane.flip(-1), plane) / focal[..., None, None, None]
    return torch.cat([plane, torch.ones_like(plane[..., :1])], -1)


def project_to_storage(
    local: Tensor, focal: Tensor, portrait: Tensor, size_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Camera-frame points (..., 3) to (column, row) in the stored image, and their depth."""
    height, width = size_hw
    depth = local[..., 2]
    plane = local[..., :2] / depth.clamp_min(1e-3)[..., None] * (focal * width)[..., None]
    stored = torch.where(portrait[..., None], plane.flip(-1), plane)
    return stored + torch.tensor([0.5 * width, 0.5 * height], device=local.device), depth
