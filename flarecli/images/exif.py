"""What a photo's EXIF says about its camera, and which part of it goes into copies."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

from PIL import Image

ORIENTATION = 0x0112
_MAKE, _MODEL, _LENS_MODEL, _SERIAL = 0x010F, 0x0110, 0xA434, 0xA431
_EXIF_IFD, _GPS_IFD, _INTEROPERABILITY_IFD = 0x8769, 0x8825, 0xA005
_FOCAL_MM, _FOCAL_35MM = 0x920A, 0xA405
_PLANE_X_RESOLUTION, _PLANE_UNIT = 0xA20E, 0xA210
_PIXEL_WIDTH, _PIXEL_HEIGHT, _MAKER_NOTE = 0xA002, 0xA003, 0x927C
_DESCRIPTIVE = (0x010E, _MAKE, _MODEL, 0x0131, 0x0132, 0x013B, 0x8298)  # title, camera, software, date, author, rights
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_DIAGONAL_35MM = 43.27
_PLAUSIBLE = (0.25, 15.0)  # focal over long side: 127 to 4 degrees
_SAME_SHAPE = 0.02  # aspects may differ by so much: scaled sizes are rounded, converters cut a few columns
_UNREADABLE = (ValueError, TypeError, LookupError, ArithmeticError, SyntaxError, OSError, struct.error)
_MAX_JPEG_EXIF = 65_527  # bytes of one APP1 segment less its headers


@dataclass(frozen=True, slots=True)
class CameraTags:
    """What EXIF says about the camera of a photo.

    Attributes:
        orientation: EXIF tag 1..8; 1 where absent or invalid.
        focal_px: focal length in pixels of the photo as decoded at full size, or None, also where the photo was cropped
            in a way that leaves it open.
        camera_id: equal for photos taken by the same body, lens and focal length, or None.
    """

    orientation: int = 1
    focal_px: float | None = None
    camera_id: str | None = None


def orientation_of(image: Image.Image) -> int:
    """EXIF (or XMP) orientation 1..8 that is still to be applied to this image; 1 where absent or invalid."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except _UNREADABLE:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def camera_tags(image: Image.Image) -> CameraTags:
    """Read the camera's tags; damaged EXIF counts as absent.

    Args:
        image: an opened image at its full size, not yet transposed.
    """
    try:
        exif = image.getexif()
        camera = dict(exif.get_ifd(_EXIF_IFD))
    except _UNREADABLE:
        return CameraTags()
    size = image.size
    focal = _focal_px(camera, size)
    names = [_text(exif.get(_MAKE)), _text(exif.get(_MODEL)), _text(camera.get(_LENS_MODEL))]
    focal_mm, focal_35mm = _number(camera.get(_FOCAL_MM)), _number(camera.get(_FOCAL_35MM))
    camera_id = None
    if any(names[:2]) and (focal_mm or focal_35mm):
        serial = _text(camera.get(_SERIAL))
        camera_id = "|".join([*names, serial, f"{focal_mm or 0:.2f}mm", f"{focal_35mm or 0:.0f}mm35"])
    return CameraTags(orientation_of(image), focal, camera_id)


def _focal_px(camera: dict[int, Any], size: tuple[int, int]) -> float | None:
    """Focal length in pixels from the Exif IFD, or None where absent or implausible.

    Source: CIPA DCG-001 defines the 35 mm equivalent over the diagonal (43.27 mm); COLMAP's Bitmap::ExifFocalLength
    uses it the same way and then the focal-plane resolution. As in OpenSfM's exif.py that resolution counts pixels of
    the recorded size (PixelXDimension), so that a photo scaled down later keeps its angle of view. Both tags describe
    the photo as it was taken; one that was cropped since has the pixels of the whole.
    """
    whole = _whole_size(camera, size)
    if whole is None:
        return None
    focal_35mm, focal_mm = _number(camera.get(_FOCAL_35MM)), _number(camera.get(_FOCAL_MM))
    candidates: list[float] = []
    if focal_35mm:
        candidates.append(focal_35mm / _DIAGONAL_35MM * math.hypot(*whole))
    resolution = _number(camera.get(_PLANE_X_RESOLUTION))
    unit = _MM_PER_UNIT.get(int(_number(camera.get(_PLANE_UNIT)) or 2))
    if focal_mm and resolution and unit:
        recorded = max(_number(camera.get(_PIXEL_WIDTH)) or 0, _number(camera.get(_PIXEL_HEIGHT)) or 0)
        candidates.append(focal_mm * resolution / unit * max(whole) / (recorded or max(whole)))
    low, high = _PLAUSIBLE
    return next((focal for focal in candidates if low <= focal / max(size) <= high), None)


