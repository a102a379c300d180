"""Where predicted Gaussians are put in training: on exact depth, on the network's, or on what a refinement leaves.

`flare reconstruct` hangs the Gaussians on refined cameras and on depth that is measured where photos agree and the
network's elsewhere. The head sees neither, so it has to give opacities and sizes that serve on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from flarecli.train.primitives import Draw

KINDS = ("exact", "network", "measured")
_SHARES = (0.2, 0.3, 0.5)
_REACH = 8  # a window of this share of the long side: how far measured depth speaks for the network's around it
_GRAIN, _OUTLIERS, _OUTLIER = 0.003, 0.01, 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Depth for the Gaussians.

    Attributes:
        depth: z-depth, 0 where no Gaussian is to be.
        unmeasured: pixels that have the network's depth between measured ones.
    """

    depth: Float[Tensor, "B V H W"]
    unmeasured: Bool[Tensor, "B V H W"]


def choose_kinds(draw: Draw, scenes: int) -> Tensor:
    """Index into ``KINDS`` of each scene."""
    return draw.choice(_SHARES, scenes)


def place_depth(
    truth: Float[Tensor, "B V H W"],
    predicted: Float[Tensor, "B V H W"],
    rgb: Float[Tensor, "B V 3 H W"],
    kinds: Tensor,
    draw: Draw,
) -> Placement:
    """Depth of every view.

    Args:
        truth: exact z-depth, 0 where there is none (sky).
        predicted: z-depth of the network on any scale.
        rgb: colours; depth is measured where they change.
        kinds: index into ``KINDS`` of each scene.
        draw: random source on the same device.
    """
    solid = truth > 0
    ratio = torch.where(solid, (truth.clamp_min(1e-6) / predicted.clamp_min(1e-6)).log(), torch.nan)
    whole = ratio.flatten(2).nanmedian(-1).values.nan_to_num(0.0)[..., None, None]
    network = predicted * whole.exp()
    measured = solid & _found(rgb, draw)
    error = _GRAIN * draw.normal(*truth.shape)
    error = error + torch.where(draw.chance(_OUTLIERS, *truth.shape), _OUTLIER * draw.normal(*truth.shape), 0.0)
    drawn = network * _smooth(torch.where(measured, ratio - whole, 0.0), measured).exp()
    mixed = torch.where(measured, truth * error.exp(), drawn)
    kind = kinds[:, None, None, None]
    depth = torch.where(kind == 0, truth, torch.where(kind == 1, network, mixed))
    return Placement(depth, (kind == 2) & ~measured)


def _found(rgb: Tensor, draw: Draw) -> Bool[Tensor, "B V H W"]:
    """Patches in which photos agree: textured ones rather than plain ones, and never all of either."""
    batch, views, _, height, width = rgb.shape
    grey = rgb.mean(2)
    across = functional.pad((grey[..., 1:] - grey[..., :-1]).abs(), (0, 1))
    down = functional.pad((grey[..., 1:, :] - grey[..., :-1, :]).abs(), (0, 0, 0, 1))
    texture = functional.avg_pool2d(across + down, 5, 1, 2, count_include_pad=False)
    rank = texture.flatten(2).argsort(-1).argsort(-1).view_as(texture) / (height * width)
    luck = functional.interpolate(
        draw.normal(batch, views, max(2, height // 8), max(2, width // 8)), (height, width), mode="bilinear"
    )
    return luck + 2 * rank > draw.uniform(batch, views, 1, 1, low=-1.0, high=1.5)


def _smooth(values: Tensor, known: Tensor) -> Tensor:
    """Mean of the known values around each pixel, drawn to zero where there are few."""
    window = max(3, values.shape[-1] // _REACH) | 1
    weight = functional.avg_pool2d(known.float(), window, 1, window // 2)
    return functional.avg_pool2d(values, window, 1, window // 2) / (weight + 0.05)
