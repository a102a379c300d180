import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flarecli.errors import InputError, MissingDependency
from flarecli.images.loading import load_photos

from .conftest import landscape, save, stored_as


def test_folder(folder: Path):
    seen: list[tuple[str, int, int]] = []
    found = load_photos([folder], on_progress=lambda *step: seen.append(step))
    assert [photo.name for photo in found.photos] == ["IMG_2.jpg", "IMG_10.jpg"]
    assert found.dropped == () and len(found) == 2
    assert seen == [("photos", 1, 2), ("photos", 2, 2)]
    photo = found.photos[0]
    assert (photo.size_hw, photo.orientation, photo.is_plain, photo.mask()) == ((96, 144), 1, True, None)
    assert photo.rgb().dtype == np.uint8
    assert np.abs(photo.rgb().astype(int) - landscape(2)).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_size_is_the_upright_one(folder: Path, orientation: int, suffix: str):
    save(folder / f"a{suffix}", stored_as(landscape(5), orientation), orientation)
    photo = load_photos([folder]).photos[0]
    assert photo.size_hw == (96, 144) == photo.rgb().shape[:2]
    assert photo.orientation == orientation
    assert photo.is_plain == (orientation == 1 and suffix != ".tif")


def test_names_of_copies(tmp_path: Path):
    pillow_heif = pytest.importorskip("pillow_heif")
    rng = iter(range(100, 200))

    def picture() -> Image.Image:
        return Image.fromarray(landscape(next(rng)))

    def transparent() -> Image.Image:
        rgba = picture().convert("RGBA")
        rgba.paste((0, 0, 0, 0), (30, 30, 60, 60))
        return rgba

    (tmp_path / "x").mkdir()
    picture().save(tmp_path / "both.jpg")
    pillow_heif.from_pillow(picture()).save(tmp_path / "both.heic")
    pillow_heif.from_pillow(picture()).save(tmp_path / "really_heic.jpg", format="HEIF")
    picture().save(tmp_path / "x" / "scan.TIF")
    picture().save(tmp_path / "x" / "web.webp")
    transparent().save(tmp_path / "x" / "cut.webp")
    picture().save(tmp_path / "old.bmp")
    picture().save(tmp_path / "CAPS.JPEG")
    picture().save(tmp_path / "png_inside.jpg", format="PNG")
    transparent().save(tmp_path / "cut_inside.jpg", format="PNG")
    Image.fromarray(np.linspace(0, 65535, 96 * 144).reshape(96, 144).astype(np.uint16)).save(tmp_path / "deep.png")
    photos = {photo.path.relative_to(tmp_path).as_posix(): photo for photo in load_photos([tmp_path]).photos}
    assert {original: photo.name for original, photo in photos.items()} == {
        "both.jpg": "both.jpg",
        "both.heic": "both_2.jpg",
        "really_heic.jpg": "really_heic.jpg",
        "x/scan.TIF": "x/scan.png",
        "x/web.webp": "x/web.jpg",
        "x/cut.webp": "x/cut.png",
        "old.bmp": "old.png",
        "CAPS.JPEG": "CAPS.JPEG",
        "png_inside.jpg": "png_inside.jpg",
        "cut_inside.jpg": "cut_inside.png",
        "deep.png": "deep.png",
    }
    assert {name for name, photo in photos.items() if photo.is_plain} == {"both.jpg", "CAPS.JPEG"}


