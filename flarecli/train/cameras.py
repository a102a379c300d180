"""Cameras for procedural scenes: plausible photo walks, of which only sets with a controlled overlap are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional

from flarecli.train.anchors import anchor
from flarecli.train.primitives import Draw
from flarecli.train.renderer import MISS, Cameras, RenderSize, render
from flarecli.train.scenes import ROOM, SCATTER, STUDIO, Scenes
from flarecli.train.storage import project_to_storage, storage_rays
from flarecli.train.textures import TextureStack

_PROBE = 18


@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """V cameras for each of B scenes; the first is where the walk started.

    Attributes:
        centre: (B, V, 3).
        rotation: (B, V, 3, 3) camera to world, OpenCV axes.
        focal: (B, V) divided by the long image side.
        portrait: (B, V) views stored transposed.
        overlap: (B, V, V) share of common pixels, the smaller of both directions; 1 on the diagonal.
    """

    centre: Tensor
    rotation: Tensor
    focal: Tensor
    portrait: Tensor
    overlap: Tensor

    @staticmethod
    def join(parts: list[Rig]) -> Rig:
        """The rigs of all parts, one after the other."""
        return Rig(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Rig)))

    def flat(self) -> Cameras:
        """All cameras one after the other; scene b owns the b-th group of V."""
        batch, views = self.focal.shape
        scene = torch.arange(batch, device=self.focal.device).repeat_interleave(views)
        return Cameras(
            self.centre.flatten(0, 1), self.rotation.flatten(0, 1), self.focal.flatten(), self.portrait.flatten(), scene
        )

    def views(self, index: Tensor) -> Rig:
        """Views (B, V') of each rig, in this order."""
        rows = torch.arange(len(index), device=index.device)[:, None]
        return Rig(
            self.centre[rows, index],
            self.rotation[rows, index],
            self.focal[rows, index],
            self.portrait[rows, index],
            self.overlap[rows[..., None], index[:, :, None], index[:, None, :]],
        )

    def select(self, index: Tensor) -> Rig:
        """The rigs at these positions."""
        return Rig(
            self.centre[index], self.rotation[index], self.focal[index], self.portrait[index], self.overlap[index]
        )


@dataclass(frozen=True, slots=True)
class RigRules:
    """Which sets of views are accepted.

    Attributes:
        views: V.
        spread: scale of the baselines, from 0 (none) to 1 (wide).
        overlap: every view shares at least this and at most that part with some earlier one.
        reference_overlap: at least this part with the first.
    """

    views: int
    spread: float = 1.0
    overlap: tuple[float, float] = (0.25, 0.97)
    reference_overlap: float = 0.08


def look_at(centre: Tensor, target: Tensor, roll: Tensor) -> Tensor:
    """Camera-to-world rotations that look at a target, turned about the optical axis by ``roll`` radians."""
    forward = functional.normalize(target - centre, dim=-1)
    up = torch.tensor([1e-4, 1e-4, 1.0], device=centre.device).expand_as(forward)
    right = functional.normalize(torch.cross(forward, up, dim=-1), dim=-1)
    down = torch.cross(forward, right, dim=-1)
    c, s = roll.cos()[..., None], roll.sin()[..., None]
    return torch.stack([c * right + s * down, c * down - s * right, forward], -1)


def sample_rigs(
    draw: Draw, scenes: Scenes, rules: RigRules, textures: TextureStack, aspect: float
) -> tuple[Rig, Tensor]:
    """Draw candidate cameras, look at their overlaps at low resolution and choose V per scene.

    Args:
        draw: random source.
        scenes: B scenes.
        rules: what is accepted.
        textures: for the renderer's interface; colours are not rendered.
        aspect: long image side divided by the short one.

    Returns:
        Rigs and which of them satisfy the rules (B,).
    """
    candidates = _walk(draw, scenes, 2 * rules.views + 3, rules.spread)
    depth, good = _probe(scenes, candidates, textures, aspect)
    overlap = _overlaps(candidates, depth, aspect)
    baseline = torch.cdist(candidates.centre, candidates.centre) / _middle_depth(depth)[:, :1, None].clamp_min(1e-3)
    chosen, complete = _choose(draw, overlap, baseline, good, rules)
    return replace(candidates, overlap=overlap).views(chosen), complete


def _walk(draw: Draw, scenes: Scenes, count: int, spread: float) -> Rig:
    """Candidate cameras around an anchor: on an orbit, along a wall, or forward, one manner per scene."""
    batch, device = len(scenes.kind), scenes.kind.device
    focal = _focal_lengths(draw, batch, scenes.kind)
    zoomed = torch.where(draw.chance(0.2, batch, 1), draw.log_uniform(batch, count, low=0.85, high=1.17), 1.0)
    place, target = anchor(draw, scenes, focal)
    away, width = (place - target)[:, None], (place - target).norm(dim=-1).clamp_min(0.3)[:, None, None]
    reach = 1.15 * spread
    turn = 0.55 * reach * draw.normal(batch, count)
    c, s = turn.cos(), turn.sin()
    around = torch.stack(
        [away[..., 0] * c - away[..., 1] * s, away[..., 0] * s + away[..., 1] * c, away[..., 2].expand_as(c)], -1
    )
    around[..., 2] += 0.18 * reach * draw.normal(batch, count) * width[..., 0]
    orbit = target[:, None] + around * (0.22 * reach * draw.normal(batch, count, 1)).exp()
    shift = torch.tensor([0.3, 0.3, 0.13], device=device)
    slide = place[:, None] + draw.normal(batch, count, 3) * shift * width * reach
    steps = draw.uniform(batch, count, 1, low=-0.35, high=0.45) * reach
    forward = place[:, None] - away * steps + 0.12 * reach * width * draw.normal(batch, count, 3)
    manner = draw.choice((0.5, 0.25, 0.25), batch, 1).masked_fill(scenes.kind[:, None] == STUDIO, 0)[..., None]
    centre = torch.where(manner == 0, orbit, torch.where(manner == 1, slide, forward))
    centre[:, 0] = place
    centre = _keep_inside(scenes, centre)
    tighter = (0.8 / focal).clamp_max(1.0)[:, None, None]
    aim = target[:, None] + 0.13 * tighter * width * draw.normal(batch, count, 3)
    aim = torch.where(manner == 1, aim + (centre - place[:, None]) * draw.uniform(batch, count, 1), aim)
    roll = draw.normal(batch, count) * torch.where(draw.chance(0.2, batch, 1), 0.25, 0.045)
    landscape, portrait = draw.chance(0.55, batch, 1), draw.chance(0.8, batch, 1)
    upright = torch.where(portrait, draw.chance(1.0, batch, count), draw.chance(0.5, batch, count)) & ~landscape
    return Rig(centre, look_at(centre, aim, roll), focal[:, None] * zoomed, upright, torch.empty(0, device=device))


def _focal_lengths(draw: Draw, batch: int, kind: Tensor) -> Tensor:
    """Focal length / long side: mostly what phones and zoom lenses have, a third over the whole range.

    In a studio all occur, up to longer ones.
    """
    usual = (math.log(0.85) + 0.25 * draw.normal(batch)).exp().clamp(0.5, 2.4)
    focal = torch.where(draw.chance(0.65, batch), usual, draw.log_uniform(batch, low=0.5, high=2.4))
    return torch.where(kind == STUDIO, draw.log_uniform(batch, low=0.7, high=3.5), focal)


def _keep_inside(scenes: Scenes, centre: Tensor) -> Tensor:
    """Keep cameras inside rooms and above the ground."""
    half = scenes.extent[:, None] - 0.25
    plan = torch.minimum(torch.maximum(centre[..., :2], -half[..., :2]), half[..., :2])
    height = torch.minimum(centre[..., 2].clamp_min(0.25), 2 * half[..., 2])
    inside = torch.cat([plan, height[..., None]], -1)
    above = torch.cat([centre[..., :2], centre[..., 2:].clamp_min(0.12)], -1)
    kind = scenes.kind[:, None, None]
    return torch.where(kind == ROOM, inside, torch.where(kind == SCATTER, centre, above))


def _probe(scenes: Scenes, rig: Rig, textures: TextureStack, aspect: float) -> tuple[Tensor, Tensor]:
    """Depth at low resolution (B, C, h, w), sky as infinity, and whether each view is worth showing."""
    batch, count = rig.focal.shape
    size = RenderSize(_probe_height(aspect), _PROBE, samples=0)
    _, depth, index = render(scenes.prims.records(), scenes.lights, rig.flat(), textures, size)
    far = (depth > MISS) | ((index == 1) & (scenes.kind != ROOM).repeat_interleave(count)[:, None, None])
    depth = depth.masked_fill(far, math.inf).unflatten(0, (batch, count))
    nearest, sky = depth.flatten(2).amin(-1), depth.isinf().flatten(2).float().mean(-1)
    most = torch.where(scenes.kind == STUDIO, 0.8, 0.6)[:, None]
    return depth, (nearest > 0.1 * _middle_depth(depth)) & (nearest > 0.08) & (sky < most)


def _middle_depth(depth: Tensor) -> Tensor:
    """Median depth of what is hit in each view (B, C); NaN where nothing is."""
    return depth.flatten(2).masked_fill(depth.flatten(2).isinf(), math.nan).nanmedian(-1).values


def _probe_height(aspect: float) -> int:
    return max(8, round(_PROBE / aspect))


def _overlaps(rig: Rig, depth: Tensor, aspect: float) -> Tensor:
    """Share of the pixels of view i that view j sees, the smaller of both directions; (B, C, C)."""
    height, width = depth.shape[-2:]
    rays = storage_rays(height, width, rig.focal, rig.portrait)
    solid = depth.isfinite()
    z = depth.masked_fill(~solid, 1.0)
    world = torch.einsum("bcij,bchwj->bchwi", rig.rotation, rays * z[..., None]) + rig.centre[:, :, None, None]
    offset = world.flatten(2, 3)[:, :, None] - rig.centre[:, None, :, None]
    local = torch.einsum("bdji,bcdnj->bcdni", rig.rotation, offset)
    pixel, ahead = project_to_storage(
        local, rig.focal[:, None, :, None], rig.portrait[:, None, :, None], (height, width)
    )
    column, row = pixel.floor().long().unbind(-1)
    inside = (ahead > 0.02) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    count = depth.shape[1]
    seen = depth.flatten(2)[:, None].expand(-1, count, -1, -1).gather(3, flat)
    visible = inside & ((seen - ahead).abs() < 0.12 * ahead) & solid.flatten(2)[:, :, None]
    share = visible.float().sum(-1) / solid.flatten(2).sum(-1).clamp_min(1)[:, :, None]
    return torch.minimum(share, share.transpose(1, 2))


def _choose(draw: Draw, overlap: Tensor, baseline: Tensor, good: Tensor, rules: RigRules) -> tuple[Tensor, Tensor]:
    """Greedy choice of V candidates; the first is always in. Returns indices (B, V) and success (B,)."""
    batch, count = good.shape
    rows = torch.arange(batch, device=good.device)
    used = torch.zeros_like(good)
    used[:, 0] = True
    chosen, complete = [torch.zeros(batch, dtype=torch.long, device=good.device)], good[:, 0]
    low, high = rules.overlap
    for _ in range(rules.views - 1):
        earlier = torch.stack(chosen, 1)[:, None].expand(-1, count, -1)
        closest, apart = overlap.gather(2, earlier).amax(-1), baseline.gather(2, earlier).amin(-1)
        fits = good & ~used & (closest > low) & (closest < high) & (apart > 0.02)
        fits &= overlap[:, :, 0] > rules.reference_overlap
        pick = (fits.float() + 0.5 * draw.uniform(batch, count)).argmax(1)
        complete = complete & fits[rows, pick]
        used[rows, pick] = True
        chosen.append(pick)
    return torch.stack(chosen, 1), complete
