"""Procedural scenes: rooms, object clusters, streets, facades, terrain and free scatter, lit by a lamp or the sun.

Every builder starts from random primitives and gives the slots a place. Slot 0 is the shell of a room or the ground,
slot 1 the sky, the following ``STRUCTURE`` slots are walls, buildings, hills or pictures, the rest are loose objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flarecli.train.primitives import (
    ABSENT,
    BOX,
    CONE,
    ELLIPSOID,
    PRIMS,
    SHEET,
    Draw,
    Primitives,
    about_z,
    concatenate,
    random_primitives,
    random_rotations,
)
from flarecli.train.textures import TextureStack

ROOM, OBJECTS, STREET, FACADE, TERRAIN, SCATTER = range(6)
WEIGHTS = (0.28, 0.26, 0.12, 0.12, 0.08, 0.14)
STRUCTURE = 10
_WALLS = slice(2, 2 + STRUCTURE)
_LOOSE = slice(2 + STRUCTURE, PRIMS)


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """B scenes.

    Attributes:
        kind: (B,) ROOM ... SCATTER.
        prims: their primitives.
        lights: (B, 7) lamp position, ambient share, lamp colour.
        extent: (B, 3) half sizes of rooms; for other scenes a radius that says how far apart things are.
    """

    kind: Tensor
    prims: Primitives
    lights: Tensor
    extent: Tensor

    def select(self, index: Tensor) -> Scenes:
        """The scenes at these positions."""
        return Scenes(self.kind[index], self.prims.select(index), self.lights[index], self.extent[index])


def sample_scenes(draw: Draw, batch: int, textures: TextureStack) -> Scenes:
    """Draw scenes of all kinds, in the order of the kinds (shuffle where the order matters)."""
    counts = torch.bincount(draw.choice(WEIGHTS, batch), minlength=len(WEIGHTS)).tolist()
    parts = [_build(draw, kind, count, textures) for kind, count in enumerate(counts) if count]
    return Scenes(
        torch.cat([p.kind for p in parts]),
        concatenate([p.prims for p in parts]),
        torch.cat([p.lights for p in parts]),
        torch.cat([p.extent for p in parts]),
    )


def _build(draw: Draw, kind: int, batch: int, textures: TextureStack) -> Scenes:
    prims = random_primitives(draw, batch, textures.count)
    extent = _BUILDERS[kind](draw, prims)
    if kind != ROOM:
        _sky(draw, prims, textures)
    _photographs(draw, prims, textures, kind)
    loose = prims.kind[:, _LOOSE]
    kept = draw.chance(0.85, *loose.shape) & (draw.uniform(*loose.shape) < draw.uniform(batch, 1, low=0.35))
    prims.kind[:, _LOOSE] = torch.where(kept, loose, ABSENT)
    return Scenes(torch.full((batch,), kind, device=draw.device), prims, _lights(draw, extent, kind == ROOM), extent)


def _sky(draw: Draw, prims: Primitives, textures: TextureStack) -> None:
    batch = len(prims.kind)
    prims.kind[:, 1] = ELLIPSOID
    prims.centre[:, 1] = 0
    prims.half[:, 1] = torch.tensor([60.0, 60.0, 45.0], device=draw.device)
    prims.rotation[:, 1] = about_z(draw.uniform(batch, high=6.28))
    prims.dome[:, 1] = 1
    prims.emission[:, 1] = 1
    prims.detail[:, 1] = 0
    prims.textures[:, 1] = draw.integers(max(textures.photos, 1), batch, 1)
    blank = draw.chance(0.15, batch)
    prims.plain[:, 1] = blank.float()
    prims.tint[:, 1] = torch.where(
        blank[:, None], draw.uniform(batch, 1, low=0.6, high=1.0).expand(-1, 3), prims.tint[:, 1]
    )


def _photographs(draw: Draw, prims: Primitives, textures: TextureStack, kind: int) -> None:
    """Give sheets and the pictures on walls photographs instead of materials."""
    if not textures.photos:
        return
    photo = draw.integers(textures.photos, *prims.kind.shape, 1).expand_as(prims.textures)
    picture = (prims.kind == SHEET) & draw.chance(0.5, *prims.kind.shape)
    if kind == ROOM:
        picture[:, _WALLS] |= draw.chance(0.7, len(picture), STRUCTURE)
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


def _ground(draw: Draw, prims: Primitives, low: float = 0.1, high: float = 1.2) -> None:
    batch = len(prims.kind)
    prims.kind[:, 0] = BOX
    prims.half[:, 0] = torch.tensor([80.0, 80.0, 1.0], device=draw.device)
    prims.centre[:, 0] = torch.tensor([0.0, 0.0, -1.0], device=draw.device)
    prims.rotation[:, 0] = torch.eye(3, device=draw.device)
    prims.uv_scale[:, 0] = draw.log_uniform(batch, low=low, high=high)
    prims.plain[:, 0] = 0


def _stack(draw: Draw, prims: Primitives) -> None:
    """Put a third of the loose objects on top of other loose boxes."""
    batch, count = len(prims.kind), PRIMS - 2 - STRUCTURE
    below = draw.integers(count // 2, batch, count) + 2 + STRUCTURE
    gather = below[..., None].expand(-1, -1, 3)
    centre, half = prims.centre.gather(1, gather), prims.half.gather(1, gather)
    kind = prims.kind[:, _LOOSE]
    later = torch.arange(count, device=draw.device) >= count // 2
    onto = draw.chance(0.5, batch, count) & later & (kind != SHEET) & (prims.kind.gather(1, below) == BOX)
    size = torch.minimum(prims.half[:, _LOOSE], 0.7 * half.amax(-1, keepdim=True))
    place = centre + half * draw.uniform(batch, count, 3, low=-0.5, high=0.5)
    place[..., 2] = centre[..., 2] + half[..., 2] + size[..., 2]
    prims.half[:, _LOOSE] = torch.where(onto[..., None], size, prims.half[:, _LOOSE])
    prims.centre[:, _LOOSE] = torch.where(onto[..., None], place, prims.centre[:, _LOOSE])


def _enlarge(prims: Primitives, factor: float) -> None:
    """Scale loose objects about their footprints."""
    prims.half[:, _LOOSE] *= factor
    prims.centre[:, _LOOSE, 2] *= factor
    flat = prims.kind[:, _LOOSE] == SHEET
    prims.half[:, _LOOSE, 2] = torch.where(flat, 1.0, prims.half[:, _LOOSE, 2])


def _room(draw: Draw, prims: Primitives) -> Tensor:
    batch, device = len(prims.kind), draw.device
    extent = torch.stack(
        [
            draw.uniform(batch, low=1.5, high=4.5),
            draw.uniform(batch, low=1.5, high=4.5),
            draw.uniform(batch, low=1.15, high=1.9),
        ],
        -1,
    )
    prims.kind[:, 0], prims.kind[:, 1] = BOX, ABSENT
    prims.half[:, 0] = extent
    prims.centre[:, 0] = extent * torch.tensor([0.0, 0.0, 1.0], device=device)
    prims.rotation[:, 0] = torch.eye(3, device=device)
    prims.uv_scale[:, 0] = draw.log_uniform(batch, low=0.2, high=1.2)
    faces = draw.integers(int(prims.detail_texture.max()) + 1, batch, 6)
    same_walls = draw.chance(0.5, batch, 1)
    faces[:, :4] = torch.where(same_walls, faces[:, :1], faces[:, :4])
    prims.textures[:, 0] = faces
    _enlarge(prims, 1.4)
    count = PRIMS - 2 - STRUCTURE
    spread = draw.uniform(batch, count, 2) ** 0.6 * draw.signs(batch, count, 2)
    prims.centre[:, _LOOSE, :2] = spread * (extent[:, None, :2] - 0.35)
    column = draw.chance(0.2, batch, count) & (prims.kind[:, _LOOSE] == CONE)
    prims.half[:, _LOOSE, 2] = torch.where(column, extent[:, None, 2], prims.half[:, _LOOSE, 2])
    prims.half[:, _LOOSE, :2] = torch.where(column[..., None], 0.12, prims.half[:, _LOOSE, :2])
    prims.centre[:, _LOOSE, 2] = torch.where(column, extent[:, None, 2], prims.centre[:, _LOOSE, 2])
    _stack(draw, prims)
    _hang_pictures(draw, prims, extent)
    return extent


def _hang_pictures(draw: Draw, prims: Primitives, extent: Tensor) -> None:
    """Thin boxes (pictures, windows, doors, shelves) on the walls of rooms."""
    batch, shape = len(prims.kind), (len(prims.kind), STRUCTURE)
    on_x = draw.chance(0.5, *shape)
    wall, run = torch.where(on_x, extent[:, :1], extent[:, 1:2]), torch.where(on_x, extent[:, 1:2], extent[:, :1])
    away, along = draw.signs(*shape) * wall, draw.uniform(*shape, low=-1, high=1) * (run - 0.3)
    plan = torch.where(on_x[..., None], torch.stack([away, along], -1), torch.stack([along, away], -1))
    half = torch.stack(
        [
            draw.log_uniform(*shape, low=0.01, high=0.25),
            draw.log_uniform(*shape, low=0.15, high=0.9),
            draw.log_uniform(*shape, low=0.12, high=0.9),
        ],
        -1,
    )
    prims.kind[:, _WALLS] = torch.where(draw.chance(0.65, *shape), BOX, ABSENT)
    prims.centre[:, _WALLS] = torch.cat([plan, draw.uniform(*shape, 1, low=0.4, high=2.0)], -1)
    prims.half[:, _WALLS] = half
    prims.rotation[:, _WALLS] = about_z(torch.where(on_x, 0.0, math.pi / 2))
    prims.uv_scale[:, _WALLS] = 0.5 / half[..., 1:].amax(-1) * draw.log_uniform(*shape, low=0.7, high=1.5)
    prims.emission[:, _WALLS] = draw.chance(0.2, batch, STRUCTURE).float()


def _objects(draw: Draw, prims: Primitives) -> Tensor:
    batch = len(prims.kind)
    radius = draw.log_uniform(batch, low=0.7, high=2.2)
    _ground(draw, prims)
    prims.kind[:, 0] = torch.where(draw.chance(0.85, batch), BOX, ABSENT)
    prims.centre[:, _LOOSE, :2] *= radius[:, None, None]
    _stack(draw, prims)
    _distant_walls(draw, prims)
    return radius[:, None].expand(-1, 3).contiguous()


def _distant_walls(draw: Draw, prims: Primitives) -> None:
    """A few walls and posts around a cluster, in a third of the scenes."""
    batch, shape = len(prims.kind), (len(prims.kind), STRUCTURE)
    angle, distance = draw.uniform(*shape, high=6.28), draw.uniform(*shape, low=2.5, high=9.0)
    prims.kind[:, _WALLS] = torch.where(draw.chance(0.5, batch, 1) & draw.chance(0.5, *shape), BOX, ABSENT)
    prims.centre[:, _WALLS] = torch.stack([angle.cos() * distance, angle.sin() * distance, torch.ones_like(angle)], -1)
    prims.half[:, _WALLS] = torch.stack(
        [
            torch.full_like(angle, 0.1),
            draw.log_uniform(*shape, low=0.1, high=4.0),
            draw.uniform(*shape, low=1.0, high=3.5),
        ],
        -1,
    )
    prims.rotation[:, _WALLS] = about_z(angle)
    prims.uv_scale[:, _WALLS] = draw.log_uniform(*shape, low=0.15, high=1.0)


def _street(draw: Draw, prims: Primitives) -> Tensor:
    batch, shape = len(prims.kind), (len(prims.kind), STRUCTURE)
    _ground(draw, prims, low=0.08, high=0.6)
    order = torch.arange(STRUCTURE, device=draw.device)
    side, width = (order % 2 * 2 - 1).float(), draw.uniform(batch, 1, low=3.5, high=9.0)
    half = torch.stack(
        [
            draw.uniform(*shape, low=2, high=5),
            draw.uniform(*shape, low=2, high=6),
            draw.uniform(*shape, low=2, high=11),
        ],
        -1,
    )
    along = (order // 2).float() * 9 - 14 + draw.uniform(*shape, low=-2, high=2)
    across = side * (width + half[..., 0] + draw.uniform(*shape, high=1.5))
    prims.kind[:, _WALLS] = BOX
    prims.centre[:, _WALLS] = torch.stack([across, along, half[..., 2]], -1)
    prims.half[:, _WALLS] = half
    prims.rotation[:, _WALLS] = about_z(0.05 * draw.normal(*shape))
    prims.uv_scale[:, _WALLS] = draw.log_uniform(*shape, low=0.1, high=0.5)
    _enlarge(prims, 2.2)
    count = PRIMS - 2 - STRUCTURE
    prims.centre[:, _LOOSE, 0] = draw.signs(batch, count) * width * (1 - 0.9 * draw.uniform(batch, count) ** 1.5)
    prims.centre[:, _LOOSE, 1] = draw.uniform(batch, count, low=-12, high=16)
    return torch.full((batch, 3), 12.0, device=draw.device)


def _facade(draw: Draw, prims: Primitives) -> Tensor:
    """A wall at y = 0 with windows, ledges, columns and steps before it."""
    batch, shape = len(prims.kind), (len(prims.kind), STRUCTURE)
    _ground(draw, prims)
    height = draw.uniform(batch, low=1.5, high=4.0)
    half = torch.stack(
        [
            draw.log_uniform(*shape, low=0.15, high=1.5),
            draw.log_uniform(*shape, low=0.03, high=0.45),
            draw.log_uniform(*shape, low=0.1, high=1.5),
        ],
        -1,
    )
    spot = torch.stack(
        [
            draw.uniform(*shape, low=-1, high=1) * 1.3 * height[:, None],
            -half[..., 1],
            draw.uniform(*shape) * 2 * height[:, None],
        ],
        -1,
    )
    kind = torch.where(draw.chance(0.8, *shape), BOX, ABSENT)
    kind[:, 0] = BOX
    spot[:, 0] = torch.stack([torch.zeros_like(height), torch.full_like(height, 1.0), height], -1)
    half[:, 0] = torch.stack([height * draw.uniform(batch, low=1.0, high=4.0), torch.ones_like(height), height], -1)
    prims.kind[:, _WALLS], prims.centre[:, _WALLS], prims.half[:, _WALLS] = kind, spot, half
    prims.rotation[:, _WALLS] = torch.eye(3, device=draw.device)
    prims.uv_scale[:, _WALLS] = torch.where(
        draw.chance(0.5, *shape), 0.5 / half.amax(-1), draw.log_uniform(*shape, low=0.15, high=1.5)
    )
    prims.plain[:, 2] = 0
    count = PRIMS - 2 - STRUCTURE
    prims.centre[:, _LOOSE, 0] = draw.uniform(batch, count, low=-1, high=1) * 1.5 * height[:, None]
    prims.centre[:, _LOOSE, 1] = -(draw.uniform(batch, count) ** 2) * 2.5 - prims.half[:, _LOOSE, 1] * 0.5
    column = draw.chance(0.35, batch, count) & (prims.kind[:, _LOOSE] == CONE)
    prims.half[:, _LOOSE, 2] = torch.where(column, height[:, None], prims.half[:, _LOOSE, 2])
    prims.centre[:, _LOOSE, 2] = torch.where(column, height[:, None], prims.centre[:, _LOOSE, 2])
    carved = draw.chance(0.4, batch, count) & (prims.kind[:, _LOOSE] != SHEET) & ~column
    prims.centre[:, _LOOSE, 1] = torch.where(carved, 0.0, prims.centre[:, _LOOSE, 1])
    prims.centre[:, _LOOSE, 2] = torch.where(
        carved, draw.uniform(batch, count) * 2 * height[:, None], prims.centre[:, _LOOSE, 2]
    )
    return height[:, None].expand(-1, 3).contiguous()


def _terrain(draw: Draw, prims: Primitives) -> Tensor:
    batch, shape = len(prims.kind), (len(prims.kind), STRUCTURE)
    _ground(draw, prims, low=0.05, high=0.5)
    prims.kind[:, _WALLS] = ELLIPSOID
    prims.centre[:, _WALLS] = torch.cat([8 * draw.normal(*shape, 2), torch.zeros(*shape, 1, device=draw.device)], -1)
    prims.half[:, _WALLS] = torch.stack(
        [
            draw.uniform(*shape, low=2, high=10),
            draw.uniform(*shape, low=2, high=10),
            draw.log_uniform(*shape, low=0.4, high=3.5),
        ],
        -1,
    )
    prims.rotation[:, _WALLS] = about_z(draw.uniform(*shape, high=6.28))
    prims.uv_scale[:, _WALLS] = draw.log_uniform(*shape, low=0.1, high=0.7)
    _enlarge(prims, 2.0)
    prims.centre[:, _LOOSE, :2] *= 9
    return torch.full((batch, 3), 7.0, device=draw.device)


def _scatter(draw: Draw, prims: Primitives) -> Tensor:
    batch = len(prims.kind)
    _ground(draw, prims)
    prims.kind[:, 0] = torch.where(draw.chance(0.5, batch), BOX, ABSENT)
    prims.centre[:, 0, 2] -= 1.6
    free = slice(2, PRIMS)
    count = PRIMS - 2
    direction = functional.normalize(draw.normal(batch, count, 3), dim=-1)
    prims.centre[:, free] = direction * draw.uniform(batch, count, 1) ** (1 / 3) * 1.3
    prims.rotation[:, free] = random_rotations(draw, batch, count)
    return torch.full((batch, 3), 1.3, device=draw.device)


_BUILDERS: dict[int, Callable[[Draw, Primitives], Tensor]] = {
    ROOM: _room,
    OBJECTS: _objects,
    STREET: _street,
    FACADE: _facade,
    TERRAIN: _terrain,
    SCATTER: _scatter,
}
