"""Which slot of a scene holds what, and the placements that several kinds of scene share.

Slot 0 is the shell of a room or the ground, slot 1 the sky, the ``WALLS`` are walls, buildings, hills or pictures, the
``LOOSE`` slots are objects that lie about. The world's z axis points up and the floor is at z = 0.
"""

from __future__ import annotations

import torch

from flarecli.train.primitives import BOX, PRIMS, SHEET, Draw, Primitives

STRUCTURE = 10
"""Slots of walls."""
WALLS = slice(2, 2 + STRUCTURE)
LOOSE = slice(2 + STRUCTURE, PRIMS)
LOOSE_COUNT = PRIMS - LOOSE.start


def ground(draw: Draw, prims: Primitives, low: float = 0.1, high: float = 1.2) -> None:
    """A slab with its top at z = 0 in slot 0; ``low`` and ``high`` bound the texture repeats per unit."""
    batch = len(prims.kind)
    prims.kind[:, 0] = BOX
    prims.half[:, 0] = torch.tensor([80.0, 80.0, 1.0], device=draw.device)
    prims.centre[:, 0] = torch.tensor([0.0, 0.0, -1.0], device=draw.device)
    prims.rotation[:, 0] = torch.eye(3, device=draw.device)
    prims.uv_scale[:, 0] = draw.log_uniform(batch, low=low, high=high)
    prims.plain[:, 0] = 0


def stack(draw: Draw, prims: Primitives) -> None:
    """Put some of the later half of the loose objects on top of loose boxes of the first half."""
    batch, count = len(prims.kind), LOOSE_COUNT
    below = draw.integers(count // 2, batch, count) + LOOSE.start
    gather = below[..., None].expand(-1, -1, 3)
    centre, half = prims.centre.gather(1, gather), prims.half.gather(1, gather)
    kind = prims.kind[:, LOOSE]
    later = torch.arange(count, device=draw.device) >= count // 2
    onto = draw.chance(0.5, batch, count) & later & (kind != SHEET) & (prims.kind.gather(1, below) == BOX)
    size = torch.minimum(prims.half[:, LOOSE], 0.7 * half.amax(-1, keepdim=True))
    place = centre + half * draw.uniform(batch, count, 3, low=-0.5, high=0.5)
    place[..., 2] = centre[..., 2] + half[..., 2] + size[..., 2]
    prims.half[:, LOOSE] = torch.where(onto[..., None], size, prims.half[:, LOOSE])
    prims.centre[:, LOOSE] = torch.where(onto[..., None], place, prims.centre[:, LOOSE])


def enlarge(prims: Primitives, factor: float) -> None:
    """Scale loose objects about their footprints."""
    prims.half[:, LOOSE] *= factor
    prims.centre[:, LOOSE, 2] *= factor
    flat = prims.kind[:, LOOSE] == SHEET
    prims.half[:, LOOSE, 2] = torch.where(flat, 1.0, prims.half[:, LOOSE, 2])
