"""The primitives that procedural scenes are made of, as batched tensors, and the table that the renderer reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from flarecli.model.small_pose import rotations

PRIMS = 32
"""Slots per scene."""
RECORD = 41
"""Floats per slot, in the order of the enum in ``renderer.h``."""
ABSENT, BOX, ELLIPSOID, CONE, SHEET = range(5)


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """Random numbers of one generator on one device."""

    generator: torch.Generator

    @staticmethod
    def seeded(seed: int, device: torch.device | str = "cpu") -> Draw:
        """A reproducible source."""
        return Draw(torch.Generator(device=device).manual_seed(seed))

    @property
    def device(self) -> torch.device:
        """Where the numbers are made."""
        return self.generator.device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform in [low, high)."""
        return torch.rand(*shape, generator=self.generator, device=self.device) * (high - low) + low

    def log_uniform(self, *shape: int, low: float, high: float) -> Tensor:
        """Uniform in the logarithm."""
        return self.uniform(*shape, low=math.log(low), high=math.log(high)).exp()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers from 0 to high - 1."""
        return torch.randint(high, shape, generator=self.generator, device=self.device)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """True with this probability."""
        return torch.rand(*shape, generator=self.generator, device=self.device) < probability

    def signs(self, *shape: int) -> Tensor:
        """-1 or 1."""
        return self.integers(2, *shape).float() * 2 - 1

    def choice(self, weights: tuple[float, ...], *shape: int) -> Tensor:
        """Indices with these relative weights."""
        flat = torch.multinomial(
            torch.tensor(weights, device=self.device), math.prod(shape), replacement=True, generator=self.generator
        )
        return flat.reshape(shape)


def about_z(angle: Tensor) -> Tensor:
    """Rotations about the vertical axis, (..., 3, 3)."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).unflatten(-1, (3, 3))


def rotation_from_vector(vector: Tensor) -> Tensor:
    """Rotations from axis times angle, (..., 3) to (..., 3, 3) (Rodrigues)."""
    angle = vector.norm(dim=-1, keepdim=True).clamp_min(1e-8)
    x, y, z = (vector / angle).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    angle = angle[..., None]
    return torch.eye(3, device=vector.device) + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)


def random_rotations(draw: Draw, *shape: int) -> Tensor:
    """Uniformly distributed rotations: quaternions whose direction is that of a normal vector.

    Source: Muller 1959, "A note on a method for generating points uniformly on n-dimensional spheres"; the uniform
    distribution of unit quaternions is that of rotations.
    """
    return rotations(draw.normal(*shape, 4))


@dataclass(slots=True, eq=False)
class Primitives:
    """B scenes of K primitives; fields are (B, K, ...) and layouts write into them.

    Attributes:
        kind: ABSENT, BOX, ELLIPSOID, CONE or SHEET.
        centre: in the world, z up.
        rotation: local to world.
        half: half sizes along the local axes.
        cutout: outline of a sheet: style, two frequencies, phase, level.
        taper: radius at the top of a cone divided by that at the bottom.
        dome: 1 for the sky.
        uv_scale: texture repeats per unit of length.
        uv_offset: in texture repeats.
        uv_turn: radians.
        tint: factor of the texture's colour, or the colour of plain primitives.
        gloss: strength of highlights.
        emission: 1 where no light or shadow applies.
        plain: 1 for a flat colour without texture.
        detail: strength of a second, finer texture layer.
        detail_texture: its index.
        textures: index per face.
    """

    kind: Tensor
    centre: Tensor
    rotation: Tensor
    half: Tensor
    cutout: Tensor
    taper: Tensor
    dome: Tensor
    uv_scale: Tensor
    uv_offset: Tensor
    uv_turn: Tensor
    tint: Tensor
    gloss: Tensor
    emission: Tensor
    plain: Tensor
    detail: Tensor
    detail_texture: Tensor
    textures: Tensor

    def select(self, index: Tensor) -> Primitives:
        """The scenes at these positions."""
        return Primitives(*(getattr(self, f.name)[index] for f in fields(self)))

    def records(self) -> Tensor:
        """(B, K, RECORD) in the order of ``renderer.h``."""
        world_to_unit = self.rotation.transpose(-1, -2) / self.half[..., None]
        columns = [world_to_unit.flatten(2), self.centre, self.kind, self.cutout, self.taper, self.dome, self.half]
        columns += [self.uv_scale, self.uv_offset, self.uv_turn, self.tint, self.gloss, self.emission, self.plain]
        columns += [self.detail, self.detail_texture, self.textures]
        wide = [c.float() if c.ndim == 3 else c.float()[..., None] for c in columns]
        return torch.cat(wide, -1).contiguous()


