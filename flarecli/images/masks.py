"""Masks beside the photos: which file belongs to which photo, and its pixels."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool
from PIL import Image

from flarecli.errors import InputError
from flarecli.images.decoding import UnreadablePhoto, decode, open_image, upright

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".PNG", ".JPG", ".JPEG")
_LOSSY = frozenset({"JPEG", "MPO", "WEBP"})
_ASPECT_TOLERANCE = 0.01


def find_mask(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The mask of a photo, or None.

    Args:
        folder: the masks folder.
        names: names that the photo goes by, best first; each is tried as ``name.jpg.png`` (COLMAP), as ``name.png`` and
            as the same name (nerfstudio).
    """
    for name in names:
        relative = PurePosixPath(name)
        stem = relative.with_suffix("")
        for candidate in (f"{name}.png", *(f"{stem}{suffix}" for suffix in _SUFFIXES), name):
            if (folder / candidate).is_file():
                return folder / candidate
    return None


def read_mask(path: Path, size_hw: tuple[int, int], orientation: int) -> Bool[np.ndarray, "H W"]:
    """A mask in the pixels of its upright photo; True = use.

    Black and transparent pixels are to be ignored. A mask of another size is scaled by nearest neighbour when its
    aspect agrees; one that has the photo's size before turning is turned as the photo was.

    Args:
        path: the mask's file.
        size_hw: size of the upright photo.
        orientation: EXIF orientation of the photo.

    Raises:
        InputError: the mask is damaged or does not fit the photo.
    """
    try:
        image = open_image(path)
        lossy = image.format in _LOSSY
        decoded = decode(image)
    except UnreadablePhoto as error:
        raise InputError(f"mask {path}: {error.reason}", error.hint or "repair or remove the mask") from error
    use = np.asarray(decoded.rgb).max(-1) > (127 if lossy else 0)
    if decoded.alpha is not None:
        use &= np.asarray(decoded.alpha) > 127
    mask = Image.fromarray(use.astype(np.uint8) * 255)
    height, width = size_hw
    if orientation >= 5 and not _fits(mask.size, (width, height)) and _fits(mask.size, (height, width)):
        mask = upright(mask, orientation)
    if not _fits(mask.size, (width, height)):
        raise InputError(
            f"mask {path} is {mask.width} x {mask.height}, its photo {width} x {height}",
            "masks need the shape of their photo",
        )
    return np.asarray(mask.resize((width, height), Image.Resampling.NEAREST)) > 0


def _fits(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Whether two (width, height) agree up to scale, to within one pixel or the tolerance."""
    ratio = (size[0] / size[1]) / (wanted[0] / wanted[1])
    pixel = 1 / min(*size, *wanted)
    return abs(ratio - 1) <= max(_ASPECT_TOLERANCE, pixel)
