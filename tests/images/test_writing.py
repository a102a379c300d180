import errno
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flarecli.errors import InputError, OutputError
from flarecli.geometry.projection import ideal_pixels, intrinsics, pixel_grid
from flarecli.images.loading import Photo, load_photos
from flarecli.images.writing import write_mask, write_upright

from .conftest import ORIENTATION, landscape, save, stored_as

SIZE = (300, 400)
K = intrinsics(350.0, SIZE)


def load_one(path: Path) -> Photo:
    other = save(path.parent / "other" / "zz.png", landscape(77))
    return load_photos([path, other]).photos[1 if path.parent == other.parent else 0]


def pattern(pixels: np.ndarray) -> np.ndarray:
    """A smooth grid defined on ideal pixels, as uint8 RGB."""
    x, y = pixels[..., 0], pixels[..., 1]
    waves = [np.sin(x / 9) * np.cos(y / 11), np.cos(x / 14 + y / 17), np.sin(x / 21 - y / 8)]
    return (127.5 + 100 * np.stack(waves, -1)).round().astype(np.uint8)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_plain_photo_is_copied_byte_by_byte_and_never_linked(tmp_path: Path, name: str):
    photo = load_one(save(tmp_path / "in" / name, landscape()))
    out = write_upright(photo, tmp_path / "images")
    assert out == tmp_path / "images" / name
    assert out.read_bytes() == photo.path.read_bytes()
    assert not out.samefile(photo.path), "editing the copy in place would change the original"
    assert write_upright(photo, tmp_path / "images") == out, "writing again is no error"
    assert [path.name for path in (tmp_path / "images").iterdir()] == [name]


def test_symbolic_link_becomes_a_real_file(tmp_path: Path):
    store = save(tmp_path / "store" / "x.jpg", landscape())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").symlink_to(store)
    out = write_upright(load_one(tmp_path / "in" / "a.jpg"), tmp_path / "images")
    assert out.name == "a.jpg" and out.is_file() and not out.is_symlink()


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_turned_photo_is_upright_for_readers_that_ignore_the_tag(tmp_path: Path, orientation: int, suffix: str):
    upright = landscape()
    photo = load_one(save(tmp_path / f"a{suffix}", stored_as(upright, orientation), orientation))
    copy = Image.open(write_upright(photo, tmp_path / "out"))
    assert ORIENTATION not in copy.getexif()
    assert copy.mode == "RGB"
    assert np.abs(np.asarray(copy).astype(int) - upright).mean() < 2


def test_tags_are_kept_but_no_reader_turns_the_copy_again(tmp_path: Path):
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x0110] = 6, "Model"
    exif.get_ifd(0x8769)[0xA405] = 28
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" drone:RelativeAltitude="+10"/></x:xmpmeta>'
    Image.fromarray(stored_as(landscape(), 6)).save(tmp_path / "a.jpg", exif=exif, xmp=xmp, icc_profile=b"profile")
    photo = load_one(tmp_path / "a.jpg")
    copy = Image.open(write_upright(photo, tmp_path / "out"))
    assert copy.getexif()[0x0110] == "Model"
    assert copy.getexif().get_ifd(0x8769)[0xA405] == 28
    assert copy.getexif().get(ORIENTATION, 1) == 1
    assert b"RelativeAltitude" in copy.info["xmp"] and b"tiff:Orientation" not in copy.info["xmp"]
    assert copy.info["icc_profile"] == b"profile"
    assert [layer[1:3] for layer in copy.layer] == [(1, 1)] * 3, "no chroma subsampling"  # type: ignore[attr-defined]
    again = load_one(write_upright(photo, tmp_path / "out"))
    assert (again.size_hw, again.orientation, again.exif_focal_px) == (photo.size_hw, 1, photo.exif_focal_px)
    assert again.is_plain


