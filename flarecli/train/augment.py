"""Photometric augmentation: what cameras, lenses and JPEG do to colours, mostly alike within a scene."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from flarecli.train.primitives import Draw

_BLOCK = 8


def augment(rgb: Tensor, draw: Draw, strength: float = 1.0) -> Tensor:
    """Turn rendered radiance into photographs.

    Exposure, white balance, tone curve, gamma, saturation, vignette, blur, noise and JPEG-like quantisation.

    Args:
        rgb: (B, V, 3, H, W) radiance, 0 to 1.6.
        draw: random source on the same device.
        strength: scale of all random amounts; 0 leaves only the exposure normalisation and the tone curve.

    Returns:
        (B, V, 3, H, W) in [0, 1].
    """
    batch, views = rgb.shape[:2]
    exposure = (strength * (0.18 * draw.normal(batch, 1, 1, 1, 1) + 0.09 * draw.normal(batch, views, 1, 1, 1))).exp()
    balance = (strength * (0.08 * draw.normal(batch, 1, 3, 1, 1) + 0.03 * draw.normal(batch, views, 3, 1, 1))).exp()
    mean = rgb.mean((1, 2, 3, 4), keepdim=True).clamp_min(0.05)
    x = (rgb * (0.42 / mean) ** 0.6 * exposure * balance).clamp_min(0)
    x = x / (1 + 0.6 * (x - 0.8).clamp_min(0))
    x = x.clamp(1e-4, 1) ** (0.18 * strength * draw.normal(batch, 1, 1, 1, 1)).exp()
    grey = x.mean(2, keepdim=True)
    x = grey + (x - grey) * (1 + strength * draw.uniform(batch, 1, 1, 1, 1, low=-0.6, high=0.15))
    colourless = draw.chance(0.04 * strength, batch, 1, 1, 1, 1)
    x = torch.where(colourless, x.mean(2, keepdim=True).expand_as(x), x)
    x = _blur(_vignette(x, 0.14 * strength * draw.uniform(batch, 1, 1, 1, 1)), draw, strength)
    noise = 0.03 * strength * draw.uniform(batch, 1, 1, 1, 1) ** 2
    x = x + draw.normal(*x.shape) * noise * (0.5 + x.clamp(0, 1))
    return _quantise(x, 0.1 * strength * draw.uniform(batch, 1) ** 2).clamp(0, 1)


def _vignette(x: Tensor, amount: Tensor) -> Tensor:
    rows = torch.linspace(-1, 1, x.shape[-2], device=x.device)[:, None]
    columns = torch.linspace(-1, 1, x.shape[-1], device=x.device)[None]
    return x * (1 - amount * (rows**2 + columns**2))


def _blur(x: Tensor, draw: Draw, strength: float) -> Tensor:
    soft = functional.avg_pool2d(functional.pad(x.flatten(0, 1), (1, 1, 1, 1), mode="replicate"), 3, 1).view_as(x)
    weight = (1.2 * strength * draw.uniform(*x.shape[:2], 1, 1, 1, low=-0.45, high=0.55)).clamp(0, 0.9)
    return x + (soft - x) * weight


def dct_matrix(device: torch.device) -> Tensor:
    """The orthonormal 8-point cosine transform (type II)."""
    n = torch.arange(float(_BLOCK), device=device)
    matrix = torch.cos(math.pi * (2 * n[None] + 1) * n[:, None] / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
    matrix[0] /= math.sqrt(2)
    return matrix


def _quantise(x: Tensor, step: Tensor) -> Tensor:
    """Round 8x8 cosine coefficients, higher frequencies more coarsely; sides must be multiples of 8 to be changed."""
    height, width = x.shape[-2:]
    if height % _BLOCK or width % _BLOCK:
        return x
    dct = dct_matrix(x.device)
    blocks = x.unflatten(-1, (-1, _BLOCK)).unflatten(-3, (-1, _BLOCK)).transpose(-2, -3)
    spectrum = dct @ blocks @ dct.T
    order = torch.arange(_BLOCK, device=x.device)
    steps = step.clamp_min(0.004)[..., None, None, None, None, None] * 0.25 * (2 + order[:, None] + order[None])
    restored = dct.T @ ((spectrum / steps).round() * steps) @ dct
    return restored.transpose(-2, -3).flatten(-4, -3).flatten(-2, -1)
