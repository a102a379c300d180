"""Point correspondences from the dense descriptors of a prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flarecli.scene.views import Prediction


@dataclass(frozen=True, slots=True, eq=False)
class Correspondences:
    """N pairs of pixels that look alike, in upright pixels of the prepared images, pixel centres at half integers.

    Attributes:
        first: (x, y) in the first view.
        second: (x, y) in the second view.
        similarity: cosine of the descriptors.
        cell: number of the descriptor in the first view, row-major in storage.
    """

    first: Float[Tensor, "N 2"]
    second: Float[Tensor, "N 2"]
    similarity: Float[Tensor, "N"]
    cell: Int[Tensor, "N"]


def match_views(
    prediction: Prediction, portrait: Bool[Tensor, "V"], first: int, second: int, step: int = 1
) -> Correspondences:
    """Mutual nearest neighbours between the descriptors of two views.

    Positions in the first view are centres of cells, those in the second are sharpened to fractions of a cell.

    Args:
        prediction: with descriptors.
        portrait: which views are stored transposed.
        first: index of a view.
        second: index of another view.
        step: look only for cells this many rows and columns apart; time falls with its square.

    Raises:
        ValueError: the network has no descriptors.
    """
    if prediction.descriptors is None:
        raise ValueError("this network returns no descriptors")
    height, width = prediction.descriptors.shape[-2:]
    a, b = (prediction.descriptors[view].flatten(1).T for view in (first, second))
    rows, columns = (torch.arange(step // 2, size, step, device=a.device) for size in (height, width))
    sought = (rows[:, None] * width + columns[None]).flatten()
    similar = a[sought] @ b.T
    there = similar.argmax(1)
    mutual = ((b[there] @ a.T).argmax(1) == sought).nonzero()[:, 0]
    cell, targets = sought[mutual], there[mutual]
    here = torch.stack([cell % width, cell // width], -1).float()
    found = _sharpen(similar[mutual].view(-1, height, width), targets)
    stride = prediction.points_local.shape[2] / width
    return Correspondences(
        _pixels(here, stride, bool(portrait[first])),
        _pixels(found, stride, bool(portrait[second])),
        similar[mutual, targets],
        cell,
    )


def _pixels(cells: Tensor, stride: float, portrait: bool) -> Tensor:
    """Storage cells to upright pixels."""
    stored = (cells + 0.5) * stride
    return stored.flip(-1) if portrait else stored


def _sharpen(similar: Float[Tensor, "N h w"], best: Tensor) -> Float[Tensor, "N 2"]:
    """Move each maximum to the vertex of the parabolas through it and its neighbours, at most half a cell."""
    height, width = similar.shape[1:]
    column, row = best % width, best // width
    rows = torch.arange(len(best), device=best.device)

    def vertex(low: Tensor, middle: Tensor, high: Tensor) -> Tensor:
        bend = (2 * middle - low - high).clamp_min(1e-6)
        return ((high - low) / (2 * bend)).clamp(-0.5, 0.5)

    middle = similar[rows, row, column]
    left, right = (similar[rows, row, (column + d).clamp(0, width - 1)] for d in (-1, 1))
    above, below = (similar[rows, (row + d).clamp(0, height - 1), column] for d in (-1, 1))
    inside_x, inside_y = (column > 0) & (column < width - 1), (row > 0) & (row < height - 1)
    dx = torch.where(inside_x, vertex(left, middle, right), 0.0)
    dy = torch.where(inside_y, vertex(above, middle, below), 0.0)
    return torch.stack([column + dx, row + dy], -1)
