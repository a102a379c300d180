from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ORIENTATION = 0x0112


def landscape(seed: int = 0, size_hw: tuple[int, int] = (96, 144)) -> np.ndarray:
    """A picture without any symmetry: smooth blobs, a red top-left, a green top-right and a blue bottom-left corner."""
    height, width = size_hw
    y, x = np.mgrid[0:height, 0:width] / max(size_hw)
    rng = np.random.default_rng(seed)
    channels = [
        128 + 60 * np.sin(9 * rng.uniform(0.5, 1) * x + rng.uniform(0, 6)) * np.cos(7 * y + rng.uniform(0, 6))
        for _ in range(3)
    ]
    rgb = np.stack(channels, -1).astype(np.uint8)
    rgb[:16, :16], rgb[:16, -16:], rgb[-16:, :16] = (250, 10, 10), (10, 250, 10), (10, 10, 250)
    return rgb


def save(path: Path, rgb: np.ndarray, orientation: int | None = None, **options: object) -> Path:
    """Write a picture; JPEGs nearly without loss. ``orientation`` only sets the tag."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in {".jpg", ".jpeg"}:
        options = {"quality": 100, "subsampling": 0, "format": "JPEG", **options}
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    Image.fromarray(rgb).save(path, **options)  # type: ignore[arg-type]
    return path


def stored_as(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels a camera stores so that the orientation tag shows ``upright``; written from the EXIF standard's words.

    Tag n names where row 0 and column 0 of the stored pixels are to be seen: 1 top/left, 2 top/right, 3 bottom/right,
    4 bottom/left, 5 left/top, 6 right/top, 7 right/bottom, 8 left/bottom.
    """
    row0_side, column0_side = {
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }[orientation]  # fmt: skip
    stored = upright if row0_side in {"top", "bottom"} else np.swapaxes(upright, 0, 1)
    if row0_side in {"bottom", "right"}:
        stored = stored[::-1]
    if column0_side in {"bottom", "right"}:
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two sound JPEGs, IMG_2.jpg and IMG_10.jpg."""
    photos = tmp_path / "photos"
    save(photos / "IMG_10.jpg", landscape(10))
    save(photos / "IMG_2.jpg", landscape(2))
    return photos
