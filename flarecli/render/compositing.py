"""The compiled kernels as one differentiable torch function, its work shared among threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flarecli.render import kernels
from flarecli.render.projection import Footprints


def composite(
    footprints: Footprints, features: Float[Tensor, "N C"], size_hw: tuple[int, int]
) -> tuple[Float[Tensor, "H W C"], Float[Tensor, "H W"]]:
    """Weighted sums of features and accumulated opacity of every pixel, on the CPU.

    Differentiable in the features and in means2d, conics and opacities of the footprints. The result does not depend on
    the number of threads, which is torch's.
    """
    return _Composite.apply(  # type: ignore[return-value]
        footprints.means2d,
        footprints.conics,
        footprints.opacities,
        features,
        footprints.depths.detach().numpy(),
        footprints.radii.numpy(),
        size_hw,
    )


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means2d: Tensor, conics: Tensor, opacities: Tensor, features: Tensor, *rest: Any) -> Any:
        depths, radii, (height, width) = rest
        means, conic, opacity, values = (
            each.detach().contiguous().numpy() for each in (means2d, conics, opacities, features)
        )
        columns, rows = -(-width // kernels.TILE), -(-height // kernels.TILE)
        offsets, ids = _tile_lists(means, depths, radii, columns, rows)
        image = np.zeros((height, width, values.shape[1]), means.dtype)
        transmittance, last = np.ones((height, width), image.dtype), np.zeros((height, width), np.int32)

        def work(start: int, stop: int) -> None:
            kernels.composite(
                start, stop, offsets, ids, means, conic, opacity, values, columns, image, transmittance, last
            )

        _in_threads(work, rows, columns)
        ctx.lists = (offsets, ids, rows, columns)
        ctx.arrays = (means, conic, opacity, values, transmittance, last)
        return torch.from_numpy(image), torch.from_numpy(1 - transmittance)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        offsets, ids, rows, columns = ctx.lists
        means, conic, opacity, values, transmittance, last = ctx.arrays
        g_image, g_alpha = (each.contiguous().numpy() for each in gradients)
        per_entry = np.zeros((len(ids), 6 + g_image.shape[2]), g_image.dtype)

        def work(start: int, stop: int) -> None:
            ellipses = (means, conic, opacity, values)
            seen = (columns, transmittance, last, g_image, g_alpha, per_entry)
            kernels.composite_backward(start, stop, offsets, ids, *ellipses, *seen)

        _in_threads(work, rows, columns)
        out = np.zeros((len(means), per_entry.shape[1]), g_image.dtype)
        kernels.add_rows(ids, per_entry, out)
        g = torch.from_numpy(out)
        return g[:, :2], g[:, 2:5], g[:, 5], g[:, 6:], None, None, None


def _tile_lists(
    means2d: np.ndarray, depths: np.ndarray, radii: np.ndarray, columns: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    seen = np.flatnonzero(radii.min(1) > 0) if len(radii) else np.zeros(0, np.int64)
    order = seen[np.argsort(depths[seen], kind="stable")]
    limits = np.array([columns, rows])
    with np.errstate(invalid="ignore"):
        first = np.clip(np.floor((means2d - radii) / kernels.TILE), 0, limits).astype(np.int32)
        last = np.clip(np.ceil((means2d + radii) / kernels.TILE), 0, limits).astype(np.int32)
    return kernels.bin_tiles(order, first[:, 0], last[:, 0], first[:, 1], last[:, 1], columns, rows)


def _in_threads(work: Callable[[int, int], None], rows: int, columns: int) -> None:
    """Call work(first tile, one after the last) for every row of tiles."""
    threads = min(torch.get_num_threads(), rows)
    if threads <= 1:
        work(0, rows * columns)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, row * columns, (row + 1) * columns) for row in range(rows)]:
            done.result()
