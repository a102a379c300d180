"""Where the primitives of each kind of scene stand: rooms, object clusters, streets, facades, terrain, free scatter.

Every layout takes random primitives, gives the slots a place, and returns the extent (B, 3) of its scenes in metres:
half sizes of rooms; for other scenes a radius that says how far apart things are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from flarecli.train.placement import LOOSE, LOOSE_COUNT, STRUCTURE, WALLS, enlarge, ground, stack
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
    random_rotations,
)


def room(draw: Draw, prims: Primitives) -> Tensor:
    """A box seen from inside, with furniture, columns and pictures on its walls; the extent is its half sizes."""
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
    enlarge(prims, 1.4)
    count = LOOSE_COUNT
    spread = draw.uniform(batch, count, 2) ** 0.6 * draw.signs(batch, count, 2)
    prims.centre[:, LOOSE, :2] = spread * (extent[:, None, :2] - 0.35)
    column = draw.chance(0.2, batch, count) & (prims.kind[:, LOOSE] == CONE)
    prims.half[:, LOOSE, 2] = torch.where(column, extent[:, None, 2], prims.half[:, LOOSE, 2])
    prims.half[:, LOOSE, :2] = torch.where(column[..., None], 0.12, prims.half[:, LOOSE, :2])
    prims.centre[:, LOOSE, 2] = torch.where(column, extent[:, None, 2], prims.centre[:, LOOSE, 2])
    stack(draw, prims)
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
    prims.kind[:, WALLS] = torch.where(draw.chance(0.65, *shape), BOX, ABSENT)
    prims.centre[:, WALLS] = torch.cat([plan, draw.uniform(*shape, 1, low=0.4, high=2.0)], -1)
    prims.half[:, WALLS] = half
    prims.rotation[:, WALLS] = about_z(torch.where(on_x, 0.0, math.pi / 2))
    prims.uv_scale[:, WALLS] = 0.5 / half[..., 1:].amax(-1) * draw.log_uniform(*shape, low=0.7, high=1.5)
    prims.emission[:, WALLS] = draw.chance(0.2, batch, STRUCTURE).float()


def objects(draw: Draw, prims: Primitives) -> Tensor:
    """A cluster of objects on the ground, or in the air, with some walls far behind; the extent is its radius."""
    batch = len(prims.kind)
    radius = draw.log_uniform(batch, low=0.7, high=2.2)
    ground(draw, prims)
    prims.kind[:, 0] = torch.where(draw.chance(0.85, batch), BOX, ABSENT)
    prims.centre[:, LOOSE, :2] *= radius[:, None, None]
    stack(draw, prims)
    _distant_walls(draw, prims)
    return radius[:, None].expand(-1, 3).contiguous()


def _distant_walls(draw: Draw, prims: Primitives) -> None:
    """A few walls and posts around a cluster, in half of the scenes."""
    batch, shape = len(prims.kind), (len(prims.kind), STRUCTURE)
    angle, distance = draw.uniform(*shape, high=6.28), draw.uniform(*shape, low=2.5, high=9.0)
    prims.kind[:, WALLS] = torch.where(draw.chance(0.5, batch, 1) & draw.chance(0.5, *shape), BOX, ABSENT)
    prims.centre[:, WALLS] = torch.stack([angle.cos() * distance, angle.sin() * distance, torch.ones_like(angle)], -1)
    prims.half[:, WALLS] = torch.stack(
        [
            torch.full_like(angle, 0.1),
            draw.log_uniform(*shape, low=0.1, high=4.0),
            draw.uniform(*shape, low=1.0, high=3.5),
        ],
        -1,
    )
    prims.rotation[:, WALLS] = about_z(angle)
    prims.uv_scale[:, WALLS] = draw.log_uniform(*shape, low=0.15, high=1.0)


def street(draw: Draw, prims: Primitives) -> Tensor:
    """Two rows of buildings along y, with things on the pavements between them."""
    batch, shape = len(prims.kind), (len(prims.kind), STRUCTURE)
    ground(draw, prims, low=0.08, high=0.6)
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
    prims.kind[:, WALLS] = BOX
    prims.centre[:, WALLS] = torch.stack([across, along, half[..., 2]], -1)
    prims.half[:, WALLS] = half
    prims.rotation[:, WALLS] = about_z(0.05 * draw.normal(*shape))
    prims.uv_scale[:, WALLS] = draw.log_uniform(*shape, low=0.1, high=0.5)
    enlarge(prims, 2.2)
    count = LOOSE_COUNT
    prims.centre[:, LOOSE, 0] = draw.signs(batch, count) * width * (1 - 0.9 * draw.uniform(batch, count) ** 1.5)
    prims.centre[:, LOOSE, 1] = draw.uniform(batch, count, low=-12, high=16)
    return torch.full((batch, 3), 12.0, device=draw.device)


def facade(draw: Draw, prims: Primitives) -> Tensor:
    """A wall at y = 0 with windows, ledges, columns and steps before it."""
    batch, shape = len(prims.kind), (len(prims.kind), STRUCTURE)
    ground(draw, prims)
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
    prims.kind[:, WALLS], prims.centre[:, WALLS], prims.half[:, WALLS] = kind, spot, half
    prims.rotation[:, WALLS] = torch.eye(3, device=draw.device)
    prims.uv_scale[:, WALLS] = torch.where(
        draw.chance(0.5, *shape), 0.5 / half.amax(-1), draw.log_uniform(*shape, low=0.15, high=1.5)
    )
    prims.plain[:, 2] = 0
    count = LOOSE_COUNT
    prims.centre[:, LOOSE, 0] = draw.uniform(batch, count, low=-1, high=1) * 1.5 * height[:, None]
    prims.centre[:, LOOSE, 1] = -(draw.uniform(batch, count) ** 2) * 2.5 - prims.half[:, LOOSE, 1] * 0.5
    column = draw.chance(0.35, batch, count) & (prims.kind[:, LOOSE] == CONE)
    prims.half[:, LOOSE, 2] = torch.where(column, height[:, None], prims.half[:, LOOSE, 2])
    prims.centre[:, LOOSE, 2] = torch.where(column, height[:, None], prims.centre[:, LOOSE, 2])
    carved = draw.chance(0.4, batch, count) & (prims.kind[:, LOOSE] != SHEET) & ~column
    prims.centre[:, LOOSE, 1] = torch.where(carved, 0.0, prims.centre[:, LOOSE, 1])
    prims.centre[:, LOOSE, 2] = torch.where(
        carved, draw.uniform(batch, count) * 2 * height[:, None], prims.centre[:, LOOSE, 2]
    )
    return height[:, None].expand(-1, 3).contiguous()


def terrain(draw: Draw, prims: Primitives) -> Tensor:
    """Hills with things scattered between them."""
    batch, shape = len(prims.kind), (len(prims.kind), STRUCTURE)
    ground(draw, prims, low=0.05, high=0.5)
    prims.kind[:, WALLS] = ELLIPSOID
    prims.centre[:, WALLS] = torch.cat([8 * draw.normal(*shape, 2), torch.zeros(*shape, 1, device=draw.device)], -1)
    prims.half[:, WALLS] = torch.stack(
        [
            draw.uniform(*shape, low=2, high=10),
            draw.uniform(*shape, low=2, high=10),
            draw.log_uniform(*shape, low=0.4, high=3.5),
        ],
        -1,
    )
    prims.rotation[:, WALLS] = about_z(draw.uniform(*shape, high=6.28))
    prims.uv_scale[:, WALLS] = draw.log_uniform(*shape, low=0.1, high=0.7)
    enlarge(prims, 2.0)
    prims.centre[:, LOOSE, :2] *= 9
    return torch.full((batch, 3), 7.0, device=draw.device)


def scatter(draw: Draw, prims: Primitives) -> Tensor:
    """Primitives of any orientation in a ball, in half of the scenes above a ground."""
    batch = len(prims.kind)
    ground(draw, prims)
    prims.kind[:, 0] = torch.where(draw.chance(0.5, batch), BOX, ABSENT)
    prims.centre[:, 0, 2] -= 1.6
    free = slice(2, PRIMS)
    count = PRIMS - 2
    direction = functional.normalize(draw.normal(batch, count, 3), dim=-1)
    prims.centre[:, free] = direction * draw.uniform(batch, count, 1) ** (1 / 3) * 1.3
    prims.rotation[:, free] = random_rotations(draw, batch, count)
    return torch.full((batch, 3), 1.3, device=draw.device)
