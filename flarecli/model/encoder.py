"""Encoder of FLARE: every view on its own, from pixels to tokens and coarse tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from flarecli.model.config_flare import FlareConfig
from flarecli.model.layers import EncBlock
from flarecli.model.token_grid import TokenGrid, embed_patches


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Tokens of all views.

    Attributes:
        tokens: normalised output of the last block.
        taps: inputs of the tapped blocks, without a norm.
        grid: positions of the tokens.
        coarse: tokens that stand for a square of tokens each.
        coarse_grid: positions of the coarse tokens.
    """

    tokens: Float[Tensor, "B V L E"]
    taps: list[Float[Tensor, "B V L E"]]
    grid: TokenGrid
    coarse: Float[Tensor, "B V M E"]
    coarse_grid: TokenGrid


class Encoder(nn.Module):
    """Patch embedding, transformer blocks, and a convolution to coarse tokens."""

    def __init__(self, config: FlareConfig) -> None:
        super().__init__()
        self.config = config
        dim, eps = config.enc_dim, config.norm_eps
        self.patch_embed = nn.Conv2d(3, dim, config.patch_size, stride=config.patch_size)
        self.blocks = nn.ModuleList(
            EncBlock(dim, config.enc_heads, config.mlp_ratio, eps) for _ in range(config.enc_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.coarse_embed = nn.Conv2d(dim, dim, config.coarse_stride, stride=config.coarse_stride)
        self.coarse_norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, pixels: Float[Tensor, "B V 3 H W"], portrait: Sequence[bool]) -> Encoded:
        """Encode all views.

        Args:
            pixels: colours in [-1, 1], landscape storage; H and W are multiples of ``config.multiple``.
            portrait: which views are stored transposed.
        """
        config = self.config
        batch, _, _, height, width = pixels.shape
        grid_hw = (height // config.patch_size, width // config.patch_size)
        grid = TokenGrid.of(grid_hw, portrait, pixels.device)
        rope = grid.each_view(batch, config.enc_dim // config.enc_heads, config.rope_base)

        x = embed_patches(self.patch_embed, pixels, portrait)
        views = x.shape[:2]
        x, taps = x.flatten(0, 1), []
        for index, block in enumerate(self.blocks):
            if index in config.tap_blocks:
                taps.append(x.unflatten(0, views))
            x = block(x, rope)
        tokens = self.norm(x).unflatten(0, views)

        # The published network reads the upright tokens of portrait views as if they were in landscape raster order
        # before it transposes them; its weights expect the neighbourhoods that result.
        maps = tokens.unflatten(2, grid_hw).permute(0, 1, 4, 2, 3)
        coarse = self.coarse_norm(embed_patches(self.coarse_embed, maps, portrait))
        coarse_hw = (grid_hw[0] // config.coarse_stride, grid_hw[1] // config.coarse_stride)
        return Encoded(tokens, taps, grid, coarse, TokenGrid.of(coarse_hw, portrait, pixels.device))
