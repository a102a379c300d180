"""Parts of the small network: convolutional stem, match prior, stages, iterative pose head, dense heads."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flarecli.model.config_small import FlareSmallConfig
from flarecli.model.layers import EncBlock, Mlp, spread
from flarecli.model.small_grid import Grid, Sides
from flarecli.model.small_pose import POSE_NUMBERS

_MAX_LOG_SCALE = 8.0


def upright(module: Callable[..., Tensor], sides: Sides, *stored: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
    """Apply a convolutional module to images as the photographer saw them.

    Portrait images come transposed, are turned upright, and the result is stored transposed again.
    """
    if not len(sides.portrait):
        return module(*stored)
    if not len(sides.landscape):
        return module(*(s.transpose(-1, -2) for s in stored)).transpose(-1, -2)
    # Indexing keeps the memory format that convolutions are fast in, index_select does not.
    landscape = module(*(s[sides.landscape] for s in stored))
    turned = module(*(s[sides.portrait].transpose(-1, -2) for s in stored)).transpose(-1, -2)
    whole = landscape.new_empty(len(stored[0]), *landscape.shape[1:])
    whole[sides.landscape], whole[sides.portrait] = landscape, turned
    return whole


def position_features(positions: Float[Tensor, "... 2"], width: int) -> Float[Tensor, "... width"]:
    """Sines and cosines of positions in [-1, 1] at frequencies from 1/4 to 8 periods per unit, scaled by one half."""
    frequencies = torch.exp(torch.linspace(0, math.log(32), width // 4, device=positions.device)) * math.pi / 2
    angles = (positions[..., None] * frequencies).flatten(-2)
    return 0.5 * torch.cat([angles.sin(), angles.cos()], -1)


class Stem(nn.Module):
    """Stride-2 convolutions from pixels to tokens; the features at the stride of the dense heads are kept."""

    def __init__(self, config: FlareSmallConfig) -> None:
        super().__init__()
        channels = [3, *config.stem]
        kept = len(config.stem) - 2
        self.fine = nn.Sequential(*(_down(channels[i], channels[i + 1]) for i in range(kept)))
        self.coarse = nn.Sequential(
            *(_down(channels[i], channels[i + 1]) for i in range(kept, len(channels) - 2)),
            nn.Conv2d(channels[-2], channels[-1], 3, 2, 1),
        )

    def forward(self, rgb: Float[Tensor, "N 3 H W"], sides: Sides) -> tuple[Tensor, Tensor]:
        """Fine features (N, F, H/s, W/s) and token features (N, C, H/p, W/p), in landscape storage."""
        fine = upright(self.fine, sides, (rgb * 2 - 1).contiguous(memory_format=torch.channels_last))
        return fine, upright(self.coarse, sides, fine)


def _down(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, 2, 1), nn.GroupNorm(8, outer), nn.GELU())


class MatchPrior(nn.Module):
    """Soft correspondence of every token in every other view, as an input of stage 1.

    A pose can only be regressed once the network sees where things went: the expected position of each token's match,
    the displacement and the confidence are embedded. Matches in the reference view have weights of their own; matches
    in the remaining views are averaged with their confidences.
    """

    def __init__(self, config: FlareSmallConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.encoder_width, config.match_width)
        self.key = nn.Linear(config.encoder_width, config.match_width)
        self.log_temperature = nn.Parameter(torch.tensor(2.6))
        self.from_reference = nn.Linear(config.width + 3, config.width)
        self.from_others = nn.Linear(config.width + 3, config.width)

    def forward(
        self, tokens: Float[Tensor, "B V N C"], positions: Float[Tensor, "B V N 2"], features: Float[Tensor, "B V N D"]
    ) -> tuple[Float[Tensor, "B V N D"], Float[Tensor, "B V V N N"]]:
        """Embedded matches, and the logits of token n of view i over the tokens of view j as [b, i, j, n, :]."""
        query = functional.normalize(self.query(tokens), dim=-1)
        key = functional.normalize(self.key(tokens), dim=-1)
        logits = torch.einsum("bind,bjmd->bijnm", query, key).float() * self.log_temperature.exp().clamp(max=50)
        share = logits.softmax(-1)
        where = torch.einsum("bijnm,bjmd->bijnd", share.to(features.dtype), features)
        moved = torch.einsum("bijnm,bjmd->bijnd", share, positions) - positions[:, :, None]
        sure = share.amax(-1, keepdim=True)
        seen = torch.cat([where, moved.to(where.dtype), sure.to(where.dtype)], -1)
        views = tokens.shape[1]
        other = ~torch.eye(views, dtype=torch.bool, device=tokens.device)
        other[1:, 0] = False
        weight = sure * other[None, :, :, None, None]
        average = (weight * seen).sum(2) / weight.sum(2).clamp_min(1e-6)
        reference = self.from_reference(seen[:, 1:, 0])
        return self.from_others(average) + functional.pad(reference, (0, 0, 0, 0, 1, 0)), logits


class Stage(nn.Module):
    """Pairs of a block within each view and a block across all views; token 0 of each view is its camera."""

    def __init__(self, config: FlareSmallConfig, pairs: int) -> None:
        super().__init__()
        heads = config.width // config.head_width
        self.head_width = config.head_width
        self.within = nn.ModuleList(EncBlock(config.width, heads) for _ in range(pairs))
        self.across = nn.ModuleList(EncBlock(config.width, heads) for _ in range(pairs))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, cameras: Float[Tensor, "B V C"], tokens: Float[Tensor, "B V N C"], grid: Grid
    ) -> tuple[Float[Tensor, "B V C"], Float[Tensor, "B V N C"]]:
        """Updated and normalised camera and image tokens."""
        x = torch.cat([cameras[:, :, None].to(tokens.dtype), tokens], 2)
        batch, views, count, _ = x.shape
        view_rope, scene_rope = grid.rope(self.head_width, True, False), grid.rope(self.head_width, True, True)
        for within, across in zip(self.within, self.across, strict=True):
            x = within(x.flatten(0, 1), view_rope).view(batch, views * count, -1)
            x = across(x, scene_rope).view(batch, views, count, -1)
        x = self.norm(x)
        return x[:, :, 0], x[:, :, 1:]


class PoseHead(nn.Module):
    """Camera tokens of all views to poses, corrected several times.

    Translations are left raw and the last layer starts small but not at zero, so that gradients are of order one from
    the first step.

    Source: FLARE, arXiv 2502.12138, section 3.2 (the trunk sees its last answer).
    """

    def __init__(self, config: FlareSmallConfig) -> None:
        super().__init__()
        width, heads = config.width, config.width // config.head_width
        self.iterations = config.pose_iterations
        self.embed = nn.Linear(POSE_NUMBERS, width)
        self.trunk = nn.ModuleList(EncBlock(width, heads) for _ in range(config.pose_trunk))
        self.reference = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, POSE_NUMBERS)
        spread(self.out.weight, 0.01)
        nn.init.zeros_(self.out.bias)

    def forward(self, cameras: Float[Tensor, "B V C"], start: Float[Tensor, "B V 8"]) -> list[Float[Tensor, "B V 8"]]:
        """Raw poses after each iteration. The rigid part of view 0 stays what ``start`` has (the identity)."""
        tag = torch.zeros_like(cameras)
        tag[:, 0] = self.reference
        frozen = torch.ones(cameras.shape[1], POSE_NUMBERS, device=cameras.device)
        frozen[0, :7] = 0
        pose, state, answers = start.float(), cameras, []
        for _ in range(self.iterations):
            state = (state + cameras) / 2 + self.embed(pose.detach().to(cameras.dtype)) + tag
            for block in self.trunk:
                state = block(state, None)
            pose = pose + self.out(self.norm(state)).float() * frozen
            answers.append(pose)
        return answers


class DenseHead(nn.Module):
    """Tokens and fine features to maps: a layer per token, pixel shuffle, convolutions that smooth block edges."""

    def __init__(self, config: FlareSmallConfig, outputs: int) -> None:
        super().__init__()
        channels, scale = config.head_channels, config.patch // config.head_stride
        self.tokens = Mlp(config.encoder_width + config.width, 2 * config.width, channels * scale**2)
        self.shuffle = nn.PixelShuffle(scale)
        self.skip = nn.Conv2d(config.stem[-3], channels, 1)
        self.refine = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
        )
        self.out = nn.Conv2d(channels, outputs, 1)
        spread(self.out.weight, 0.02)

    def forward(
        self, tokens: Float[Tensor, "N h w C"], fine: Float[Tensor, "N F H W"], sides: Sides
    ) -> Float[Tensor, "N outputs H W"]:
        """Maps at the stride of the dense heads, in landscape storage."""
        return upright(self._upright, sides, self.tokens(tokens).permute(0, 3, 1, 2), fine)

    def _upright(self, grid: Tensor, fine: Tensor) -> Tensor:
        cells = (self.shuffle(grid) + self.skip(fine)).contiguous(memory_format=torch.channels_last)
        return self.out(cells + self.refine(cells)).float()


class PointHead(nn.Module):
    """Dense maps at full resolution: log depth, a correction of the ray (3), and confidence."""

    def __init__(self, config: FlareSmallConfig) -> None:
        super().__init__()
        self.stride = config.head_stride
        self.maps = DenseHead(config, 5 * self.stride**2)

    def forward(
        self, tokens: Float[Tensor, "N h w C"], fine: Float[Tensor, "N F H W"], sides: Sides
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Depth (N, H, W) > 0, ray correction (N, H, W, 3) and confidence (N, H, W) > 1."""
        cells = self.maps(tokens, fine, sides)
        maps = upright(nn.PixelShuffle(self.stride), sides, cells) if self.stride > 1 else cells
        depth = maps[:, 0].clamp(-_MAX_LOG_SCALE, _MAX_LOG_SCALE).exp()
        return depth, maps[:, 1:4].permute(0, 2, 3, 1), 1 + maps[:, 4].clamp(max=_MAX_LOG_SCALE).exp()
