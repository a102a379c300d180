"""Dense head: from tokens of four depths to a point map and a confidence per pixel.

Source: Ranftl et al., DPT, arXiv 2103.13413, section 3; activations of DUSt3R, arXiv 2312.14132, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flarecli.model.config import FlareConfig
from flarecli.model.token_grid import orientation_groups

_OUT_CHANNELS = 4  # x, y, z and confidence before their activations


def _upsample(x: Tensor) -> Tensor:
    return functional.interpolate(x.float(), scale_factor=2, mode="bilinear", align_corners=True).to(x.dtype)


class ResidualUnit(nn.Module):
    """Two convolutions around a residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        """The refined map."""
        return x + self.conv2(functional.relu(self.conv1(functional.relu(x))))


class Fusion(nn.Module):
    """Joins a coarse map with the map of the next finer level and doubles the resolution."""

    def __init__(self, dim: int, *, has_skip: bool) -> None:
        super().__init__()
        self.skip_unit = ResidualUnit(dim) if has_skip else None
        self.unit = ResidualUnit(dim)
        self.out = nn.Conv2d(dim, dim, 1)

    def forward(
        self, coarse: Float[Tensor, "N C h w"], skip: Float[Tensor, "N C h w"] | None = None
    ) -> Float[Tensor, "N C h2 w2"]:
        """The joined map at twice the resolution."""
        if self.skip_unit is not None and skip is not None:
            coarse = coarse + self.skip_unit(skip)
        # A 1x1 convolution commutes with bilinear interpolation; before it there is a quarter of the pixels.
        return _upsample(self.out(self.unit(coarse)))


class DptHead(nn.Module):
    """Point map and confidence from the encoder's tokens and three decoder layers."""

    def __init__(self, config: FlareConfig) -> None:
        super().__init__()
        self.config = config
        first, second, third, fourth = config.dpt_dims
        encoder_dim, dim = config.enc_dim, config.dec_dim
        self.reassemble = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(encoder_dim, first, 1), nn.ConvTranspose2d(first, first, 4, stride=4)),
                nn.Sequential(nn.Conv2d(dim, second, 1), nn.ConvTranspose2d(second, second, 2, stride=2)),
                nn.Sequential(nn.Conv2d(dim, third, 1)),
                nn.Sequential(nn.Conv2d(dim, fourth, 1), nn.Conv2d(fourth, fourth, 3, stride=2, padding=1)),
            ]
        )
        self.project = nn.ModuleList(
            nn.Conv2d(channels, config.dpt_dim, 3, padding=1, bias=False) for channels in config.dpt_dims
        )
        levels = len(config.dpt_dims)
        self.fusions = nn.ModuleList(Fusion(config.dpt_dim, has_skip=level < levels - 1) for level in range(levels))
        self.head_in = nn.Conv2d(config.dpt_dim, config.dpt_head_dim, 3, padding=1)
        self.head_mid = nn.Conv2d(config.dpt_head_dim, config.dpt_head_dim, 3, padding=1)
        self.head_out = nn.Conv2d(config.dpt_head_dim, _OUT_CHANNELS, 1)

    def forward(self, hooked: Sequence[Float[Tensor, "N L C"]], grid_hw: tuple[int, int]) -> Float[Tensor, "N 4 H W"]:
        """Raw outputs of N views of one orientation, upright.

        Args:
            hooked: tokens at the four hooks; the first has the encoder's width.
            grid_hw: rows and columns of the tokens.
        """
        maps = [tokens.transpose(1, 2).unflatten(2, grid_hw) for tokens in hooked]
        levels = [
            project(reassemble(tokens))
            for project, reassemble, tokens in zip(self.project, self.reassemble, maps, strict=True)
        ]
        fused = self.fusions[3](levels[3])[:, :, : levels[2].shape[2], : levels[2].shape[3]]
        for level in (2, 1, 0):
            fused = self.fusions[level](fused, levels[level])
        return self.head_out(functional.relu(self.head_mid(_upsample(self.head_in(fused)))))


def activate(raw: Float[Tensor, "N 4 H W"]) -> tuple[Float[Tensor, "N H W 3"], Float[Tensor, "N H W"]]:
    """Points and confidences of raw outputs.

    Points keep the direction of the raw vector and grow exponentially with its length; confidences are above 1.

    Source: DUSt3R, arXiv 2312.14132, section 3.2 (confidence 1 + exp) and its published depth mode "exp".
    """
    vectors = raw[:, :3].permute(0, 2, 3, 1).float()
    lengths = vectors.norm(dim=-1, keepdim=True)
    points = vectors / lengths.clamp(min=1e-7) * torch.expm1(lengths)
    return points, 1 + raw[:, 3].float().exp()


def dense_pointmaps(
    head: DptHead, hooked: Sequence[Float[Tensor, "B V L C"]], grid_hw: tuple[int, int], portrait: Sequence[bool]
) -> tuple[Float[Tensor, "B V H W 3"], Float[Tensor, "B V H W"]]:
    """Run a dense head on all views, a few at a time, and return landscape storage.

    Args:
        head: the network.
        hooked: tokens of all views at its four hooks.
        grid_hw: rows and columns of the tokens of a stored (landscape) view.
        portrait: which views are stored transposed.
    """
    batch, num_views = hooked[0].shape[:2]
    rows = [tokens.flatten(0, 1) for tokens in hooked]
    points: list[Tensor | None] = [None] * (batch * num_views)
    confidences: list[Tensor | None] = [None] * (batch * num_views)
    for flag, views in orientation_groups(list(portrait) * batch):
        upright_hw = (grid_hw[1], grid_hw[0]) if flag else grid_hw
        for start in range(0, len(views), head.config.views_per_chunk):
            chunk = views[start : start + head.config.views_per_chunk]
            raw = head([tokens[chunk] for tokens in rows], upright_hw)
            chunk_points, chunk_confidences = activate(raw.transpose(-1, -2) if flag else raw)
            for view, view_points, view_confidence in zip(chunk, chunk_points, chunk_confidences, strict=True):
                points[view], confidences[view] = view_points, view_confidence
    stacked = [torch.stack([part for part in parts if part is not None]) for parts in (points, confidences)]
    return stacked[0].unflatten(0, (batch, num_views)), stacked[1].unflatten(0, (batch, num_views))
