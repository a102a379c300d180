"""Depth of one photo from the photos beside it: plane sweep, semi-global smoothing, sub-plane winner.

grey pictures, cameras ─ warp onto planes ─ correlation ─ best sources ─┬─ smooth along 4 paths ─ winner ─ depth
                                       depth known before, as a hint ───┘

Sources: R. Collins, "A space-sweep approach to true multi-image matching", CVPR 1996; H. Hirschmueller, "Stereo
processing by semiglobal matching and mutual information", PAMI 2008, equations 12 to 14.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flarecli.geometry.projection import pixel_grid
from flarecli.geometry.transforms import invert_rigid

_WINDOW = 5
_NOISE_VARIANCE = 4.0  # of 8-bit grey values: areas without texture correlate with nothing
_PLANES_AT_ONCE = 16
_MIN_PLANES, _MAX_PLANES = 32, 128
_SMALL_STEP, _LARGE_STEP = 0.06, 0.5  # cost of one plane, and of any jump, between neighbours
_EDGE = 12.0  # grey values between neighbours at which a jump costs half
_HINT = 0.08  # cost of contradicting the hint: less than one pixel's worth of texture


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A small grey picture with its camera.

    Attributes:
        grey: undistorted, 0 to 255.
        K: intrinsics in its pixels.
        c2w: pose.
    """

    grey: Float[np.ndarray, "H W"]
    K: Float[np.ndarray, "3 3"]
    c2w: Float[np.ndarray, "4 4"]


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """Result of one plane sweep.

    Attributes:
        depth: z-depth of every pixel.
        score: correlation with the sources at that depth, 0 (nothing agrees) to 1.
    """

    depth: Float[np.ndarray, "H W"]
    score: Float[np.ndarray, "H W"]


def sweep(
    reference: Picture,
    sources: Sequence[Picture],
    depth_range: tuple[float, float],
    hint: Float[np.ndarray, "H W"] | None = None,
) -> Sweep:
    """Depth of every pixel of a picture.

    Args:
        reference: what gets depth.
        sources: pictures that overlap with it, one or more.
        depth_range: nearest and farthest z-depth to look at.
        hint: depth that decides where the pictures do not; 0 = unknown.
    """
    inverse = _inverse_depths(reference, sources, depth_range)
    score = _best_scores(reference, sources, inverse)
    cost = 1 - score
    if hint is not None:
        cost = cost + _hint_cost(hint, inverse)
    total = _semi_global(cost, reference.grey)
    best = np.argmin(total, -1)
    rows, columns = np.indices(best.shape)
    plane = best + _sub_plane(total, best)
    return Sweep(1 / np.interp(plane, np.arange(len(inverse)), inverse), score[rows, columns, best])


