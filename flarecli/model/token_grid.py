"""Where tokens sit in their images, and the two orientations of a batch.

A batch is stored landscape; portrait photos lie in it transposed. Tokens of a portrait view are in the raster order of
the upright photo, so all views of a batch have the same number of tokens but two different grids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flarecli.model.layers import Rotary, grid_positions, rotary


@dataclass(frozen=True, slots=True, eq=False)
class TokenGrid:
    """Positions of the tokens of V views.

    Attributes:
        positions: (row, column) of every token in its upright view.
        uniform: whether all views have the same grid.
    """

    positions: Int[Tensor, "V L 2"]
    uniform: bool

    @classmethod
    def of(cls, grid_hw: tuple[int, int], portrait: Sequence[bool], device: torch.device) -> TokenGrid:
        """The grid of views that are stored as ``grid_hw`` tokens, landscape."""
        height, width = grid_hw
        landscape, upright = grid_positions(height, width, device), grid_positions(width, height, device)
        return cls(torch.stack([upright if flag else landscape for flag in portrait]), len(set(portrait)) == 1)

    def each_view(self, batch: int, head_dim: int, base: float) -> Rotary:
        """Tables for sequences of one view each, batch-major (B V folded)."""
        positions = self.positions[:1] if self.uniform else self.positions.repeat(batch, 1, 1)
        return rotary(positions, head_dim, base)

    def joint(self, views: slice, head_dim: int, base: float) -> Rotary:
        """Tables for one sequence of several views after each other; every view counts from its own corner."""
        return rotary(self.positions[views].flatten(0, 1)[None], head_dim, base)


def orientation_groups(portrait: Sequence[bool]) -> list[tuple[bool, list[int]]]:
    """The views of each orientation that occurs: (portrait, view indices)."""
    groups = [
        (flag, [view for view, is_portrait in enumerate(portrait) if is_portrait is flag]) for flag in (False, True)
    ]
    return [(flag, views) for flag, views in groups if views]


def embed_patches(
    conv: nn.Conv2d, maps: Float[Tensor, "B V C H W"], portrait: Sequence[bool]
) -> Float[Tensor, "B V L E"]:
    """Convolve each stored view upright and lay its tokens out in upright raster order."""
    groups = orientation_groups(portrait)
    parts = []
    for flag, views in groups:
        part = maps if len(groups) == 1 else maps[:, views]
        upright = part.transpose(-1, -2) if flag else part
        tokens = conv(upright.flatten(0, 1)).flatten(2).transpose(1, 2)
        parts.append(tokens.unflatten(0, (len(maps), len(views))))
    if len(parts) == 1:
        return parts[0]
    return _in_order(parts, groups)


def apply_upright(
    network: Callable[[Float[Tensor, "N C H W"]], Float[Tensor, "N D H W"]],
    maps: Float[Tensor, "B V C H W"],
    portrait: Sequence[bool],
) -> Float[Tensor, "B V D H W"]:
    """Run an image network on each stored view upright; the result is stored as the maps are."""
    groups = orientation_groups(portrait)
    parts = []
    for flag, views in groups:
        part = maps[:, views].flatten(0, 1)
        out = network(part.transpose(-1, -2)).transpose(-1, -2) if flag else network(part)
        parts.append(out.unflatten(0, (len(maps), len(views))))
    return _in_order(parts, groups)


def _in_order(parts: list[Tensor], groups: list[tuple[bool, list[int]]]) -> Tensor:
    """Views of several orientation groups in the order of the batch."""
    order = [view for _, views in groups for view in views]
    return torch.cat(parts, dim=1)[:, [order.index(view) for view in range(len(order))]]
