"""Where the first photo of a walk through a procedural scene is taken from, and what it looks at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from flarecli.train.primitives import Draw
from flarecli.train.scenes import FACADE, ROOM, SCATTER, STREET, STUDIO, TERRAIN, Scenes


def anchor(draw: Draw, scenes: Scenes, focal: Tensor) -> tuple[Tensor, Tensor]:
    """Position and target of the first camera of each scene, fitting its kind; world coordinates, z up.

    Args:
        draw: random source.
        scenes: B scenes.
        focal: (B,) divided by the long image side; who sees less steps back.

    Returns:
        Two tensors (B, 3).
    """
    batch, radius, kind = len(scenes.kind), scenes.extent[:, :1], scenes.kind
    azimuth, height = draw.uniform(batch, high=6.28), draw.uniform(batch, low=0.02, high=1.0) ** 1.3
    height = torch.where(draw.chance(0.08, batch), draw.uniform(batch, low=1.0, high=1.5), height)
    height = torch.where(kind == SCATTER, draw.uniform(batch, low=-0.9, high=1.1), height)
    target = radius * torch.cat([0.15 * draw.normal(batch, 2), draw.uniform(batch, 1, low=0.05, high=0.4)], 1)
    target = torch.where((kind == SCATTER)[:, None], 0.2 * draw.normal(batch, 3), target)
    middle = draw.uniform(batch, low=0.4, high=1.0) * radius[:, 0]
    target[:, 2] = torch.where(kind == STUDIO, middle, target[:, 2])
    distance = radius[:, 0] * draw.log_uniform(batch, low=1.1, high=2.8) * (focal / 0.8).clamp(0.7, 4.5)
    distance = torch.where(kind == STUDIO, 1.6 * distance, distance)  # the whole object, as a rule
    place = target + distance[:, None] * torch.stack(
        [azimuth.cos() * height.cos(), azimuth.sin() * height.cos(), height.sin()], -1
    )
    for scene_kind, choose in (
        (ROOM, _in_room),
        (STREET, _in_street),
        (FACADE, _before_facade),
        (TERRAIN, _over_terrain),
    ):
        mask = (kind == scene_kind)[:, None]
        special_place, special_target = choose(draw, scenes, focal)
        place, target = torch.where(mask, special_place, place), torch.where(mask, special_target, target)
    return place, target


def _in_room(draw: Draw, scenes: Scenes, focal: Tensor) -> tuple[Tensor, Tensor]:
    batch, half = len(focal), scenes.extent[:, :2]
    place = torch.cat(
        [draw.uniform(batch, 2, low=-0.85, high=0.85) * half, draw.uniform(batch, 1, low=0.7, high=1.9)], 1
    )
    target = torch.cat(
        [draw.uniform(batch, 2, low=-0.75, high=0.75) * half, draw.uniform(batch, 1, low=0.3, high=1.5)], 1
    )
    rows = torch.arange(batch, device=focal.device)
    thing = scenes.prims.centre[rows, draw.integers(scenes.prims.kind.shape[1] - 2, batch) + 2]
    thing = torch.cat([thing[:, :2] + 0.3 * draw.normal(batch, 2), thing[:, 2:].clamp(0.2, 1.5)], 1)
    return place, torch.where(draw.chance(0.5, batch, 1), thing, target)


def _in_street(draw: Draw, scenes: Scenes, focal: Tensor) -> tuple[Tensor, Tensor]:
    batch = len(focal)
    place = torch.stack(
        [
            draw.uniform(batch, low=-2.5, high=2.5),
            draw.uniform(batch, low=-12, high=-2),
            draw.uniform(batch, low=1.2, high=2.6),
        ],
        -1,
    )
    target = torch.stack(
        [draw.uniform(batch, low=-4, high=4), draw.uniform(batch, high=12), draw.uniform(batch, low=0.5, high=3.5)], -1
    )
    above = draw.chance(0.15, batch, 1)
    high = torch.cat([place[:, :2], draw.uniform(batch, 1, low=12, high=30)], 1)
    return torch.where(above, high, place), torch.where(
        above, target * torch.tensor([1.0, 0.5, 0.0], device=focal.device), target
    )


def _before_facade(draw: Draw, scenes: Scenes, focal: Tensor) -> tuple[Tensor, Tensor]:
    batch, height = len(focal), scenes.extent[:, 0]
    target = torch.stack(
        [
            draw.uniform(batch, low=-0.8, high=0.8) * height,
            torch.zeros_like(height),
            draw.uniform(batch, low=0.3, high=1.5) * height,
        ],
        -1,
    )
    distance = height * draw.log_uniform(batch, low=0.8, high=2.8) * (focal / 0.8).clamp(0.7, 3.0)
    angle = 0.6 * draw.normal(batch)
    angle = angle.clamp(-1.2, 1.2)
    offset = torch.stack([angle.sin() * distance, -angle.cos() * distance, torch.zeros_like(angle)], -1)
    place = target + offset
    place[:, 2] = draw.uniform(batch, low=0.3, high=2.2)
    return place, target


def _over_terrain(draw: Draw, scenes: Scenes, focal: Tensor) -> tuple[Tensor, Tensor]:
    batch = len(focal)
    place = torch.cat([5 * draw.normal(batch, 2), draw.uniform(batch, 1, low=1.5, high=6)], 1)
    ahead = functional.normalize(draw.normal(batch, 2), dim=-1) * draw.uniform(batch, 1, low=4, high=9)
    target = torch.cat([place[:, :2] + ahead, draw.uniform(batch, 1, low=0.2, high=2)], 1)
    above = draw.chance(0.4, batch, 1)
    high = torch.cat([place[:, :2], draw.uniform(batch, 1, low=8, high=22)], 1)
    below = torch.cat([place[:, :2] + 0.1 * ahead, torch.zeros(batch, 1, device=focal.device)], 1)
    return torch.where(above, high, place), torch.where(above, below, target)
