"""Pose heads of SPFSplat, and the frame and unit of its poses.

Source: Huang and Mikolajczyk, SPFSplat, arXiv 2508.01171, section 3.2 (pose head); SPFSplatV2, arXiv 2509.17246; six
numbers per rotation after Zhou et al., arXiv 1812.07035.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_FOCAL_STEPS = 10


class SpfPoseHead(nn.Module):
    """Regresses one camera from one vector per view.

    With ``homogeneous`` the translation has a fourth coordinate that divides the others and is kept within bounds,
    which the checkpoint stores.
    """

    max_inv_scale: Tensor
    min_inv_scale: Tensor
    h_beta: Tensor

    def __init__(self, dim: int, *, homogeneous: bool) -> None:
        super().__init__()
        self.homogeneous = homogeneous
        self.mlp = nn.Sequential(nn.Linear(dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim // 4), nn.ReLU())
        self.translation = nn.Linear(dim // 4, 4 if homogeneous else 3)
        self.rotation = nn.Linear(dim // 4, 6)
        if homogeneous:
            self.register_buffer("max_inv_scale", torch.tensor([0.25]))
            self.register_buffer("min_inv_scale", torch.tensor([100.0]))
            self.register_buffer("h_beta", torch.tensor([math.log(2.0) / 0.75]))

    def forward(self, features: Float[Tensor, "*v C"]) -> Float[Tensor, "*v 9"]:
        """Six numbers of the rotation, then the translation."""
        features = self.mlp(features)
        translation = self.translation(features)
        if self.homogeneous:
            inverse_scale = functional.softplus(translation[..., 3:], beta=float(self.h_beta)) + self.max_inv_scale
            translation = translation[..., :3] / inverse_scale.clamp(max=float(self.min_inv_scale))
        return torch.cat([self.rotation(features), translation], dim=-1)


def poses_from_numbers(numbers: Float[Tensor, "*v 9"]) -> Float[Tensor, "*v 4 4"]:
    """Camera-to-world matrices; six numbers are the first two rows of the rotation before they are orthonormal.

    Source: Zhou et al., arXiv 1812.07035, section B (Gram-Schmidt).
    """
    first = functional.normalize(numbers[..., :3], dim=-1, eps=1e-12)
    second = numbers[..., 3:6]
    second = functional.normalize(second - (first * second).sum(-1, keepdim=True) * first, dim=-1, eps=1e-12)
    c2w = numbers.new_zeros(*numbers.shape[:-1], 4, 4)
    c2w[..., :3, :3] = torch.stack([first, second, torch.linalg.cross(first, second)], dim=-2)
    c2w[..., :3, 3] = numbers[..., 6:]
    c2w[..., 3, 3] = 1.0
    return c2w


def in_first_frame(c2w: Float[Tensor, "B V 4 4"], unit_between: int | None = None) -> Float[Tensor, "B V 4 4"]:
    """Poses in the frame of view 0.

    Args:
        c2w: poses in any common world.
        unit_between: the view whose distance to view 0 becomes one; None keeps the unit.
    """
    c2w = c2w.clone()
    if unit_between is not None:
        baseline = (c2w[:, 0, :3, 3] - c2w[:, unit_between, :3, 3]).norm(dim=-1)
        c2w[..., :3, 3] /= baseline.clamp(min=1e-12)[:, None, None]
    turn = c2w[:, :1, :3, :3].transpose(-1, -2)
    moved = c2w.clone()
    moved[..., :3, :3] = turn @ c2w[..., :3, :3]
    moved[..., :3, 3] = (turn @ (c2w[..., :3, 3] - c2w[:, :1, :3, 3])[..., None])[..., 0]
    return moved


def focal_of_points(points: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B"]:
    """Focal length in pixels under which points of view 0 project onto their own pixels.

    Geometric median by Weiszfeld's algorithm, as the network without intrinsics was trained and evaluated; where the
    points are no image of a camera, a field of view of 60 degrees along the longer side is assumed.

    Source: DUSt3R, arXiv 2312.14132, section 3.3; the pixel grid counts from the corner, as published.
    """
    height, width = points.shape[1:3]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=points.device), torch.arange(width, device=points.device), indexing="ij"
    )
    pixels = torch.stack([columns - width / 2, rows - height / 2], dim=-1).reshape(-1, 2).to(points.dtype)
    fallback = max(height, width) / (2 * math.tan(math.radians(30)))
    focals = [_focal_of_view(view.reshape(-1, 3), pixels, fallback) for view in points]
    return torch.stack(focals)


def _focal_of_view(points: Float[Tensor, "N 3"], pixels: Float[Tensor, "N 2"], fallback: float) -> Float[Tensor, ""]:
    ahead = points[:, 2] > 0
    if not ahead.any():
        return points.new_tensor(fallback)
    points, pixels = points[ahead], pixels[ahead]
    plane = torch.nan_to_num(points[:, :2] / points[:, 2:], nan=0.0, posinf=0.0, neginf=0.0)
    along, square = (plane * pixels).sum(-1), plane.square().sum(-1)
    focal = along.mean() / square.mean()
    if not focal > 0:
        focal = points.new_tensor(fallback)
    for _ in range(_FOCAL_STEPS):
        weight = 1 / (pixels - focal * plane).norm(dim=-1).clamp(min=1e-8)
        focal = (weight * along).mean() / (weight * square).mean()
    focal = focal.clamp(min=0)
    return focal if focal > 0 else points.new_tensor(fallback)
