"""Procedural scenes of several kinds, lit by a lamp or the sun: random primitives, a layout, a sky, photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flarecli.train import layouts
from flarecli.train.placement import LOOSE, STRUCTURE, WALLS
from flarecli.train.primitives import (
    ABSENT,
    ELLIPSOID,
    SHEET,
    Draw,
    Primitives,
    about_z,
    concatenate,
    random_primitives,
)
from flarecli.train.studio import studio
from flarecli.train.textures import TextureStack

ROOM, OBJECTS, STREET, FACADE, TERRAIN, SCATTER, STUDIO = range(7)
WEIGHTS = (0.26, 0.22, 0.11, 0.11, 0.07, 0.11, 0.12)
_LAYOUTS: dict[int, Callable[[Draw, Primitives], Tensor]] = {
    ROOM: layouts.room,
    OBJECTS: layouts.objects,
    STREET: layouts.street,
    FACADE: layouts.facade,
    TERRAIN: layouts.terrain,
    SCATTER: layouts.scatter,
    STUDIO: studio,
}


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """B scenes.

    Attributes:
        kind: (B,) ROOM ... STUDIO.
        prims: their primitives.
        lights: (B, 7) lamp position, ambient share, lamp colour.
        extent: (B, 3) half sizes of rooms; for other scenes a radius that says how far apart things are.
    """

    kind: Tensor
    prims: Primitives
    lights: Tensor
    extent: Tensor

    @staticmethod
    def join(parts: list[Scenes]) -> Scenes:
        """The scenes of all parts, one after the other."""
        return Scenes(
            torch.cat([p.kind for p in parts]),
            concatenate([p.prims for p in parts]),
            torch.cat([p.lights for p in parts]),
            torch.cat([p.extent for p in parts]),
        )

    def select(self, index: Tensor) -> Scenes:
        """The scenes at these positions."""
        return Scenes(self.kind[index], self.prims.select(index), self.lights[index], self.extent[index])


def sample_scenes(draw: Draw, batch: int, textures: TextureStack) -> Scenes:
    """Draw scenes of all kinds, in the order of the kinds (shuffle where the order matters)."""
    counts = torch.bincount(draw.choice(WEIGHTS, batch), minlength=len(WEIGHTS)).tolist()
    parts = [_build(draw, kind, count, textures) for kind, count in enumerate(counts) if count]
    return Scenes.join(parts)


def _build(draw: Draw, kind: int, batch: int, textures: TextureStack) -> Scenes:
    prims = random_primitives(draw, batch, textures.count)
    extent = _LAYOUTS[kind](draw, prims)
    if kind != ROOM:
        _sky(draw, prims, textures, *((0.8, 0.0) if kind == STUDIO else (0.15, 0.6)))
    _photographs(draw, prims, textures, kind)
    loose = prims.kind[:, LOOSE]
    kept = draw.chance(0.85, *loose.shape) & (draw.uniform(*loose.shape) < draw.uniform(batch, 1, low=0.35))
    prims.kind[:, LOOSE] = torch.where(kept, loose, ABSENT)
    return Scenes(torch.full((batch,), kind, device=draw.device), prims, _lights(draw, extent, kind == ROOM), extent)


def _sky(draw: Draw, prims: Primitives, textures: TextureStack, blank_share: float, darkest: float) -> None:
    batch = len(prims.kind)
    prims.kind[:, 1] = ELLIPSOID
    prims.centre[:, 1] = 0
    prims.half[:, 1] = torch.tensor([60.0, 60.0, 45.0], device=draw.device)
    prims.rotation[:, 1] = about_z(draw.uniform(batch, high=6.28))
    prims.dome[:, 1] = 1
    prims.emission[:, 1] = 1
    prims.detail[:, 1] = 0
    prims.textures[:, 1] = draw.integers(max(textures.photos, 1), batch, 1)
    blank = draw.chance(blank_share, batch)
    prims.plain[:, 1] = blank.float()
    prims.tint[:, 1] = torch.where(
        blank[:, None], draw.uniform(batch, 1, low=darkest, high=1.0).expand(-1, 3), prims.tint[:, 1]
    )


def _photographs(draw: Draw, prims: Primitives, textures: TextureStack, kind: int) -> None:
    """Give sheets and the pictures on walls photographs instead of materials."""
    if not textures.photos:
        return
    photo = draw.integers(textures.photos, *prims.kind.shape, 1).expand_as(prims.textures)
    picture = (prims.kind == SHEET) & draw.chance(0.5, *prims.kind.shape)
    if kind == ROOM:
        picture[:, WALLS] |= draw.chance(0.7, len(picture), STRUCTURE)
    prims.textures = torch.where(picture[..., None], photo, prims.textures)


def _lights(draw: Draw, extent: Tensor, indoors: bool) -> Tensor:
    batch = len(extent)
    if indoors:
        lamp = extent * draw.uniform(batch, 3, low=-0.7, high=0.7)
        lamp[:, 2] = extent[:, 2] * 2 * draw.uniform(batch, low=0.75, high=0.97)
    else:
        azimuth, height = draw.uniform(batch, high=6.28), draw.uniform(batch, low=0.25, high=1.4)
        flat = height.cos()
        lamp = 45 * torch.stack([azimuth.cos() * flat, azimuth.sin() * flat, height.sin()], -1)
    ambient = draw.uniform(batch, 1, low=0.25, high=0.85)
    return torch.cat([lamp, ambient, (1 + 0.12 * draw.normal(batch, 3)).clamp(0.6, 1.4)], 1)