def concatenate(parts: list[Primitives]) -> Primitives:
    """All scenes of several batches."""
    return Primitives(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Primitives)))


def random_primitives(draw: Draw, batch: int, textures: int) -> Primitives:
    """Primitives with random sizes, orientations and materials, standing on z = 0 around the origin.

    Sizes are for scenes of a few metres; the layouts in ``train/layouts.py`` move, scale and remove them.
    """
    shape = (batch, PRIMS)
    kind = draw.choice((0.52, 0.2, 0.14, 0.14), *shape) + 1
    half = draw.log_uniform(*shape, 1, low=0.07, high=0.55) * (0.45 * draw.normal(*shape, 3)).exp()
    half = half.clamp(0.02, 1.2)
    yaw = torch.where(draw.chance(0.5, *shape), draw.integers(4, *shape) * math.pi / 2, draw.uniform(*shape, high=6.28))
    rotation = about_z(yaw + 0.03 * draw.normal(*shape))
    upright_sheet = (kind == SHEET) & draw.chance(0.7, *shape)
    stand = rotation_from_vector(torch.tensor([math.pi / 2, 0.0, 0.0], device=draw.device))
    rotation = torch.where(upright_sheet[..., None, None], rotation @ stand, rotation)
    half[..., 2] = torch.where(kind == SHEET, torch.ones_like(half[..., 2]), half[..., 2])
    round_cone = (kind == CONE)[..., None]
    half[..., :2] = torch.where(round_cone, half[..., :1], half[..., :2])
    rest = torch.where(kind == SHEET, torch.where(upright_sheet, half[..., 1], 0.02), half[..., 2])
    centre = torch.cat([0.5 * draw.normal(*shape, 2), rest[..., None]], -1)
    cutout = torch.stack(
        [
            draw.integers(5, *shape).float(),
            draw.log_uniform(*shape, low=3, high=16),
            draw.log_uniform(*shape, low=3, high=16),
            draw.uniform(*shape, high=6.28),
            draw.uniform(*shape, low=-0.35, high=0.45),
        ],
        -1,
    )
    taper = torch.where(draw.chance(0.5, *shape), draw.uniform(*shape), torch.ones(shape, device=draw.device))
    return Primitives(
        kind, centre, rotation, half, cutout, taper, torch.zeros_like(taper), *_materials(draw, shape, textures)
    )


def _materials(draw: Draw, shape: tuple[int, int], textures: int) -> list[Tensor]:
    """Fields from uv_scale to textures."""
    zero = torch.zeros(shape, device=draw.device)
    plain = draw.chance(0.1, *shape)
    strength = draw.uniform(*shape, 1)
    tint = (1 + 0.16 * draw.normal(*shape, 3) * strength).clamp(0.5, 1.5) * draw.uniform(*shape, 1, low=0.75, high=1.25)
    colour = draw.uniform(*shape, 3, low=0.15, high=0.95)
    grey = colour.mean(-1, keepdim=True)
    tint = torch.where(plain[..., None], grey + (colour - grey) * strength, tint)
    turn = draw.integers(4, *shape) * math.pi / 2
    turn = turn + torch.where(draw.chance(0.3, *shape), draw.uniform(*shape, high=6.28), zero)
    faces = draw.integers(textures, *shape, 6)
    alike = draw.chance(0.55, *shape)[..., None]
    return [
        draw.log_uniform(*shape, low=0.25, high=3.0),
        draw.uniform(*shape, 2, high=2.0),
        turn,
        tint,
        torch.where(draw.chance(0.3, *shape), draw.uniform(*shape, low=0.05, high=0.6), zero),
        zero.clone(),
        plain.float(),
        torch.where(draw.chance(0.4, *shape), draw.uniform(*shape, low=0.15, high=0.7), zero),
        draw.integers(textures, *shape),
        torch.where(alike, faces[..., :1].expand(*shape, 6), faces),
    ]
