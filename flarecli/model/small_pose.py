"""Poses of the small network: eight raw numbers, quaternions, matrices, and the noise that training adds to them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flarecli.geometry.quaternions import multiply_quaternions

POSE_NUMBERS = 8
"""A raw pose: translation 3, quaternion wxyz 4, log of focal length / long side."""

_NOISY_SHARE = 0.6


def initial_pose(batch: int, views: int, device: torch.device) -> Float[Tensor, "B V 8"]:
    """Identity with focal length equal to the long side."""
    pose = torch.zeros(batch, views, POSE_NUMBERS, device=device)
    pose[..., 3] = 1
    return pose


def conditioning_pose(pose: Float[Tensor, "B V 8"], noise: tuple[float, float] | None = None) -> Float[Tensor, "B V 8"]:
    """The pose that conditions the next stage: detached, translations of mean length 1, in training disturbed.

    Args:
        pose: raw poses of the stage before.
        noise: standard deviations of the rotation in degrees and of the translation, for 60 % of the source views.

    Source: FLARE, arXiv 2502.12138, section 3.3 (noise between the stages).
    """
    pose = pose.detach().float()
    length = pose[:, 1:, :3].norm(dim=-1).mean(1).clamp_min(1e-4)[:, None, None]
    shift, turn = pose[..., :3] / length, functional.normalize(pose[..., 3:7], dim=-1)
    if noise is not None:
        degrees, metres = noise
        hit = (torch.rand_like(pose[..., :1]) < _NOISY_SHARE).float()
        hit[:, 0] = 0
        shift = shift + hit * metres * torch.randn_like(shift)
        small = torch.cat(
            [torch.ones_like(hit), hit * torch.deg2rad(torch.tensor(degrees / 2)) * torch.randn_like(shift)], -1
        )
        turn = multiply_quaternions(functional.normalize(small, dim=-1), turn)
    return torch.cat([shift, turn, pose[..., 7:]], -1)


def rotations(quats_wxyz: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3 3"]:
    """Rotation matrices of quaternions of any length but zero."""
    w, x, y, z = functional.normalize(quats_wxyz, dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def pose_matrices(raw: Float[Tensor, "... 8"]) -> Float[Tensor, "... 4 4"]:
    """Camera-to-reference matrices of raw poses."""
    top = torch.cat([rotations(raw[..., 3:7].float()), raw[..., :3, None].float()], -1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], device=raw.device).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], -2)
