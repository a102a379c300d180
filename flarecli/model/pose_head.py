"""Iterative camera regression and the encoding of a camera as nine numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flarecli.model.config_flare import FlareConfig
from flarecli.model.layers import AttnBlock, Mlp, spread

ENCODING_SIZE = 9
"""Translation (3), quaternion with the real part first (4), focal lengths (2)."""

_FOCAL_RANGE = (0.1, 30.0)


@dataclass(frozen=True, slots=True, eq=False)
class PoseEstimate:
    """Cameras of V views: camera-to-world, where the world is the reference camera as the network sees it.

    Attributes:
        translation: camera centres in a unit of their own.
        quats_wxyz: real part first, of any length and sign.
        rotation: the rotations that the quaternions stand for.
        focal: two focal lengths per view; without supervision in the published weights.
    """

    translation: Float[Tensor, "B V 3"]
    quats_wxyz: Float[Tensor, "B V 4"]
    rotation: Float[Tensor, "B V 3 3"]
    focal: Float[Tensor, "B V 2"]

    @property
    def c2w(self) -> Float[Tensor, "B V 4 4"]:
        """The poses as 4x4 matrices."""
        matrix = torch.zeros(*self.translation.shape[:-1], 4, 4, dtype=self.rotation.dtype, device=self.rotation.device)
        matrix[..., :3, :3] = self.rotation
        matrix[..., :3, 3] = self.translation
        matrix[..., 3, 3] = 1.0
        return matrix


def rotation_from_quats_wxyz(quats_wxyz: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotations of quaternions of any non-zero length; differentiable."""
    w, x, y, z = quats_wxyz.unbind(-1)
    two = 2.0 / quats_wxyz.square().sum(-1)
    rows = (
        (1 - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y)),
        (two * (x * y + w * z), 1 - two * (x * x + z * z), two * (y * z - w * x)),
        (two * (x * z - w * y), two * (y * z + w * x), 1 - two * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def decode_pose(encoding: Float[Tensor, "B V 9"]) -> PoseEstimate:
    """The cameras that an encoding stands for."""
    quats_wxyz = encoding[..., 3:7]
    focal = functional.softplus(encoding[..., 7:]).clamp(*_FOCAL_RANGE)
    return PoseEstimate(encoding[..., :3], quats_wxyz, rotation_from_quats_wxyz(quats_wxyz), focal)


def harmonic_embedding(x: Float[Tensor, "... D"], octaves: int) -> Float[Tensor, "... E"]:
    """Sines of x, then of x a quarter turn on, at frequencies 1, 2, 4, ..., then x itself; E = D (2 octaves + 1).

    The quarter turn is an addition in float32, so it is lost where frequency times x is above 2**24; the published
    weights were trained with that.

    Source: Mildenhall et al., NeRF, arXiv 2003.08934, equation 4, with powers of two that are not scaled by pi.
    """
    frequencies = 2.0 ** torch.arange(octaves, dtype=torch.float32, device=x.device)
    angles = (x[..., None] * frequencies).flatten(-2)
    return torch.cat([angles.sin(), (angles + math.pi / 2).sin(), x], dim=-1)


class PoseHead(nn.Module):
    """Refines the cameras of all views together, a fixed number of times, from one token per view.

    Source: Wang et al., VGGSfM, arXiv 2312.04563, section 3.3 (camera initialiser); FLARE section 3.2.
    """

    def __init__(self, config: FlareConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dec_dim
        self.encoding_embed = nn.Linear(ENCODING_SIZE * (2 * config.pose_octaves + 1), dim)
        self.reference_token = nn.Parameter(spread(torch.empty(1, 1, 1, dim), 0.02))
        self.trunk = nn.ModuleList(
            AttnBlock(dim, config.pose_heads, config.mlp_ratio, config.norm_eps) for _ in range(config.pose_depth)
        )
        self.branch = Mlp(dim, 2 * dim, ENCODING_SIZE + dim)
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps, elementwise_affine=False)
        self.updater = nn.Linear(dim, dim)

    def forward(self, tokens: Float[Tensor, "B V C"]) -> list[PoseEstimate]:
        """The cameras after every iteration.

        The encoding holds frequencies up to ``2**pose_octaves``, so everything here is computed in float32.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            return self._iterate(tokens.float())

    def _iterate(self, tokens: Float[Tensor, "B V C"]) -> list[PoseEstimate]:
        features = tokens
        encoding = tokens.new_zeros(*tokens.shape[:2], ENCODING_SIZE)
        is_reference = torch.arange(tokens.shape[1], device=tokens.device)[:, None] == 0
        reference = self.reference_token[0] * is_reference
        estimates = []
        for _ in range(self.config.pose_iterations):
            features = (
                features + self.encoding_embed(harmonic_embedding(encoding, self.config.pose_octaves)) + reference
            )
            for block in self.trunk:
                features = block(features)
            update, hidden = self.branch(features).split([ENCODING_SIZE, tokens.shape[-1]], dim=-1)
            features = functional.gelu(self.updater(self.norm(hidden))) + features
            features = (features + tokens) / 2
            encoding = encoding + update
            estimates.append(decode_pose(encoding))
        return estimates