def test_unusable_files_are_dropped_with_their_reason(folder: Path):
    whole = (folder / "IMG_2.jpg").read_bytes()
    (folder / "a_broken.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "b_empty.png").touch()
    save(folder / "c_tiny.png", landscape(3)[:31, :60])
    save(folder / "d_black.jpg", np.random.default_rng(0).integers(0, 2, (300, 400, 3)).astype(np.uint8))
    save(folder / "e_text.jpg", landscape(4)).write_text("hello")
    (folder / "z_copy.jpg").write_bytes(whole)
    (folder / "raw.NEF").write_bytes(b"II*\0")
    (folder / "secret.jpg").write_bytes(whole + b"tail")
    found = load_photos([folder])
    reasons = {verdict.name: verdict.reason for verdict in found.dropped}
    assert [photo.name for photo in found.photos] == ["IMG_2.jpg", "IMG_10.jpg", "secret.jpg"]
    assert all(verdict.status == "dropped" for verdict in found.dropped)
    for name, words in {
        "a_broken.jpg": "truncated",
        "b_empty.png": "empty",
        "c_tiny.png": "60 x 31",
        "d_black.jpg": "blank",
        "e_text.jpg": "not a picture",
        "z_copy.jpg": "same picture as IMG_2.jpg",
        "raw.NEF": "raw",
    }.items():
        assert words in reasons.pop(name)
    assert reasons == {}


@pytest.mark.parametrize("name", ["broken.jpg", "copy.jpg"])
def test_strict_names_the_file(folder: Path, name: str):
    whole = (folder / "IMG_2.jpg").read_bytes()
    (folder / name).write_bytes(whole[:2000] if name == "broken.jpg" else whole)
    load_photos([folder])
    with pytest.raises(InputError, match=str(folder / name) if name == "broken.jpg" else "IMG_2.jpg|copy.jpg"):
        load_photos([folder], strict=True)


def test_heic_without_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)

    def absent(name: str):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("flarecli.runtime.importlib.import_module", absent)
    found = load_photos([folder])
    assert len(found) == 2
    assert "flarecli[heif]" in found.dropped[0].reason
    with pytest.raises(MissingDependency, match=r"a\.heic"):
        load_photos([folder], strict=True)


