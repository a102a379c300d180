"""Batches of rendered multi-view scenes with exact geometry."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from flarecli.train.cameras import Rig, RigRules, sample_rigs
from flarecli.train.primitives import Draw
from flarecli.train.renderer import MISS, RenderSize, render
from flarecli.train.scenes import ROOM, Scenes, sample_scenes
from flarecli.train.textures import TextureStack

_OVERSAMPLE = 2.2


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B scenes with V views each, in landscape storage.

    Attributes:
        rgb: (B, V, 3, H, W) in [0, 1.6] before, [0, 1] after the photometric augmentation.
        depth: (B, V, H, W) z-depth, 0 where there is none (sky).
        c2w: (B, V, 4, 4).
        focal: (B, V) divided by the long side W.
        portrait: (B, V) views stored transposed.
        overlap: (B, V, V).
        kind: (B,) kind of scene.
    """

    rgb: Tensor
    depth: Tensor
    c2w: Tensor
    focal: Tensor
    portrait: Tensor
    overlap: Tensor
    kind: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, f.name).to(device) for f in fields(self)))

    def views(self, index: Tensor) -> Batch:
        """Views (B, V') of each scene, in this order; the first becomes the reference."""
        rows = torch.arange(len(index), device=index.device)[:, None]
        return Batch(
            self.rgb[rows, index],
            self.depth[rows, index],
            self.c2w[rows, index],
            self.focal[rows, index],
            self.portrait[rows, index],
            self.overlap[rows[..., None], index[:, :, None], index[:, None, :]],
            self.kind,
        )


@dataclass(slots=True, eq=False)
class Generator:
    """An endless source of batches.

    Attributes:
        textures: on the device that renders.
        draw: random source on the same device.
    """

    textures: TextureStack
    draw: Draw

    @torch.no_grad()
    def batch(self, scenes: int, rules: RigRules, size: RenderSize) -> Batch:
        """Render scenes whose cameras satisfy the rules; unsuitable scenes are drawn anew."""
        found: list[tuple[Scenes, Rig]] = []
        missing = scenes
        while missing > 0:
            drawn = sample_scenes(self.draw, max(8, int(missing * _OVERSAMPLE)), self.textures)
            rig, good = sample_rigs(self.draw, drawn, rules, self.textures, size.width / size.height)
            keep = good.nonzero()[:, 0]
            keep = keep[torch.randperm(len(keep), generator=self.draw.generator, device=keep.device)][:missing]
            found.append((drawn.select(keep), rig.select(keep)))
            missing -= len(keep)
        return self._render(Scenes.join([s for s, _ in found]), Rig.join([r for _, r in found]), size)

    def _render(self, scenes: Scenes, rig: Rig, size: RenderSize) -> Batch:
        shape = rig.focal.shape
        rgb, depth, index = render(scenes.prims.records(), scenes.lights, rig.flat(), self.textures, size)
        rgb, depth, index = (t.unflatten(0, shape) for t in (rgb, depth, index))
        sky = (depth > MISS) | ((index == 1) & (scenes.kind != ROOM)[:, None, None, None])
        c2w = torch.eye(4, device=depth.device).repeat(*shape, 1, 1)
        c2w[..., :3, :3], c2w[..., :3, 3] = rig.rotation, rig.centre
        return Batch(rgb, depth.masked_fill(sky, 0.0), c2w, rig.focal, rig.portrait, rig.overlap, scenes.kind)
