"""Gaussian head of the small network: what the surface at every pixel looks like, on the ray of that pixel.

Tokens and fine features are brought to full resolution as in the dense heads; beside the colours of the photo and the
network's own depth they go through a shallow convolutional network. The trunk gets no gradient from here.

Source: Zhang et al., FLARE, CVPR 2025, arXiv 2502.12138, section 3.4 (appearance features and image features ->
shallow CNN -> opacity, scale, rotation, harmonics around the global point map).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flarecli.model.config_small import FlareSmallConfig
from flarecli.model.layers import spread
from flarecli.model.small_grid import Grid
from flarecli.model.small_output import PointMaps
from flarecli.model.small_parts import DenseHead, upright
from flarecli.scene.gaussians import SH_C0
from flarecli.scene.views import GaussianMaps

RAW_CHANNELS = 11
"""Opacity 1, scale 3, quaternion 4, colour 3."""

_FIRST_OPACITY = 1.4  # as a logit: 0.8
_FIRST_SCALE = 0.6  # of the footprint of a pixel: neighbours overlap enough to leave no holes
_LOG_SCALE_RANGE = (-3.0, 2.5)
_GEOMETRY = 2


class GaussianHead(nn.Module):
    """A Gaussian per pixel; before training all are alike, round and of the colour of the photo."""

    def __init__(self, config: FlareSmallConfig) -> None:
        super().__init__()
        self.stride, detail, hidden = config.head_stride, config.gaussian_detail, config.gaussian_width
        self.maps = DenseHead(config, detail * self.stride**2)
        self.mix = nn.Sequential(
            nn.Conv2d(detail + 3 + _GEOMETRY, hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.GELU(),
        )
        self.out = nn.Conv2d(hidden, RAW_CHANNELS, 1)
        spread(self.out.weight, 0.001)
        self.out.bias = nn.Parameter(torch.zeros(RAW_CHANNELS))

    def forward(
        self,
        tokens: Float[Tensor, "BV h w C"],
        fine: Float[Tensor, "BV F H2 W2"],
        rgb: Float[Tensor, "B V 3 H W"],
        local: PointMaps,
        grid: Grid,
    ) -> GaussianMaps:
        """Gaussians in landscape storage, axes in the frame of the upright camera.

        Args:
            tokens: of the encoder and of the global stage.
            fine: features of the stem at the stride of the dense heads.
            rgb: colours in [0, 1].
            local: camera-centric points, for depth and confidence.
            grid: where everything is.
        """
        maps = self.maps(tokens.detach(), fine.detach(), grid.sides)
        if self.stride > 1:
            maps = upright(nn.PixelShuffle(self.stride), grid.sides, maps)
        pixels = torch.cat([maps, rgb.flatten(0, 1) * 2 - 1, _geometry(local).flatten(0, 1)], 1)
        raw = upright(self._upright, grid.sides, pixels).unflatten(0, rgb.shape[:2])
        return activate(raw, rgb)

    def _upright(self, pixels: Tensor) -> Tensor:
        return self.out(self.mix(pixels.contiguous(memory_format=torch.channels_last))).float()


def activate(raw: Float[Tensor, "*v 11 H W"], rgb: Float[Tensor, "*v 3 H W"]) -> GaussianMaps:
    """Gaussians of raw numbers; zeros stand for a round Gaussian of the pixel's colour.

    Args:
        raw: see ``RAW_CHANNELS``.
        rgb: colours in [0, 1] that the head corrects.
    """
    opacity, scale, quaternion, colour = raw.movedim(-3, -1).split([1, 3, 4, 3], dim=-1)
    scales = _FIRST_SCALE * scale.clamp(*_LOG_SCALE_RANGE).exp()
    axes = functional.normalize(quaternion + quaternion.new_tensor([1.0, 0.0, 0.0, 0.0]), dim=-1)
    sh = (rgb.movedim(-3, -1) + colour - 0.5) / SH_C0
    return GaussianMaps(scales, axes, (opacity[..., 0] + _FIRST_OPACITY).sigmoid(), sh[..., None, :], on_rays=True)


def _geometry(local: PointMaps) -> Float[Tensor, "B V 2 H W"]:
    """Log depth against its mean and log of the confidence above 1, of each view."""
    depth = local.points[..., 2].detach().clamp_min(1e-6).log()
    confidence = (local.confidence.detach() - 1).clamp_min(1e-3).log()
    return torch.stack([depth - depth.mean((-2, -1), keepdim=True), confidence], 2)
