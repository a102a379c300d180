from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flarecli.errors import InputError
from flarecli.images.masks import find_mask, read_mask

from .conftest import ORIENTATION, stored_as

USE = np.zeros((60, 90), bool)
USE[:20, :50] = True  # no symmetry


def write(path: Path, use: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(use.astype(np.uint8) * 255).save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("written", ["a/1.jpg.png", "a/1.png", "a/1.jpg", "a/1.webp"])
def test_namings(tmp_path: Path, written: str):
    path = write(tmp_path / written, USE)
    write(tmp_path / "b" / "1.png", USE)
    assert find_mask(tmp_path, ("a/1.jpg",)) == path
    assert find_mask(tmp_path, ("c/1.jpg", "a/1.jpg")) == path
    assert find_mask(tmp_path, ("a/2.jpg",)) is None


def test_colmap_naming_goes_first(tmp_path: Path):
    write(tmp_path / "1.png", USE)
    assert find_mask(tmp_path, ("1.jpg",)) == tmp_path / "1.png"
    exact = write(tmp_path / "1.jpg.png", USE)
    assert find_mask(tmp_path, ("1.jpg",)) == exact


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_mask_stays_as_it_is(tmp_path: Path, orientation: int):
    assert np.array_equal(read_mask(write(tmp_path / "m.png", USE), (60, 90), orientation), USE)


@pytest.mark.parametrize("orientation", range(5, 9))
@pytest.mark.parametrize("factor", [1, 2])
def test_mask_made_before_turning_is_turned(tmp_path: Path, orientation: int, factor: int):
    stored = stored_as(USE, orientation).repeat(factor, 0).repeat(factor, 1)
    assert np.array_equal(read_mask(write(tmp_path / "m.png", stored), (60, 90), orientation), USE)


def test_mask_with_its_own_orientation_tag(tmp_path: Path):
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    path = write(tmp_path / "m.png", stored_as(USE, 8), exif=exif)
    assert np.array_equal(read_mask(path, (60, 90), 1), USE)


def test_smaller_mask_is_scaled_by_nearest(tmp_path: Path):
    path = write(tmp_path / "m.png", USE[::2, ::2])
    assert np.array_equal(read_mask(path, (60, 90), 1), USE)


@pytest.mark.parametrize(("mode", "value"), [("L", 1), ("P", 1), ("1", 1), ("I;16", 300), ("LA", 255), ("RGB", 255)])
def test_any_value_above_black_is_used(tmp_path: Path, mode: str, value: int):
    if mode == "I;16":
        picture = Image.fromarray(USE.astype(np.uint16) * value)
    elif mode == "P":
        picture = Image.fromarray(USE.astype(np.uint8), "L").convert("P")
        picture.putpalette([0, 0, 0, 0, 0, 200])
    else:
        picture = Image.fromarray(USE.astype(np.uint8) * (255 if mode == "1" else value)).convert(mode)
    picture.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", (60, 90), 1), USE)


def test_noise_of_jpeg_is_still_black(tmp_path: Path):
    assert np.array_equal(read_mask(write(tmp_path / "m.jpg", USE, quality=60), (60, 90), 1), USE)


def test_transparent_counts_as_ignore(tmp_path: Path):
    rgba = np.full((60, 90, 4), 255, np.uint8)
    rgba[..., 3] = USE * 255
    Image.fromarray(rgba).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", (60, 90), 1), USE)


@pytest.mark.parametrize("size_hw", [(90, 90), (120, 90), (90, 60)])
def test_misfit_names_both_sizes(tmp_path: Path, size_hw: tuple[int, int]):
    path = write(tmp_path / "m.png", np.ones(size_hw, bool))
    with pytest.raises(InputError, match=rf"m\.png is {size_hw[1]} x {size_hw[0]}, its photo 90 x 60"):
        read_mask(path, (60, 90), 1)


def test_broken_mask(tmp_path: Path):
    (tmp_path / "m.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(InputError, match=r"m\.png"):
        read_mask(tmp_path / "m.png", (60, 90), 1)
