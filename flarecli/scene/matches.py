"""Matches between photos that come from a network's dense descriptors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from flarecli.scene.arrays import frozen


@dataclass(frozen=True, slots=True, eq=False)
class DenseMatches:
    """N cells of one photo and where they are in another.

    Attributes:
        first: index of the photo whose cells were looked for.
        second: index of the photo where they were found.
        cell: number of the cell in the first photo; the same cell has the same number in matches with other photos.
        xy_first: centre of the cell, in pixels of the upright photo, pixel centres at 0.5.
        xy_second: where it was found, to fractions of a cell.
        cell_size: side of a cell divided by the long side of the photo.
    """

    first: int
    second: int
    cell: Int[np.ndarray, "N"]
    xy_first: Float[np.ndarray, "N 2"]
    xy_second: Float[np.ndarray, "N 2"]
    cell_size: float

    def __post_init__(self) -> None:
        count = len(self.cell)
        object.__setattr__(self, "cell", frozen(self.cell, np.int64, (count,), "cell"))
        object.__setattr__(self, "xy_first", frozen(self.xy_first, np.float64, (count, 2), "xy_first"))
        object.__setattr__(self, "xy_second", frozen(self.xy_second, np.float64, (count, 2), "xy_second"))

    def __len__(self) -> int:
        return len(self.cell)