def test_transparent_photo_keeps_its_alpha(tmp_path: Path):
    rgba = np.dstack([landscape(), np.full((96, 144), 255, np.uint8)])
    rgba[:40, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.webp", lossless=True, exact=True)
    photo = load_one(tmp_path / "a.webp")
    out = write_upright(photo, tmp_path / "out")
    assert out.name == "a.png"
    assert np.array_equal(np.asarray(Image.open(out)), rgba)
    mask = write_mask(photo, tmp_path / "masks")
    assert mask is not None and mask == tmp_path / "masks" / "a.png.png"
    assert np.array_equal(np.asarray(Image.open(mask)), rgba[..., 3])


def test_sub_folders_and_16_bit(tmp_path: Path):
    values = np.linspace(0, 65535, 96 * 144).reshape(96, 144).astype(np.uint16)
    (tmp_path / "in" / "cam").mkdir(parents=True)
    Image.fromarray(values).save(tmp_path / "in" / "cam" / "deep.png")
    save(tmp_path / "in" / "a.jpg", landscape())
    photo = next(photo for photo in load_photos([tmp_path / "in"]).photos if photo.name == "cam/deep.png")
    copy = Image.open(write_upright(photo, tmp_path / "out"))
    assert Path(copy.filename) == tmp_path / "out" / "cam" / "deep.png"  # type: ignore[attr-defined]
    assert np.asarray(copy).dtype == np.uint8
    assert np.array_equal(np.asarray(copy.convert("L")), np.rint(values / 257))


@pytest.mark.parametrize("k1", [-0.08, 0.06])
@pytest.mark.parametrize("centre", [(200.0, 150.0), (215.0, 141.0)])
def test_undistortion_recovers_the_ideal_grid(tmp_path: Path, k1: float, centre: tuple[float, float]):
    camera = K.copy()
    camera[:2, 2] = centre
    grid = pixel_grid(*SIZE)
    photo = load_one(save(tmp_path / "a.png", pattern(ideal_pixels(camera, k1, grid))))
    out = np.asarray(Image.open(write_upright(photo, tmp_path / "out", K=camera, k1=k1))).astype(int)
    wrong = np.abs(out - pattern(grid).astype(int)).max(-1)
    inside = np.s_[25:-25, 25:-25]
    assert wrong[inside].mean() < 1.0 and wrong[inside].max() < 6
    distorted = np.abs(photo.rgb().astype(int) - pattern(grid)).max(-1)
    assert distorted[inside].max() > 40, "the test would notice nothing otherwise"


def test_undistorted_mask_ignores_what_was_never_seen(tmp_path: Path):
    photo = load_one(save(tmp_path / "a.png", pattern(pixel_grid(*SIZE))))
    use = np.full(SIZE, 255, np.uint8)
    use[:, :100] = 0
    photo = replace(photo, mask_path=save(tmp_path / "m.png", use))
    path = write_mask(photo, tmp_path / "masks", K=K, k1=0.1)
    assert path is not None
    mask = np.asarray(Image.open(path)) > 0
    edge = ideal_pixels(K, 0.1, np.array([100.0, 150.0]))[0]
    assert not mask[150, : int(edge) - 1].any() and mask[150, int(edge) + 2 : 380].all()
    assert not mask[0, -1], "outside the distorted photo"
    assert set(np.unique(np.asarray(Image.open(path)))) == {0, 255}


def test_negligible_distortion_leaves_the_file_alone(tmp_path: Path):
    photo = load_one(save(tmp_path / "a.jpg", pattern(pixel_grid(*SIZE))))
    corner = float(np.hypot(200, 150))
    slight = 0.2 / corner / (corner / 350) ** 2
    before = photo.path.read_bytes()
    assert write_upright(photo, tmp_path / "same", K=K, k1=slight).read_bytes() == before
    assert write_upright(photo, tmp_path / "new", K=K, k1=2 * slight).read_bytes() != before


def test_no_mask_writes_none(tmp_path: Path):
    photo = load_one(save(tmp_path / "a.jpg", landscape()))
    assert write_mask(photo, tmp_path / "masks") is None
    assert not (tmp_path / "masks").exists()


def test_distortion_needs_K(tmp_path: Path):
    photo = load_one(save(tmp_path / "a.jpg", landscape()))
    with pytest.raises(ValueError, match="needs K"):
        write_upright(photo, tmp_path / "out", k1=0.1)


@pytest.mark.parametrize("orientation", [1, 6])
def test_original_is_never_replaced(tmp_path: Path, orientation: int):
    photo = load_one(save(tmp_path / "a.jpg", landscape(), orientation))
    before = photo.path.read_bytes()
    with pytest.raises(OutputError, match="would replace the original"):
        write_upright(photo, tmp_path)
    assert photo.path.read_bytes() == before


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path):
    photo = load_one(save(tmp_path / "in" / f"{'a' * 251}.png", landscape()))
    assert write_upright(photo, tmp_path / "out").read_bytes() == photo.path.read_bytes()
    photo = load_one(
        save(tmp_path / "cut" / f"{'b' * 247}.png", np.dstack([landscape(), landscape()[..., :1] // 64 * 85]))
    )
    mask = write_mask(photo, tmp_path / "masks")
    assert mask is not None and len(mask.name) == 255 and mask.is_file()


def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    photo = load_one(save(tmp_path / "a.jpg", landscape(), 6))

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"a\.jpg: can't be written: No space left") as caught:
        write_upright(photo, tmp_path / "out")
    assert "space" in caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []


def test_destination_that_is_a_file(tmp_path: Path):
    photo = load_one(save(tmp_path / "a.jpg", landscape()))
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match=re.escape(str(tmp_path / "out"))):
        write_upright(photo, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("orientation", [1, 6])
def test_vanished_photo(tmp_path: Path, orientation: int):
    photo = load_one(save(tmp_path / "a.jpg", landscape(), orientation))
    photo.path.unlink()
    with pytest.raises(InputError, match=r"a\.jpg"):
        write_upright(photo, tmp_path / "out")
