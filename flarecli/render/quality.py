"""Likeness of pictures: PSNR, and structural similarity as a figure and as a loss (torch, differentiable)."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_MIN_MSE = 1e-10
_LEAST_VARIANCE, _SAME_STRUCTURE = 1.4e-14, 0.98


@functools.cache
def _window() -> Tensor:
    at = torch.arange(_WINDOW, dtype=torch.float32) - _WINDOW // 2
    weights = torch.exp(-(at**2) / (2 * _SIGMA**2))
    return weights / weights.sum()


def _blur(maps: Float[Tensor, "C H W"]) -> Float[Tensor, "C H2 W2"]:
    window = _window().to(maps)
    rows = torch.nn.functional.conv2d(maps[:, None], window[None, None, :, None])
    return torch.nn.functional.conv2d(rows, window[None, None, None])[:, 0]


def ssim_map(a: Float[Tensor, "H W 3"], b: Float[Tensor, "H W 3"]) -> Float[Tensor, "H2 W2"]:
    """Structural similarity of pictures in [0, 1] around every pixel at least 5 from the border, mean of the channels.

    Raises:
        ValueError: a side is shorter than the window of 11 pixels.

    Source: Wang et al. 2004, Image Quality Assessment, eq. 13, Gaussian window 11 x 11, sigma 1.5.
    """
    mean_x, mean_y, variance_x, variance_y, covariance = _moments(a, b)
    likeness = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return (likeness * (2 * covariance + _C2) / (variance_x + variance_y + _C2)).mean(0)


def _moments(a: Float[Tensor, "H W 3"], b: Float[Tensor, "H W 3"]) -> tuple[Float[Tensor, "3 H2 W2"], ...]:
    """Means, variances and covariance of both pictures in the window around every pixel that has a whole one."""
    if min(a.shape[:2]) < _WINDOW:
        raise ValueError(f"pictures must have at least {_WINDOW} pixels a side, not {tuple(a.shape[:2])}")
    x, y = a.permute(2, 0, 1), b.permute(2, 0, 1)
    mean_x, mean_y, xx, yy, xy = _blur(torch.cat([x, y, x * x, y * y, x * y])).split(3)
    return mean_x, mean_y, xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y


def ssim(a: Float[Tensor, "H W 3"], b: Float[Tensor, "H W 3"], weight: Float[Tensor, "H W"] | None = None) -> Tensor:
    """Mean structural similarity over the pixels that count, 1 for equal pictures; see :func:`ssim_map`."""
    return _mean(ssim_map(a, b), weight)


def structure(
    a: Float[Tensor, "H W 3"], b: Float[Tensor, "H W 3"], weight: Float[Tensor, "H W"] | None = None
) -> Tensor:
    """Mean structure term of SSIM over the pixels that count: correlation around every pixel, whatever the exposures.

    It is cut at 0.98, above which only noise differs.

    Raises:
        ValueError: as :func:`ssim_map`.

    Source: Wang et al. 2004, Image Quality Assessment, eq. 10; the cut is that of NoPoSplat's pose evaluation.
    """
    _, _, variance_x, variance_y, covariance = _moments(a, b)
    spread = (variance_x.clamp_min(_LEAST_VARIANCE) * variance_y.clamp_min(_LEAST_VARIANCE)).sqrt()
    covariance = covariance.clamp(-spread, spread)
    return _mean(((covariance + _C2 / 2) / (spread + _C2 / 2)).clamp(max=_SAME_STRUCTURE).mean(0), weight)


def _mean(similarity: Float[Tensor, "H2 W2"], weight: Float[Tensor, "H W"] | None) -> Tensor:
    if weight is None:
        return similarity.mean()
    inner = weight[_WINDOW // 2 : -(_WINDOW // 2), _WINDOW // 2 : -(_WINDOW // 2)]
    return (similarity * inner).sum() / inner.sum().clamp_min(1)


def psnr(
    picture: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"], weight: Float[Tensor, "H W"] | None = None
) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1], over pixels that count; 100 where they are equal."""
    squared = (picture.clamp(0, 1) - truth).square().mean(-1)
    mean = squared.mean() if weight is None else (squared * weight).sum() / weight.sum().clamp_min(1)
    return float(-10 * torch.log10(mean.clamp_min(_MIN_MSE)))
