"""Transformer of NoPoSplat and SPFSplat: one encoder for all views, a decoder in which views read each other.

Source: Ye et al., NoPoSplat, arXiv 2410.24207, section 3.2; Huang and Mikolajczyk, SPFSplat, arXiv 2508.01171, and
SPFSplatV2, arXiv 2509.17246 (masked attention); blocks of CroCo v2, arXiv 2211.10408.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flarecli.model.config_splat import SplatConfig
from flarecli.model.layers import EncBlock, PairBlock, Rotary, grid_positions, rotary, spread
from flarecli.model.token_grid import embed_patches


class SplatTrunk(nn.Module):
    """Tokens of all views, upright and of one size; view 0 has decoder weights of its own.

    After the patches of a view may come a token for its intrinsics and a token for its pose. They sit below the first
    column of the patch grid.
    """

    def __init__(self, config: SplatConfig) -> None:
        super().__init__()
        self.config = config
        dim, eps, ratio = config.enc_dim, config.norm_eps, config.mlp_ratio
        self.patch_embed = nn.Conv2d(3, dim, config.patch_size, stride=config.patch_size)
        self.intrinsics_embed = None if config.intrinsics == "none" else nn.Linear(9, dim)
        self.pose_token = nn.Parameter(spread(torch.empty(1, 1, 1, dim), 0.02)) if config.pose == "token" else None
        self.encoder_blocks = nn.ModuleList(
            EncBlock(dim, config.enc_heads, ratio, eps) for _ in range(config.enc_depth)
        )
        self.encoder_norm = nn.LayerNorm(dim, eps=eps)
        self.decoder_embed = nn.Linear(dim, config.dec_dim)
        self.reference_blocks, self.source_blocks = (
            nn.ModuleList(PairBlock(config.dec_dim, config.dec_heads, ratio, eps) for _ in range(config.dec_depth))
            for _ in range(2)
        )
        self.decoder_norm = nn.LayerNorm(config.dec_dim, eps=eps)

    def encode(
        self, pixels: Float[Tensor, "B V 3 H W"], K_fraction: Float[Tensor, "B V 3 3"] | None
    ) -> Float[Tensor, "B V L E"]:
        """Normalised tokens of each view on its own, followed by its intrinsics where the encoder reads them.

        Args:
            pixels: colours in [-1, 1].
            K_fraction: intrinsics in fractions of the image's width and height; None only for networks without them.

        Raises:
            ValueError: sides that are no multiples of the patch, or the intrinsics are missing.
        """
        config = self.config
        height, width = pixels.shape[-2:]
        if height % config.patch_size or width % config.patch_size:
            raise ValueError(f"both sides of a view must be multiples of {config.patch_size}, not {height} x {width}")
        if config.intrinsics != "none" and K_fraction is None:
            raise ValueError("this network needs the intrinsics of its views")
        x = embed_patches(self.patch_embed, pixels, [False] * pixels.shape[1])
        if config.intrinsics == "encoder":
            x = torch.cat([x, self._intrinsics_token(K_fraction)], dim=2)
        grid_hw = (height // config.patch_size, width // config.patch_size)
        positions = token_positions(grid_hw, x.shape[2] - grid_hw[0] * grid_hw[1], pixels.device)
        rope = rotary(positions[None], config.enc_dim // config.enc_heads, config.rope_base)
        views, x = x.shape[:2], x.flatten(0, 1)
        for block in self.encoder_blocks:
            x = block(x, rope)
        return self.encoder_norm(x).unflatten(0, views)

    def decode(
        self,
        tokens: Float[Tensor, "B V L E"],
        K_fraction: Float[Tensor, "B V 3 3"] | None,
        grid_hw: tuple[int, int],
        memory_of: Sequence[Sequence[int]],
    ) -> list[Float[Tensor, "B V M C"]]:
        """Tokens after every layer, the last ones normalised.

        Args:
            tokens: output of :meth:`encode`.
            K_fraction: as for :meth:`encode`.
            grid_hw: rows and columns of patches.
            memory_of: for each view, the views that it reads; all views read what the layer before wrote.
        """
        if self.config.intrinsics == "decoder":
            tokens = torch.cat([tokens, self._intrinsics_token(K_fraction)], dim=2)
        if self.pose_token is not None:
            tokens = torch.cat([tokens, self.pose_token.expand(*tokens.shape[:2], -1, -1)], dim=2)
        x = self.decoder_embed(tokens)
        positions = token_positions(grid_hw, x.shape[2] - grid_hw[0] * grid_hw[1], x.device)
        rope = self._decoder_rope(positions, 1)
        groups = [
            (views, torch.tensor([list(memory_of[view]) for view in views], device=x.device))
            for views in _alike(memory_of)
        ]
        memory_ropes = [self._decoder_rope(positions, memory.shape[1]) for _, memory in groups]
        outputs = []
        for reference_block, source_block in zip(self.reference_blocks, self.source_blocks, strict=True):
            updated = []
            for (views, memory), memory_rope in zip(groups, memory_ropes, strict=True):
                block = reference_block if views == [0] else source_block
                seen = x[:, memory].flatten(0, 1).flatten(1, 2)
                fresh = block(x[:, views].flatten(0, 1), seen, rope, memory_rope)
                updated.append(fresh.unflatten(0, (len(x), len(views))))
            x = torch.cat(updated, dim=1)
            outputs.append(x)
        outputs[-1] = self.decoder_norm(x)
        return outputs

    def _intrinsics_token(self, K_fraction: Float[Tensor, "B V 3 3"] | None) -> Float[Tensor, "B V 1 E"]:
        if self.intrinsics_embed is None or K_fraction is None:
            raise ValueError("this network needs the intrinsics of its views")
        return self.intrinsics_embed(K_fraction.flatten(-2))[:, :, None]

    def _decoder_rope(self, positions: Int[Tensor, "M 2"], num_views: int) -> Rotary:
        head_dim = self.config.dec_dim // self.config.dec_heads
        return rotary(positions.repeat(num_views, 1)[None], head_dim, self.config.rope_base)


def token_positions(grid_hw: tuple[int, int], extras: int, device: torch.device) -> Int[Tensor, "L 2"]:
    """(row, column) of the patches in row-major order, then of the extra tokens below their first column."""
    below = torch.tensor([[grid_hw[0] + index, 0] for index in range(extras)], dtype=torch.long, device=device)
    return torch.cat([grid_positions(*grid_hw, device), below.reshape(-1, 2)])


def each_reads_all_others(num_views: int) -> list[list[int]]:
    """Every view reads all other views."""
    return [[other for other in range(num_views) if other != view] for view in range(num_views)]


def targets_stay_unseen(num_contexts: int, num_views: int) -> list[list[int]]:
    """Context views read each other only; the target views behind them read all other views."""
    visible = each_reads_all_others(num_views)
    return [
        [other for other in visible[view] if view >= num_contexts or other < num_contexts] for view in range(num_views)
    ]


def _alike(memory_of: Sequence[Sequence[int]]) -> list[list[int]]:
    """Runs of views that share weights and the size of their memory, in order; view 0 is alone."""
    groups: list[list[int]] = []
    for view, memory in enumerate(memory_of):
        if view > 1 and len(memory) == len(memory_of[view - 1]):
            groups[-1].append(view)
        else:
            groups.append([view])
    return groups
