"""One object in a studio: parts of few materials, on plain ground or before nothing, like a statue or a turntable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from flarecli.train.placement import LOOSE, LOOSE_COUNT, WALLS, ground
from flarecli.train.primitives import ABSENT, BOX, CONE, Draw, Primitives, random_rotations


def studio(draw: Draw, prims: Primitives) -> Tensor:
    """A layout as in :mod:`flarecli.train.layouts`; its extent is about half the height of the object."""
    batch, count = len(prims.kind), LOOSE_COUNT
    radius = draw.log_uniform(batch, low=0.25, high=0.9)
    ground(draw, prims, low=0.4, high=3.0)
    prims.kind[:, 0] = torch.where(draw.chance(0.7, batch), BOX, ABSENT)
    blank = draw.chance(0.65, batch)
    prims.plain[:, 0] = blank.float()
    shade = draw.uniform(batch, 1, low=0.02, high=0.95) * (1 + 0.08 * draw.normal(batch, 3))
    prims.tint[:, 0] = torch.where(blank[:, None], shade.clamp(0, 1), prims.tint[:, 0])
    body, prims.kind[:, WALLS] = WALLS.start, ABSENT
    prims.kind[:, body] = draw.choice((0.3, 0.4, 0.3), batch) + 1
    half = radius[:, None] * draw.uniform(batch, 3, low=0.3, high=0.8)
    half[:, 1] = torch.where(prims.kind[:, body] == CONE, half[:, 0], half[:, 1])
    prims.half[:, body] = half
    prims.centre[:, body] = 0
    prims.centre[:, body, 2] = half[:, 2]
    prims.kind[:, LOOSE] = draw.choice((0.35, 0.4, 0.25), batch, count) + 1
    size = radius[:, None, None] * draw.log_uniform(batch, count, 1, low=0.08, high=0.4)
    size = size * (0.35 * draw.normal(batch, count, 3)).exp()
    size[..., 1] = torch.where(prims.kind[:, LOOSE] == CONE, size[..., 0], size[..., 1])
    prims.half[:, LOOSE] = size
    turned = draw.chance(0.5, batch, count)[..., None, None]
    prims.rotation[:, LOOSE] = torch.where(turned, random_rotations(draw, batch, count), prims.rotation[:, LOOSE])
    outward = functional.normalize(draw.normal(batch, count, 3), dim=-1) * half[:, None]
    place = prims.centre[:, body, None] + outward * draw.uniform(batch, count, 1, low=0.6, high=1.3)
    place[..., 2] = torch.maximum(place[..., 2], size[..., 2])
    prims.centre[:, LOOSE] = place
    _one_material(draw, prims, radius)
    return radius[:, None].expand(-1, 3).contiguous()


def _one_material(draw: Draw, prims: Primitives, radius: Tensor) -> None:
    """Most objects in a studio are of one material or two, whose grain is fine for their size."""
    batch, parts = len(prims.kind), slice(WALLS.start, None)
    shape = prims.kind[:, parts].shape
    first = torch.where(draw.chance(0.8, *shape), WALLS.start, LOOSE.start)
    alike = draw.chance(0.75, batch, 1) & draw.chance(0.9, *shape)
    for values in (prims.textures, prims.tint):
        common = values.gather(1, first[..., None].expand(-1, -1, values.shape[-1]))
        values[:, parts] = torch.where(alike[..., None], common, values[:, parts])
    prims.plain[:, parts] = torch.where(alike, 0.0, prims.plain[:, parts])
    prims.uv_scale[:, parts] = draw.log_uniform(*shape, low=0.25, high=2.5) / radius[:, None]
