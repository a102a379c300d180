"""Gaussian head of FLARE's novel-view network: a shallow network over descriptors and image detail.

Source: Zhang et al., FLARE, CVPR 2025, section 3.4 (appearance); layout of the published weights.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flarecli.model.config_flare import FlareConfig

_OPACITY_SHIFT = 2.0  # first Gaussians are thin


class FlareGaussianHead(nn.Module):
    """Raw Gaussian parameters per pixel."""

    def __init__(self, config: FlareConfig) -> None:
        super().__init__()
        geometry, detail, hidden = config.descriptor_dim, config.detail_dim, config.gaussian_dim
        self.geometry_dim = geometry
        self.mix = nn.Sequential(
            nn.Conv2d(geometry, geometry, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(geometry, geometry, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(geometry, geometry, 3, padding=1),
        )
        self.colour_features = nn.Sequential(nn.Conv2d(geometry + detail, hidden, 3, padding=1), nn.GELU())
        self.colour = nn.Conv2d(hidden, 3, 1)
        self.colour_detail = nn.Conv2d(hidden, 72, 1)
        self.opacity = _branch(geometry + detail, hidden, 1)
        self.scaling = _branch(geometry, hidden, 3)
        self.rotation = _branch(geometry, hidden, 4)

    def forward(self, features: Float[Tensor, "N F H W"]) -> Float[Tensor, "N 83 H W"]:
        """Colour, its directional part, opacity, scale, quaternion; none activated.

        Args:
            features: descriptors and image detail of upright views, after each other.
        """
        geometry = self.mix(features[:, : self.geometry_dim])
        both = torch.cat([geometry, features[:, self.geometry_dim :]], dim=1)
        colour = self.colour_features(both)
        opacity = self.opacity(both) - _OPACITY_SHIFT
        parts = [self.colour(colour), self.colour_detail(colour), opacity]
        return torch.cat([*parts, self.scaling(geometry), self.rotation(geometry)], dim=1)


def unfold_descriptors(
    tokens: Float[Tensor, "N L O"], grid_hw: tuple[int, int], patch_size: int
) -> Float[Tensor, "N D H W"]:
    """Spread what one token says over the pixels of its patch."""
    return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, grid_hw), patch_size)


def _branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, hidden, 3, padding=1), nn.GELU(), nn.Conv2d(hidden, outputs, 1))
