"""Decode a photo file to upright 8-bit RGB and alpha, whatever its format.

Every decode goes through :func:`decode`, so EXIF orientation is applied in one place and once.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from flarecli.errors import MissingDependency
from flarecli.images.exif import orientation_of
from flarecli.images.grey import eight_bit
from flarecli.runtime import require

MAX_PIXELS = 500_000_000
_MAX_PIXELS_PER_BYTE = 1000  # a photo takes a byte for 100 pixels at the least
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# Pillow refuses images above twice its limit (179 MP); stitched and medium-format photos are larger. _checked refuses
# what exceeds MAX_PIXELS.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)


class UnreadablePhoto(ValueError):
    """A file can't be decoded.

    Args:
        reason: one clause that says why, without the file's name.
        hint: what to do about it; may be empty.
        missing: the optional package whose absence is the cause, or None.
    """

    def __init__(self, reason: str, hint: str = "", missing: MissingDependency | None = None) -> None:
        super().__init__(reason)
        self.reason, self.hint, self.missing = reason, hint, missing


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """An upright image.

    Attributes:
        rgb: mode RGB.
        alpha: mode L of the same size, or None where every pixel is opaque.
    """

    rgb: Image.Image
    alpha: Image.Image | None


def open_image(source: Path | bytes) -> Image.Image:
    """Open a file or its content; pixels are not decoded yet (HEIC excepted).

    Raises:
        UnreadablePhoto: not an image, damaged, too large, or of a format whose package is absent.
        MemoryError: there is too little memory for it.
    """
    try:
        head = source[:64] if isinstance(source, bytes) else _head(source)
        if not head:
            raise UnreadablePhoto("the file is empty")
        if _is_heif(head):
            return _open_heif(source)
        return _checked(Image.open(io.BytesIO(source) if isinstance(source, bytes) else source))
    except UnreadablePhoto:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadablePhoto("not a picture in a known format, or its header is damaged") from error
    except Image.DecompressionBombError as error:
        raise UnreadablePhoto(*_too_large()) from error
    except _DECODER_ERRORS as error:
        if _ran_out_of_memory(error):
            raise MemoryError from error
        raise UnreadablePhoto(f"can't be opened: {_clause(error)}") from error


def decode(image: Image.Image, size_hw: tuple[int, int] | None = None) -> Decoded:
    """Decode an opened image, scaled to a size where one is given, upright.

    A scaled pixel (x, y) shows the point (x * width / scaled width, y * height / scaled height) of the upright photo,
    exactly, also where a JPEG is decoded at a fraction of its size first.

    Args:
        image: result of :func:`open_image`; use it once.
        size_hw: upright size to scale to (Lanczos down, bicubic up); None keeps the photo's own.

    Raises:
        UnreadablePhoto: the pixel data is damaged.
        MemoryError: there is too little memory for the picture.
    """
    try:
        box = None
        if size_hw is not None and image.format in {"JPEG", "MPO"}:
            width, height = raw_size(size_hw, orientation_of(image))
            drafted = image.draft("RGB", (2 * width, 2 * height))
            box = drafted[1] if drafted else None
        image.load()
        # Read after loading: some decoders (TIFF) have turned the image by then and removed the tag.
        orientation = orientation_of(image)
        rgb, alpha = _rgb_and_alpha(image)
        if size_hw is not None:
            target = raw_size(size_hw, orientation)
            rgb, alpha = _scaled(rgb, target, box), alpha and _scaled(alpha, target, box)
        return Decoded(upright(rgb, orientation), alpha and upright(alpha, orientation))
    except UnreadablePhoto:
        raise
    except (MemoryError, *_DECODER_ERRORS) as error:
        if _ran_out_of_memory(error) and not _is_hollow(image):
            raise MemoryError from error
        raise UnreadablePhoto(f"damaged picture: {_clause(error)}") from error


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn or mirror an image as an EXIF orientation tag asks."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def has_alpha(image: Image.Image) -> bool:
    """Whether the format carries transparency; the pixels may still all be opaque."""
    return image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info


def raw_size(size_hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) before the orientation is applied."""
    height, width = size_hw
    return (height, width) if orientation >= 5 else (width, height)


def _scaled(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None) -> Image.Image:
    box = box or (0, 0, *image.size)
    if size == image.size and box == (0, 0, *image.size):
        return image
    down = size[0] < box[2] or size[1] < box[3]
    resample = Image.Resampling.LANCZOS if down else Image.Resampling.BICUBIC
    return image.resize(size, resample, box=box, reducing_gap=3.0)


def _rgb_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """8-bit RGB and, where something is transparent, alpha of a loaded image; not upright yet."""
    alpha = None
    if image.mode == "F" or image.mode.startswith("I"):
        # Pillow clips wide values when it converts them, and with them the grey that a PNG declares transparent.
        values = np.asarray(image)
        clear = values == image.info.get("transparency")
        alpha = Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)) if np.any(clear) else None
        try:
            image = Image.fromarray(eight_bit(values))
        except ValueError as error:
            raise UnreadablePhoto(str(error), "save it as 16-bit") from error
    elif has_alpha(image):
        image = image.convert("LA" if image.mode in {"LA", "La"} else "RGBA")
        channel = image.getchannel("A")
        alpha = channel if cast(tuple[int, int], channel.getextrema())[0] < 255 else None
    return image.convert("RGB"), alpha


def _checked(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise UnreadablePhoto(*_too_large())
    return image


def _too_large() -> tuple[str, str]:
    return f"larger than {MAX_PIXELS // 1_000_000} megapixels", "scale the photo down"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head[8:]


def _open_heif(source: Path | bytes) -> Image.Image:
    """Decode HEIC upright; libheif applies its rotation itself and the tag is cleared."""
    try:
        pillow_heif = require("pillow_heif", "HEIC photos")
    except MissingDependency as error:
        raise UnreadablePhoto(f"{error.message}", error.hint, error) from error
    file = pillow_heif.open_heif(source if isinstance(source, bytes) else str(source))
    width, height = file.size
    if width * height > MAX_PIXELS:
        raise UnreadablePhoto(*_too_large())
    return file.to_pillow()


def _ran_out_of_memory(error: Exception) -> bool:
    # Pillow's own decoders report it as an OSError, libheif as a RuntimeError.
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def _is_hollow(image: Image.Image) -> bool:
    """Whether the file holds far too few bytes for the size in its header, which then is damaged."""
    file = getattr(image, "fp", None)
    if file is None or file.closed:  # all of it has been decoded
        return False
    return image.width * image.height > _MAX_PIXELS_PER_BYTE * file.seek(0, io.SEEK_END)


def _clause(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:160] or type(error).__name__
