"""Where pixels and tokens of the small network are: positions, rays, rotary tables."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from flarecli.model.config_small import FlareSmallConfig
from flarecli.model.layers import Rotary, rotary

MAX_VIEWS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """Which images of a batch are stored transposed.

    These are indices, found once for all parts of the network: on CUDA every use of a mask waits for the device.

    Attributes:
        landscape: images stored as they are.
        portrait: images stored transposed.
    """

    landscape: Int[Tensor, "L"]
    portrait: Int[Tensor, "P"]

    @staticmethod
    def of(portrait: Bool[Tensor, "N"]) -> Sides:
        """From one flag per image."""
        return Sides((~portrait).nonzero()[:, 0], portrait.nonzero()[:, 0])


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where the pixels and tokens of a batch are.

    Attributes:
        shape: scenes, views, rows and columns of tokens.
        sides: views stored transposed, scene by scene.
        positions: (row, column) of the tokens of the upright images in [-1, 1] along the long side.
        rays: (x, y) of the pixels of the upright images in units of the long side, 0 in the centre.
        span: rotary positions run over this many units along the long side.
    """

    shape: tuple[int, int, int, int]
    sides: Sides
    positions: Float[Tensor, "B V N 2"]
    rays: Float[Tensor, "B V H W 2"]
    span: float

    def rope(self, head_width: int, camera: bool, across: bool) -> Rotary:
        """Rotary tables per view or across all views; a camera token sits in the image centre."""
        positions = self.positions * (self.span / 2)
        if camera:
            positions = functional.pad(positions, (0, 0, 1, 0))
        tables = rotary(positions.flatten(1, 2) if across else positions.flatten(0, 1), head_width)
        device = positions.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            return Rotary(tables.cos.to(dtype), tables.sin.to(dtype))
        return tables

    def rays_of(self, pose: Float[Tensor, "B V 8"]) -> Float[Tensor, "B V H W 3"]:
        """Camera-frame rays of unit depth at the focal lengths of raw poses, which get no gradient."""
        focal = pose[..., 7].detach().float().clamp(-3, 3).exp()[..., None, None, None]
        return functional.pad(self.rays / focal, (0, 1), value=1.0)

    def cells(self, encoded: Float[Tensor, "B V N E"], decoded: Float[Tensor, "B V N C"]) -> Float[Tensor, "BV h w D"]:
        """Tokens of the encoder and of a stage, joined and laid out as images."""
        both = torch.cat([encoded.to(decoded.dtype), decoded], -1)
        return both.flatten(0, 1).unflatten(1, self.shape[2:])


def make_grid(rgb: Float[Tensor, "B V 3 H W"], portrait: Bool[Tensor, "*B V"], config: FlareSmallConfig) -> Grid:
    """The grid of a batch of images.

    Raises:
        ValueError: a size that is no multiple of the patch, portrait-shaped storage, or a wrong number of views.
    """
    batch, views, _, height, width = rgb.shape
    patch = config.patch
    if height % patch or width % patch or height > width:
        raise ValueError(f"images must be landscape with sides that are multiples of {patch}, not {height} x {width}")
    if not 2 <= views <= MAX_VIEWS:
        raise ValueError(f"the network takes 2 to {MAX_VIEWS} views, not {views}")
    portrait = portrait.expand(batch, views)
    plane = _plane(height, width, portrait)
    cells = _plane(height // patch, width // patch, portrait).flatten(2, 3)
    shape = (batch, views, height // patch, width // patch)
    return Grid(shape, Sides.of(portrait.flatten()), 2 * cells.flip(-1), plane, config.rope_span)


def _plane(height: int, width: int, portrait: Tensor) -> Tensor:
    """(x, y) of cell centres of upright images, in units of the long side, zero in the centre: (B, V, H, W, 2)."""
    across = (torch.arange(width, device=portrait.device) + 0.5 - 0.5 * width) / width
    down = (torch.arange(height, device=portrait.device) + 0.5 - 0.5 * height) / width
    plane = torch.stack(torch.broadcast_tensors(across[None, :], down[:, None]), -1)
    return torch.where(portrait[..., None, None, None], plane.flip(-1), plane)
