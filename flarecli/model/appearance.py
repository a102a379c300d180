"""Appearance branch of FLARE's novel-view network: fine image features, as tokens and as a map per pixel.

Source: Zhang et al., FLARE, CVPR 2025, section 3.4 (appearance features); sizes of the published weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flarecli.model.config_flare import FlareConfig
from flarecli.model.layers import EncBlock, grid_positions, rotary
from flarecli.model.token_grid import TokenGrid, apply_upright, embed_patches


class AppearanceMaps(nn.Module):
    """A small convolutional pyramid over the image."""

    def __init__(self, config: FlareConfig) -> None:
        super().__init__()
        widths, dim = config.appearance_widths, config.appearance_widths[-1]
        self.fused_dim = config.appearance_dim
        inputs = (3, *widths)
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs[level], width, 3, padding=1, bias=False)
                if level == 0
                else nn.Conv2d(inputs[level], width, 5, stride=2, padding=2, bias=False),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.ReLU(),
            )
            for level, width in enumerate(widths)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in widths[1:])
        self.fuse = nn.Conv2d(dim * len(widths), config.appearance_dim, 3, padding=1)
        self.detail = nn.Conv2d(config.appearance_dim, config.detail_dim, 3, padding=1)

    def forward(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N F H W"]:
        """Features with their positions, and the detail map without, after each other; upright views.

        The positions are the rotary embedding of a vector of ones whose first half turns with the column; the tokens
        of the transformer turn theirs with the row.
        """
        pyramid, x = [], pixels
        for level in self.levels:
            x = level(x)
            pyramid.append(x)
        coarse = self.lateral[2](pyramid[2])
        middle = _resized(coarse, pyramid[1]) + self.lateral[1](pyramid[1])
        fine = self.smooth[0](_resized(middle, pyramid[0]) + self.lateral[0](pyramid[0]))
        middle = self.smooth[1](middle)
        fused = self.fuse(torch.cat([fine, _resized(middle, fine), _resized(coarse, fine)], dim=1))
        height, width = fused.shape[-2:]
        turn = rotary(grid_positions(height, width, fused.device).flip(-1)[None], self.fused_dim)
        positions = turn(fused.new_ones(1, 1, height * width, self.fused_dim))[0, 0].T.unflatten(1, (height, width))
        return torch.cat([fused + positions, self.detail(fused)], dim=1)


class Appearance(nn.Module):
    """Fine image features for the global stage and for the Gaussian head."""

    def __init__(self, config: FlareConfig) -> None:
        super().__init__()
        self.config = config
        dim, eps = config.enc_dim, config.norm_eps
        self.maps = AppearanceMaps(config)
        self.patch_embed = nn.Conv2d(config.appearance_dim, dim, config.patch_size, stride=config.patch_size)
        self.blocks = nn.ModuleList(
            EncBlock(dim, config.enc_heads, config.mlp_ratio, eps) for _ in range(config.appearance_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(
        self, pixels: Float[Tensor, "B V 3 H W"], portrait: Sequence[bool], grid: TokenGrid
    ) -> tuple[Float[Tensor, "B V L E"], Float[Tensor, "B V D H W"]]:
        """Tokens in upright raster order and the detail map in the storage of ``pixels`` (colours in [-1, 1])."""
        config = self.config
        maps = apply_upright(self.maps, pixels, portrait)
        fused, detail = maps.split([config.appearance_dim, config.detail_dim], dim=2)
        x = embed_patches(self.patch_embed, fused, portrait)
        rope = grid.each_view(len(x), config.enc_dim // config.enc_heads, config.rope_base)
        views, x = x.shape[:2], x.flatten(0, 1)
        for block in self.blocks:
            x = block(x, rope)
        return self.norm(x).unflatten(0, views), detail


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)
