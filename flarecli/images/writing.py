"""Upright, distortion-free copies of photos and masks that match an exported pinhole camera."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from flarecli.errors import InputError, OutputError
from flarecli.geometry.projection import NEGLIGIBLE_PX, photo_pixels, pixel_grid
from flarecli.images.decoding import UnreadablePhoto, decode, open_image
from flarecli.images.exif import exif_for_copy, xmp_for_copy
from flarecli.images.loading import Photo
from flarecli.runtime import cpu_count

_BLOCK_PIXELS = 500_000


def write_upright(
    photo: Photo, destination_dir: Path, *, K: np.ndarray | None = None, k1: float = 0.0, jpeg_quality: int = 95
) -> Path:
    """Write the copy of a photo that belongs to an exported pinhole camera.

    An upright 8-bit JPEG or PNG without noticeable distortion is copied byte by byte. Any other photo is
    written anew by the suffix of its name: turned upright with the orientation tag removed, undistorted at the same
    size and K (bilinear, as COLMAP's image undistorter; its border repeated).

    Args:
        photo: the photo.
        destination_dir: folder of the copies; sub-folders of the name are made.
        K: 3x3 intrinsics in pixels of the upright photo; needed when k1 is not 0.
        k1: radial distortion (SIMPLE_RADIAL).
        jpeg_quality: of a JPEG that is written anew, without chroma subsampling.

    Returns:
        Path of the copy.

    Raises:
        InputError: the photo changed or vanished since it was loaded.
        OutputError: the copy can't be written, or would replace the original.
        ValueError: k1 without K.
    """
    target = destination_dir / photo.name
    bends = _bends(photo.size_hw, K, k1)
    if photo.is_plain and not bends:
        try:
            # No hard link: a program that edits the copy in place would change the original.
            content = photo.path.read_bytes()
        except OSError as error:
            raise InputError(f"{photo.path} can't be read: {error.strerror}", "put it back, and start again") from error
        _write(target, photo.path, content)
        return target
    try:
        original = open_image(photo.path)
        decoded = decode(original)
    except UnreadablePhoto as error:
        raise InputError(f"{photo.path}: {error.reason}", error.hint) from error
    picture = decoded.rgb
    is_png = target.suffix.lower() == ".png"
    if is_png and decoded.alpha is not None:
        picture.putalpha(decoded.alpha)
    if bends:
        assert K is not None
        picture = Image.fromarray(_undistort(np.asarray(picture), K, k1))
    encoded = _encode(picture, is_png, jpeg_quality, _metadata(original, photo.size_hw, is_png))
    _write(target, photo.path, encoded)
    return target


def write_mask(photo: Photo, destination_dir: Path, *, K: np.ndarray | None = None, k1: float = 0.0) -> Path | None:
    """Write the mask that belongs to :func:`write_upright`'s copy, by COLMAP's naming (``a.jpg.png``, black = ignore).

    Pixels that the undistorted copy can only repeat from its border are black.

    Returns:
        Path of the mask, or None for a photo without one.

    Raises:
        InputError: the mask does not fit the photo, or a file can't be read.
        OutputError: the mask can't be written.
        ValueError: k1 without K.
    """
    use = photo.mask()
    if use is None:
        return None
    pixels = use.astype(np.uint8) * 255
    if _bends(photo.size_hw, K, k1):
        assert K is not None
        pixels = _undistort(pixels, K, k1, is_mask=True)
    encoded = _encode(Image.fromarray(pixels), True, 0, {})
    target = destination_dir / f"{photo.name}.png"
    _write(target, photo.path, encoded)
    return target


def _bends(size_hw: tuple[int, int], K: np.ndarray | None, k1: float) -> bool:
    """Whether the distortion moves any pixel noticeably; its largest displacement lies on the border."""
    if k1 == 0:
        return False
    if K is None:
        raise ValueError("a distorted photo needs K")
    height, width = size_hw
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
    return bool(np.linalg.norm(photo_pixels(K, k1, corners) - corners, axis=-1).max() >= NEGLIGIBLE_PX)


def _undistort(pixels: np.ndarray, K: Float[np.ndarray, "3 3"], k1: float, *, is_mask: bool = False) -> np.ndarray:
    """Resample a uint8 image (H, W) or (H, W, C) to the distortion-free camera with the same K.

    Works in blocks of rows, to bound memory and to use all cores (scipy lets other threads run meanwhile).
    """
    from scipy.ndimage import map_coordinates

    height, width = pixels.shape[:2]
    channels = pixels.reshape(height, width, -1)
    out = np.empty_like(channels)
    rows_at_once = max(1, _BLOCK_PIXELS // width)
    options: dict[str, Any] = {"order": 0, "mode": "constant"} if is_mask else {"order": 1, "mode": "nearest"}

    def resample_rows(start: int) -> None:
        stop = min(height, start + rows_at_once)
        ideal = pixel_grid(stop - start, width) + np.array([0, start])
        seen = photo_pixels(K, k1, ideal) - 0.5  # array index 0 is the pixel centre 0.5
        for channel in range(channels.shape[2]):
            values = map_coordinates(channels[..., channel], (seen[..., 1], seen[..., 0]), output=np.float32, **options)
            out[start:stop, :, channel] = np.rint(values)

    with ThreadPoolExecutor(cpu_count()) as pool:
        list(pool.map(resample_rows, range(0, height, rows_at_once)))
    return out.reshape(pixels.shape)


def _metadata(original: Image.Image, size_hw: tuple[int, int], is_png: bool) -> dict[str, Any]:
    """Save options that carry EXIF, XMP (JPEG) and the colour profile over, less the orientation."""
    options: dict[str, Any] = {"exif": exif_for_copy(original, size_hw), "xmp": xmp_for_copy(original)}
    if is_png:
        del options["xmp"]
    if original.mode in {"RGB", "RGBA"}:
        options["icc_profile"] = original.info.get("icc_profile")
    return {name: value for name, value in options.items() if value}


def _encode(picture: Image.Image, is_png: bool, jpeg_quality: int, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    picture.info.clear()  # Pillow would carry the original's tags over
    if is_png:
        picture.save(buffer, "PNG", compress_level=4, **metadata)
    else:
        picture.save(buffer, "JPEG", quality=jpeg_quality, subsampling=0, **metadata)
    return buffer.getvalue()


def _write(target: Path, original: Path, content: bytes) -> None:
    """Write a file under a temporary name beside its place and rename it."""
    if target.resolve() == original.resolve():
        raise OutputError(f"{target}: the copy would replace the original photo", "choose another output folder")
    # Without the target's name, which may have all the length that the file system allows.
    temporary = target.with_name(f".{os.getpid()}.{threading.get_ident()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(target)
    except OSError as error:
        hint = "free some space" if error.errno == errno.ENOSPC else "check the folder and its permissions"
        raise OutputError(f"{target}: can't be written: {error.strerror or error}", hint) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
