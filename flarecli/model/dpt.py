"""Dense heads: from tokens of four depths to a point map, a confidence, or Gaussian parameters per pixel.

Source: Ranftl et al., DPT, arXiv 2103.13413, section 3; activations of DUSt3R, arXiv 2312.14132, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flarecli.model.token_grid import orientation_groups


class DptSizes(Protocol):
    """The numbers of a network's config that a dense head needs."""

    @property
    def enc_dim(self) -> int:
        """Width of the first hook."""
        ...

    @property
    def dec_dim(self) -> int:
        """Width of the other hooks."""
        ...

    @property
    def dpt_dims(self) -> tuple[int, int, int, int]:
        """Channels of the four levels."""
        ...

    @property
    def dpt_dim(self) -> int:
        """Channels of the fusion."""
        ...

    @property
    def dpt_head_dim(self) -> int:
        """Channels of the last convolutions."""
        ...

    @property
    def views_per_chunk(self) -> int:
        """Views that pass at once."""
        ...


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


class DptTrunk(nn.Module):
    """One feature map from the encoder's tokens and three decoder layers; the heads below refine it."""

    def __init__(self, config: DptSizes) -> None:
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

    def fuse(self, hooked: Sequence[Float[Tensor, "N L C"]], grid_hw: tuple[int, int]) -> Float[Tensor, "N D h8 w8"]:
        """Features at half of the resolution of the images, for N views of one orientation, upright.

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
        return fused


class DptHead(DptTrunk):
    """Points, and a confidence where there is a fourth channel."""

    def __init__(self, config: DptSizes, out_channels: int = 4) -> None:
        super().__init__(config)
        self.head_in = nn.Conv2d(config.dpt_dim, config.dpt_head_dim, 3, padding=1)
        self.head_mid = nn.Conv2d(config.dpt_head_dim, config.dpt_head_dim, 3, padding=1)
        self.head_out = nn.Conv2d(config.dpt_head_dim, out_channels, 1)

    def forward(self, hooked: Sequence[Float[Tensor, "N L C"]], grid_hw: tuple[int, int]) -> Float[Tensor, "N O H W"]:
        """Raw outputs of N views of one orientation, upright; arguments as for :meth:`fuse`."""
        features = self.head_in(self.fuse(hooked, grid_hw))
        return self.head_out(functional.relu(self.head_mid(_upsample(features))))


class DptGaussianHead(DptTrunk):
    """Gaussian parameters, with a short cut from the image for fine texture.

    Source: Ye et al., NoPoSplat, arXiv 2410.24207, section 3.2 (RGB shortcut).
    """

    def __init__(self, config: DptSizes, out_channels: int) -> None:
        super().__init__(config)
        dim = config.dpt_dim
        self.colour = nn.Conv2d(3, dim, 7, padding=3)
        self.head_in = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.head_out = nn.Conv2d(dim, out_channels, 1)

    def forward(
        self,
        hooked: Sequence[Float[Tensor, "N L C"]],
        grid_hw: tuple[int, int],
        pixels: Float[Tensor, "N 3 H W"],
    ) -> Float[Tensor, "N O H W"]:
        """Raw outputs of N upright views; ``pixels`` are their colours in [-1, 1]."""
        features = _upsample(self.fuse(hooked, grid_hw)) + functional.relu(self.colour(pixels))
        return self.head_out(functional.relu(self.head_in(features)))


def activate(raw: Float[Tensor, "N 4 H W"]) -> tuple[Float[Tensor, "N H W 3"], Float[Tensor, "N H W"]]:
    """Points and confidences of raw outputs.

    Source: DUSt3R, arXiv 2312.14132, section 3.2 (confidence 1 + exp).
    """
    return activate_points(raw[:, :3].permute(0, 2, 3, 1)), 1 + raw[:, 3].float().exp()


def activate_points(vectors: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Points that keep the direction of the raw vector and grow exponentially with its length.

    Source: the published depth mode "exp" of DUSt3R.
    """
    vectors = vectors.float()
    lengths = vectors.norm(dim=-1, keepdim=True)
    return vectors / lengths.clamp(min=1e-8) * torch.expm1(lengths)


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
