"""Photos to the tensors that a network takes, with the exact pixel map of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from flarecli.images.loading import Photo
from flarecli.runtime import cpu_count
from flarecli.scene.views import Views

_PAD_GREY = 128  # zero after the usual normalisation to [-1, 1]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Views and how their pixels relate to the photos'.

    Attributes:
        views: what a network gets; portrait photos are stored transposed.
        prepared_from_photo: maps pixels of the upright photo to pixels of the upright prepared image, that is before a
            portrait view is transposed into landscape storage; pixel centres at 0.5.
        masks: True = use, in the storage layout of ``views.rgb``; None where every pixel of every view is to be used.
    """

    views: Views
    prepared_from_photo: Float[np.ndarray, "V 3 3"]
    masks: Bool[Tensor, "V H W"] | None = None


def choose_canvas(sizes_hw: Sequence[tuple[int, int]], long_side: int, multiple: int) -> tuple[int, int]:
    """The landscape canvas that loses least of a set of photos when each is scaled and cropped to it.

    Args:
        sizes_hw: sizes of the upright photos; portrait ones count as turned.
        long_side: width of the canvas in pixels.
        multiple: both sides become multiples of it (the network's patch grid).

    Returns:
        (height, width) with height <= width.

    Raises:
        ValueError: no sizes, or a long side that is not a positive multiple.
    """
    if not sizes_hw:
        raise ValueError("a canvas needs at least one photo")
    if long_side <= 0 or long_side % multiple:
        raise ValueError(f"the long side must be a positive multiple of {multiple}, not {long_side}")
    aspects = np.array([min(size) / max(size) for size in sizes_hw])
    heights = np.arange(multiple, long_side + 1, multiple)
    canvas = heights / long_side
    kept = np.minimum(aspects[:, None] / canvas, canvas / aspects[:, None]).mean(0)
    off_median = np.abs(np.log(canvas / np.median(aspects)))
    best = np.lexsort((off_median, -np.round(kept, 9)))[0]
    return int(heights[best]), long_side


def prepare(
    photos: Sequence[Photo],
    canvas_hw: tuple[int, int],
    *,
    fit: Literal["crop", "pad"] = "crop",
    c2w: Float[np.ndarray, "V 4 4"] | None = None,
) -> Prepared:
    """Scale photos to a canvas and crop or pad them about their centre.

    Args:
        photos: at least one.
        canvas_hw: landscape size (H <= W) of the stored views; a portrait photo fills it turned.
        fit: ``crop`` fills the canvas and cuts what hangs over; ``pad`` shows the whole photo on grey, masked out.
        c2w: known poses, carried into the views.

    Raises:
        InputError: a photo changed or vanished since it was loaded.

    Source: FLARE's pre-processing (scale to the larger ratio, floor, centred crop), with pixel centres at 0.5.
    """
    with ThreadPoolExecutor(min(cpu_count(), 8)) as pool:
        one_by_one = list(pool.map(lambda photo: _prepare_one(photo, canvas_hw, fit), photos))
    rgb = torch.from_numpy(np.stack([item[0] for item in one_by_one]))
    masks = [item[1] for item in one_by_one]
    whole = np.ones(canvas_hw, bool)
    stacked = np.stack([whole if mask is None else mask for mask in masks])
    views = Views(
        rgb=rgb.permute(0, 3, 1, 2).float().div_(255).contiguous(),
        portrait=torch.tensor([_is_portrait(photo) for photo in photos]),
        c2w=None if c2w is None else torch.from_numpy(np.array(c2w, np.float32)),
    )
    return Prepared(
        views, np.stack([item[2] for item in one_by_one]), None if stacked.all() else torch.from_numpy(stacked)
    )


def _is_portrait(photo: Photo) -> bool:
    return photo.size_hw[0] > photo.size_hw[1]


def _prepare_one(
    photo: Photo, canvas_hw: tuple[int, int], fit: Literal["crop", "pad"]
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Stored RGB (H, W, 3) uint8, stored mask or None, and the 3x3 pixel map of one photo."""
    (height, width), portrait = photo.size_hw, _is_portrait(photo)
    out_h, out_w = canvas_hw[::-1] if portrait else canvas_hw
    scaled_h, scaled_w = _scaled_size(photo.size_hw, (out_h, out_w), fit)
    left, top = round((scaled_w - out_w) / 2), round((scaled_h - out_h) / 2)
    window = (left, top, left + out_w, top + out_h)
    decoded = photo.decode((scaled_h, scaled_w))
    rgb = Image.new("RGB", (out_w, out_h), (_PAD_GREY,) * 3)
    rgb.paste(decoded.rgb, (-left, -top))
    use = photo.mask()
    mask = None
    if use is not None or scaled_w < out_w or scaled_h < out_h:
        shown = Image.new("L", (scaled_w, scaled_h), 255) if use is None else _scaled_mask(use, (scaled_w, scaled_h))
        mask = np.asarray(shown.crop(window)) > 0
    pixels = np.asarray(rgb)
    if portrait:
        pixels, mask = pixels.swapaxes(0, 1), None if mask is None else mask.T
    prepared_from_photo = np.array([[scaled_w / width, 0.0, -left], [0.0, scaled_h / height, -top], [0.0, 0.0, 1.0]])
    return pixels, mask, prepared_from_photo


def _scaled_size(size_hw: tuple[int, int], out_hw: tuple[int, int], fit: Literal["crop", "pad"]) -> tuple[int, int]:
    """(height, width) of the scaled photo that covers the canvas (crop) or lies within it (pad)."""
    ratios = out_hw[0] / size_hw[0], out_hw[1] / size_hw[1]
    # The small surplus keeps floor() from losing a pixel where the product is an integer.
    scale = (max(ratios) if fit == "crop" else min(ratios)) + 1e-8
    return max(1, math.floor(size_hw[0] * scale)), max(1, math.floor(size_hw[1] * scale))


def _scaled_mask(use: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(use.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