def _whole_size(camera: dict[int, Any], size: tuple[int, int]) -> tuple[float, float] | None:
    """Width and height, in pixels of this file, of the photo as it was taken; None where a crop was scaled too.

    A size of the same shape as the recorded one, upright or turned, is the whole photo.
    """
    width, height = _number(camera.get(_PIXEL_WIDTH)), _number(camera.get(_PIXEL_HEIGHT))
    if width is None or height is None:
        return size
    if (size[0] == width and size[1] < height) or (size[1] == height and size[0] < width):
        return width, height
    turned = (max(size) / min(size)) / (max(width, height) / min(width, height))
    return size if abs(turned - 1) <= _SAME_SHAPE else None


def _number(value: Any) -> float | None:
    """A positive finite number, or None."""
    try:
        number = float(value[0] if isinstance(value, tuple) else value)
    except _UNREADABLE:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _text(value: Any) -> str:
    raw = value.decode("latin-1") if isinstance(value, bytes) else value
    return raw.split("\0")[0].strip() if isinstance(raw, str) else ""


def exif_for_copy(image: Image.Image, size_hw: tuple[int, int]) -> bytes | None:
    """EXIF for an upright copy: camera, lens, exposure, date, author and position; no orientation, no thumbnail.

    Tags that describe the storage of the original file are left out, and of a cropped photo those that give the focal
    length by its whole size. The maker's note stays while it fits into a JPEG.

    Args:
        image: the opened original.
        size_hw: size of the copy.

    Returns:
        Encoded EXIF, or None where the original has none that can be encoded.
    """
    try:
        exif = image.getexif()
        camera, position = dict(exif.get_ifd(_EXIF_IFD)), dict(exif.get_ifd(_GPS_IFD))
        kept = {tag: exif[tag] for tag in _DESCRIPTIVE if tag in exif}
        if not (kept or camera or position):
            return None
        camera.pop(_INTEROPERABILITY_IFD, None)
        if _whole_size(camera, image.size) != image.size:
            # The recorded size, which tells of the crop, makes way for the copy's own.
            camera = {tag: value for tag, value in camera.items() if tag not in (_FOCAL_35MM, _PLANE_X_RESOLUTION)}
        camera |= {_PIXEL_WIDTH: size_hw[1], _PIXEL_HEIGHT: size_hw[0]}
        encoded = _encode(kept, camera, position)
        if len(encoded) > _MAX_JPEG_EXIF:
            camera.pop(_MAKER_NOTE, None)
            encoded = _encode(kept, camera, position)
    except _UNREADABLE:
        return None
    return encoded if len(encoded) <= _MAX_JPEG_EXIF else None


def _encode(kept: dict[int, Any], camera: dict[int, Any], position: dict[int, Any]) -> bytes:
    copy = Image.Exif()
    copy.update(kept)
    for tag, ifd in ((_EXIF_IFD, camera), (_GPS_IFD, position)):
        if ifd:
            copy.get_ifd(tag).update(ifd)
    return copy.tobytes()


def xmp_for_copy(image: Image.Image) -> bytes | None:
    """XMP for an upright copy, without its own orientation tag (readers would turn the copy again)."""
    xmp = image.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if not isinstance(xmp, bytes) or not xmp:
        return None
    for pattern in (rb'tiff:Orientation="[0-9]"', rb"<tiff:Orientation>[0-9]</tiff:Orientation>"):
        xmp = re.sub(pattern, b"", xmp)
    return xmp if len(xmp) <= 65_000 else None
