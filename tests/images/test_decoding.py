import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flarecli.images import decoding
from flarecli.images.decoding import UnreadablePhoto, decode, open_image

from .conftest import ORIENTATION, landscape, save, stored_as

UPRIGHT = landscape()


def read(path: Path, **options: object) -> np.ndarray:
    return np.asarray(decode(open_image(path), **options).rgb)  # type: ignore[arg-type]


def png16(path: Path, values: np.ndarray) -> Path:
    """A 16-bit RGB PNG, which Pillow can't write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif"])
def test_orientation_is_applied_once(tmp_path: Path, orientation: int, suffix: str):
    options = {".webp": {"lossless": True}, ".avif": {"quality": 100, "subsampling": "4:4:4"}}.get(suffix, {})
    path = save(tmp_path / f"a{suffix}", stored_as(UPRIGHT, orientation), orientation, **options)
    shown = read(path)
    assert shown.shape == UPRIGHT.shape
    assert np.abs(shown.astype(int) - UPRIGHT).mean() < 2
    assert shown[5, 5, 0] > 200 > 60 > shown[5, 5, 1], "the red corner belongs to the top left"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_scaled_jpeg(tmp_path: Path, orientation: int):
    upright = landscape(size_hw=(801, 1203))
    path = save(tmp_path / "a.jpg", stored_as(upright, orientation), orientation)
    small = read(path, size_hw=(100, 150))
    whole = Image.fromarray(upright).resize((150, 100), Image.Resampling.LANCZOS)
    assert small.shape == (100, 150, 3)
    assert np.abs(small.astype(int) - np.asarray(whole)).mean() < 1


def test_orientation_in_xmp_alone(tmp_path: Path):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    path = save(tmp_path / "a.jpg", stored_as(UPRIGHT, 6), xmp=xmp)
    assert np.abs(read(path).astype(int) - UPRIGHT).mean() < 2


def test_heic_is_turned_by_its_decoder_alone(tmp_path: Path):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = Image.fromarray(stored_as(UPRIGHT, 6))
    pillow_heif.from_pillow(stored).save(tmp_path / "a.heic", quality=95, chroma=444, exif=exif.tobytes())
    shown = read(tmp_path / "a.heic")
    assert shown.shape == UPRIGHT.shape
    assert np.abs(shown.astype(int) - UPRIGHT).mean() < 4


def test_heic_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)

    def absent(name: str):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("flarecli.runtime.importlib.import_module", absent)
    with pytest.raises(UnreadablePhoto, match="pillow_heif") as caught:
        open_image(tmp_path / "a.heic")
    assert "flarecli[heif]" in caught.value.hint
    assert caught.value.missing is not None


WRITABLE = {
    ".png": ("L", "1", "P", "RGBA", "LA"),
    ".jpg": ("L", "1", "CMYK", "YCbCr"),
    ".tif": ("L", "1", "P", "CMYK", "YCbCr", "RGBA", "LA"),
    ".bmp": ("L", "1", "P", "RGBA"),
    ".webp": ("L", "P", "RGBA"),
    ".ppm": ("L", "1", "RGBA"),
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in WRITABLE.items() for mode in modes])
def test_modes(tmp_path: Path, suffix: str, mode: str):
    picture = Image.fromarray(UPRIGHT).convert(mode)
    picture.save(tmp_path / f"a{suffix}", lossless=True)
    expected = np.asarray(picture.convert("RGB")).astype(int)
    decoded = decode(open_image(tmp_path / f"a{suffix}"))
    assert decoded.rgb.mode == "RGB"
    assert decoded.alpha is None, "every pixel is opaque"
    assert np.abs(np.asarray(decoded.rgb) - expected).mean() < (16 if mode == "1" else 6)


def test_cmyk_jpeg_is_not_inverted(tmp_path: Path):
    white = Image.new("CMYK", (64, 64), (0, 0, 0, 0))
    white.paste((0, 255, 255, 0), (0, 0, 32, 64))
    white.save(tmp_path / "a.jpg", quality=100)
    shown = read(tmp_path / "a.jpg")
    assert shown[30, 60].min() > 245, "no ink is white"
    assert shown[30, 5, 0] > 245 and shown[30, 5, 1:].max() < 10, "magenta and yellow are red"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_divided_by_257(tmp_path: Path, suffix: str):
    values = np.linspace(0, 65535, 64 * 80).reshape(64, 80).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    assert np.array_equal(read(tmp_path / f"a{suffix}")[..., 1], np.rint(values / 257).astype(np.uint8))


def test_dark_16_bit_photo_is_not_stretched(tmp_path: Path):
    Image.fromarray(np.full((40, 40), 257 * 20, np.uint16)).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png") == 20).all()


def test_16_bit_grey_with_a_transparent_value(tmp_path: Path):
    values = np.linspace(300, 65535, 64 * 80).reshape(64, 80).astype(np.uint16)
    values[:20] = 257 * 90
    values[30, 30] = 257 * 90 + 1  # the same in 8 bits, and yet another value
    Image.fromarray(values).save(tmp_path / "a.png", transparency=257 * 90)
    decoded = decode(open_image(tmp_path / "a.png"))
    assert np.array_equal(np.asarray(decoded.rgb)[..., 1], np.rint(values / 257).astype(np.uint8))
    assert decoded.alpha is not None
    assert np.array_equal(np.asarray(decoded.alpha) == 0, values == 257 * 90)
    Image.fromarray(values).save(tmp_path / "b.png", transparency=3)
    assert decode(open_image(tmp_path / "b.png")).alpha is None


def test_16_bit_rgb(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 65536, (40, 50, 3))
    shown = read(png16(tmp_path / "a.png", values))
    assert np.abs(shown - values / 257).max() <= 1.0


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_float_tiff(tmp_path: Path, white: float):
    values = np.linspace(0, white, 40 * 50, dtype=np.float32).reshape(40, 50)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    shown = read(tmp_path / "a.tif")[..., 0].ravel()
    assert np.abs(shown[1:] - np.linspace(0, 255, 2000)[1:]).max() <= 0.51
    assert shown[0] == 0


def test_32_bit_integers_are_refused(tmp_path: Path):
    Image.fromarray(np.full((40, 40), 1 << 20, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadablePhoto, match="32-bit"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency(tmp_path: Path, mode: str):
    picture = Image.fromarray(UPRIGHT).convert("RGBA")
    picture.paste((90, 90, 90, 0), (0, 0, 72, 96))
    if mode == "P":
        picture = picture.quantize(64)
    picture.convert(mode).save(tmp_path / "a.png")
    decoded = decode(open_image(tmp_path / "a.png"))
    assert decoded.alpha is not None
    alpha = np.asarray(decoded.alpha)
    assert (alpha[:, :70] < 20).all() and (alpha[:, 74:] > 235).all()


def test_multi_picture_jpeg_gives_its_first(tmp_path: Path):
    first, second = Image.fromarray(UPRIGHT), Image.new("RGB", (144, 96))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=100)
    assert open_image(tmp_path / "a.jpg").format == "MPO"
    assert np.abs(read(tmp_path / "a.jpg").astype(int) - UPRIGHT).mean() < 3


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif", ".bmp", ".heic"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_named_broken(tmp_path: Path, suffix: str, kept: float):
    if suffix == ".heic":
        pytest.importorskip("pillow_heif").from_pillow(Image.fromarray(UPRIGHT)).save(tmp_path / "a.heic")
    else:
        save(tmp_path / f"a{suffix}", UPRIGHT)
    whole = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"b{suffix}").write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(UnreadablePhoto) as caught:
        read(tmp_path / f"b{suffix}")
    assert caught.value.reason
    assert "\n" not in caught.value.reason
    if kept == 0:
        assert caught.value.reason == "the file is empty"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_never_escapes_as_another_error(tmp_path: Path):
    rng = np.random.default_rng(1)
    for suffix in (".jpg", ".png", ".tif", ".webp", ".bmp", ".avif"):
        whole = np.frombuffer(save(tmp_path / f"a{suffix}", UPRIGHT).read_bytes(), np.uint8)
        for _ in range(25):
            damaged = whole.copy()
            damaged[rng.integers(0, min(len(whole), 400), 6)] = rng.integers(0, 256, 6)
            try:
                assert decode(open_image(damaged.tobytes())).rgb.mode == "RGB"
            except UnreadablePhoto as error:
                assert error.reason


def test_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path):
    path = png16(tmp_path / "a.png", np.zeros((1, 1, 3)))
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 40000, 30000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(UnreadablePhoto, match="500 megapixels"):
        open_image(bytes(content))
    content[16:24] = struct.pack(">II", 20000, 20000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    assert open_image(bytes(content)).size == (20000, 20000)
    assert decoding.MAX_PIXELS == 500_000_000


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_too_little_memory_is_no_damage_unless_the_header_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    sound = save(tmp_path / "a.png", UPRIGHT).read_bytes()
    hollow = bytearray(png16(tmp_path / "b.png", np.zeros((1, 1, 3))).read_bytes())
    hollow[16:24] = struct.pack(">II", 20000, 20000)
    hollow[29:33] = struct.pack(">I", zlib.crc32(hollow[12:29]))

    def full(image: Image.Image) -> None:
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", full, raising=False)
    for source in (sound, tmp_path / "a.png"):
        with pytest.raises(MemoryError):
            decode(open_image(source))
    with pytest.raises(UnreadablePhoto, match="damaged"):
        decode(open_image(bytes(hollow)))
    monkeypatch.undo()

    def full_before_turning(image: Image.Image, orientation: int) -> Image.Image:
        raise error

    monkeypatch.setattr(decoding, "upright", full_before_turning)
    with pytest.raises(MemoryError):
        decode(open_image(sound))


def test_text_and_folder_are_unreadable(tmp_path: Path):
    (tmp_path / "a.jpg").write_text("not a picture at all")
    for path in (tmp_path / "a.jpg", tmp_path, tmp_path / "absent.jpg"):
        with pytest.raises(UnreadablePhoto):
            open_image(path)