def _inverse_depths(reference: Picture, sources: Sequence[Picture], depth_range: tuple[float, float]) -> np.ndarray:
    """Planes evenly spaced in inverse depth, about a pixel of the widest source apart."""
    far, near = 1 / depth_range[1], 1 / depth_range[0]
    height, width = reference.grey.shape
    grid = pixel_grid(height, width)[:: max(1, height // 8), :: max(1, width // 8)].reshape(-1, 2)
    steps = [float(_MIN_PLANES)]
    for source in sources:
        base, shift = _transfer(reference, source, grid)
        first, last = base + far * shift, base + near * shift
        seen = (first[:, 2] > 0) & (last[:, 2] > 0)
        if seen.any():
            moved = first[seen, :2] / first[seen, 2:] - last[seen, :2] / last[seen, 2:]
            steps.append(float(np.median(np.linalg.norm(moved, axis=1))))
    return np.linspace(far, near, int(np.clip(np.ceil(max(steps)), _MIN_PLANES, _MAX_PLANES)))


def _transfer(reference: Picture, source: Picture, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Homogeneous source pixels of reference pixels (N 2) at inverse depth r: first result plus r times the second."""
    source_from_reference = invert_rigid(source.c2w) @ reference.c2w
    rotate = source.K @ source_from_reference[:3, :3] @ np.linalg.inv(reference.K)
    homogeneous = np.concatenate([pixels, np.ones((len(pixels), 1))], 1)
    return homogeneous @ rotate.T, source.K @ source_from_reference[:3, 3]


def _best_scores(reference: Picture, sources: Sequence[Picture], inverse: np.ndarray) -> Float[np.ndarray, "H W P"]:
    """Correlation per pixel and plane, the mean over the better half of the sources: the others may be occluded."""
    height, width = reference.grey.shape
    out = np.empty((height, width, len(inverse)), np.float32)
    grid = pixel_grid(height, width).reshape(-1, 2)
    lines = [_transfer(reference, source, grid) for source in sources]
    windows = _Windows.of(_tensor(reference.grey)[None])
    for start in range(0, len(inverse), _PLANES_AT_ONCE):
        planes = _tensor(inverse[start : start + _PLANES_AT_ONCE])
        best: list[Tensor] = []
        for source, line in zip(sources, lines, strict=True):
            score = _correlate(windows, *_warp(_tensor(source.grey), line, planes, (height, width)))
            for rank, better in enumerate(best):
                best[rank], score = torch.maximum(better, score), torch.minimum(better, score)
            if len(best) < (len(sources) + 1) // 2:
                best.append(score)
        mean = torch.stack(best).mean(0)
        out[..., start : start + len(planes)] = mean.permute(1, 2, 0).numpy()
    return out


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _warp(
    grey: Tensor, line: tuple[np.ndarray, np.ndarray], planes: Tensor, size_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """A source picture as the reference would see it if all of it lay on each plane, and where it does not reach."""
    base, shift = line
    x, y, z = (_tensor(base[:, axis]) + planes[:, None] * float(shift[axis]) for axis in range(3))
    behind = z <= 0
    z = z.masked_fill_(behind, 1.0).reciprocal_()
    # grid_sample's own units: -1 and 1 are the outer borders of the picture
    x = x.mul_(z).mul_(2 / grey.shape[1]).sub_(1)
    y = y.mul_(z).mul_(2 / grey.shape[0]).sub_(1)
    outside = behind.logical_or_(torch.maximum(x.abs(), y.abs()) > 1)
    lookup = torch.stack([x, y], -1).reshape(len(planes), *size_hw, 2)
    picture = grey.expand(len(planes), 1, -1, -1)
    warped = torch.nn.functional.grid_sample(picture, lookup, padding_mode="border", align_corners=False)[:, 0]
    return warped, outside.reshape(warped.shape)


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """A picture (P, H, W) with mean and variance of the window around each pixel."""

    grey: Tensor
    mean: Tensor
    variance: Tensor

    @staticmethod
    def of(grey: Tensor) -> _Windows:
        mean = _window_mean(grey)
        return _Windows(grey, mean, (_window_mean(grey * grey) - mean * mean).clamp_(min=0))


def _window_mean(values: Tensor) -> Tensor:
    # Sums of shifted copies take a quarter of the time of a pooling layer.
    half, (height, width) = _WINDOW // 2, values.shape[1:]
    padded = torch.nn.functional.pad(values, (half,) * 4, mode="replicate")
    rows = padded[:, :height].clone()
    for shift in range(1, _WINDOW):
        rows += padded[:, shift : shift + height]
    total = rows[..., :width].clone()
    for shift in range(1, _WINDOW):
        total += rows[..., shift : shift + width]
    return total.mul_(1 / _WINDOW**2)


def _correlate(reference: _Windows, warped: Tensor, outside: Tensor) -> Tensor:
    """Normalised cross-correlation of windows, 0 where it is negative or the source does not reach."""
    other = _Windows.of(torch.where(outside, reference.mean, warped))
    covariance = _window_mean(other.grey * reference.grey) - other.mean * reference.mean
    variance = (reference.variance + _NOISE_VARIANCE) * (other.variance + _NOISE_VARIANCE)
    return (covariance * variance.rsqrt_()).clamp_(0, 1).masked_fill_(outside, 0)


def _hint_cost(hint: np.ndarray, inverse: np.ndarray) -> Float[np.ndarray, "H W P"]:
    """Cost that grows with the distance from the hint's plane up to a tenth of the range; 0 without hint."""
    reach = 0.1 * (inverse[-1] - inverse[0])
    place = (np.where(hint > 0, 1 / np.where(hint > 0, hint, 1), np.nan) / reach).astype(np.float32)
    off = np.abs((inverse / reach).astype(np.float32) - place[..., None])
    return np.nan_to_num(_HINT * np.minimum(off, 1), copy=False)


def _semi_global(cost: Float[np.ndarray, "H W P"], grey: np.ndarray) -> Float[np.ndarray, "H W P"]:
    """Sum of the path costs from above, below, left and right."""
    total = np.zeros_like(cost)
    for axis in (0, 1):
        step = np.abs(np.diff(grey, axis=axis))
        jump = np.moveaxis(_LARGE_STEP / (1 + step / _EDGE), axis, 0).astype(np.float32)
        along, into = np.moveaxis(cost, axis, 0), np.moveaxis(total, axis, 0)
        _add_path(along, jump, into)
        _add_path(along[::-1], jump[::-1], into[::-1])
    return total


def _add_path(cost: np.ndarray, jump: np.ndarray, into: np.ndarray) -> None:
    """Add the costs of the cheapest paths that come from the first row (PAMI 2008, equation 13)."""
    before = cost[0].copy()
    into[0] += before
    for row in range(1, len(cost)):
        least = before.min(-1, keepdims=True)
        path = np.minimum(before, least + np.maximum(jump[row - 1], _SMALL_STEP)[:, None])
        path[:, 1:] = np.minimum(path[:, 1:], before[:, :-1] + _SMALL_STEP)
        path[:, :-1] = np.minimum(path[:, :-1], before[:, 1:] + _SMALL_STEP)
        before = cost[row] + path - least
        into[row] += before


def _sub_plane(total: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Offset of the minimum of the parabola through the winner and its neighbours, within half a plane."""
    planes = total.shape[-1]
    inner = np.clip(best, 1, planes - 2)[..., None]
    low, mid, high = (np.take_along_axis(total, inner + offset, -1)[..., 0] for offset in (-1, 0, 1))
    bend = low - 2 * mid + high
    offset = np.where(bend > 1e-9, 0.5 * (low - high) / np.maximum(bend, 1e-9), 0.0)
    return np.where((best > 0) & (best < planes - 1), np.clip(offset, -0.5, 0.5), 0.0)