def test_no_photos_says_what_is_there(tmp_path: Path):
    for name in ("a.mp4", "b.mp4", "c.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="no usable photos") as caught:
        load_photos([tmp_path])
    assert "2 .mp4" in caught.value.hint


def test_one_photo_is_not_enough(folder: Path):
    (folder / "IMG_10.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"only one usable photo \(IMG_2\.jpg\)") as caught:
        load_photos([folder])
    assert "IMG_10.jpg: the file is empty" in caught.value.hint
    with pytest.raises(InputError, match="only one usable photo") as caught:
        load_photos([folder / "IMG_2.jpg"])
    assert "two photos" in caught.value.hint


def test_masks_and_alpha_meet(folder: Path, tmp_path: Path):
    use = np.zeros((96, 144), np.uint8)
    use[:, :70] = 255
    save(tmp_path / "masks" / "IMG_2.jpg.png", use)
    save(tmp_path / "masks" / "cut.png", use)
    rgba = np.dstack([landscape(7), np.full((96, 144), 255, np.uint8)])
    rgba[:50, :, 3] = 0
    save(folder / "cut.png", rgba)
    photos = {photo.name: photo for photo in load_photos([folder], masks=tmp_path / "masks").photos}
    assert np.array_equal(photos["IMG_2.jpg"].mask(), use > 0)  # type: ignore[arg-type]
    assert photos["IMG_10.jpg"].mask() is None
    both = photos["cut.png"].mask()
    assert both is not None and both[60:, :70].all() and not both[:50].any() and not both[:, 70:].any()


def test_masks_of_nested_and_colliding_sources(tmp_path: Path):
    for i, name in enumerate(["l/1.jpg", "l/2.jpg", "r/1.jpg"]):
        save(tmp_path / name, landscape(i))
        use = np.zeros((96, 144), np.uint8)
        use[: 10 * (i + 1)] = 255
        save(tmp_path / "m" / f"{name}.png", use)
    photos = load_photos([tmp_path / "l", tmp_path / "r"], masks=tmp_path / "m").photos
    assert [photo.name for photo in photos] == ["l/1.jpg", "l/2.jpg", "r/1.jpg"]
    assert [int(photo.mask()[:, 0].sum()) for photo in photos] == [10, 20, 30]  # type: ignore[index]


def test_mask_that_ignores_everything_drops_its_photo(folder: Path, tmp_path: Path):
    save(folder / "IMG_3.jpg", landscape(3))
    save(tmp_path / "masks" / "IMG_3.png", np.zeros((96, 144), np.uint8))
    found = load_photos([folder], masks=tmp_path / "masks")
    assert [(verdict.name, "ignores every pixel" in verdict.reason) for verdict in found.dropped] == [
        ("IMG_3.jpg", True)
    ]


def test_wrong_masks(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="no such folder of masks"):
        load_photos([folder], masks=tmp_path / "nowhere")
    save(tmp_path / "masks" / "other.png", np.zeros((96, 144), np.uint8))
    with pytest.raises(InputError, match="no mask belongs"):
        load_photos([folder], masks=tmp_path / "masks")
    save(tmp_path / "masks" / "IMG_2.png", np.zeros((96, 96), np.uint8))
    with pytest.raises(InputError, match=r"IMG_2\.png is 96 x 96"):
        load_photos([folder], masks=tmp_path / "masks")


def test_fingerprint_follows_names_contents_and_masks(folder: Path, tmp_path: Path):
    first = load_photos([folder]).fingerprint()
    assert load_photos([folder]).fingerprint() == first
    save(tmp_path / "masks" / "IMG_2.png", np.full((96, 144), 255, np.uint8))
    masked = load_photos([folder], masks=tmp_path / "masks").fingerprint()
    save(folder / "IMG_2.jpg", landscape(99))
    changed = load_photos([folder]).fingerprint()
    (folder / "IMG_2.jpg").rename(folder / "IMG_4.jpg")
    assert len({first, masked, changed, load_photos([folder]).fingerprint()}) == 4


def test_photo_that_vanishes_later(folder: Path):
    photo = load_photos([folder]).photos[0]
    photo.path.unlink()
    with pytest.raises(InputError, match=r"IMG_2\.jpg"):
        photo.rgb()


def test_many_photos_keep_their_order_in_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flarecli.images.loading.cpu_count", lambda: 4)
    for i in range(30):
        save(tmp_path / f"{i}.jpg", landscape(i))
    found = load_photos([tmp_path])
    assert [photo.name for photo in found.photos] == [f"{i}.jpg" for i in range(30)]
    assert threading.active_count() < 5


def test_highlights_and_12_bit_values_make_no_photo_blank(folder: Path):
    grey = landscape(5)[..., 1].astype(np.float32) / 255
    Image.fromarray((grey * 4095).astype(np.uint16)).save(folder / "twelve.tif")
    grey[0, 0] = 1.5
    Image.fromarray(grey).save(folder / "highlight.tif")
    found = load_photos([folder])
    assert found.dropped == ()
    for photo in found.photos:
        if photo.path.suffix == ".tif":
            wrong = np.abs(photo.rgb()[..., 1].astype(int) - landscape(5)[..., 1])
            assert np.delete(wrong.ravel(), 0).max() <= 1


def test_names_too_long_for_their_copies_are_refused_at_once(folder: Path):
    opaque, cut = landscape(3), np.dstack([landscape(4), np.zeros((96, 144), np.uint8)])
    cut[20:, :, 3] = 255
    save(folder / f"{'a' * 251}.png", opaque)
    save(folder / f"{'b' * 247}.png", cut)
    save(folder / f"{'c' * 248}.png", cut[:, ::-1])
    with pytest.raises(InputError, match="too long"):
        load_photos([folder], strict=True)
    found = load_photos([folder])
    assert {photo.name[0] for photo in found.photos} == {"I", "a", "b"}
    (verdict,) = found.dropped
    assert verdict.name[0] == "c" and "251 bytes" in verdict.reason
