import time
from pathlib import Path

import numpy as np
import pytest
import torch

from flarecli.errors import InputError
from flarecli.geometry.projection import map_pixels
from flarecli.images.loading import Photo, load_photos
from flarecli.images.preparing import choose_canvas, prepare

from .conftest import landscape, save, stored_as


def with_marker(size_hw: tuple[int, int], at: tuple[float, float], sigma: float) -> np.ndarray:
    """A dark photo with a soft white spot at a pixel position (centres at 0.5)."""
    x, y = np.arange(size_hw[1]) + 0.5 - at[0], np.arange(size_hw[0]) + 0.5 - at[1]
    spot = np.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * sigma**2))
    return np.repeat((20 + 220 * spot).astype(np.uint8)[..., None], 3, -1)


def photo_of(path: Path, rgb: np.ndarray, orientation: int | None = None, **options: object) -> Photo:
    stored = rgb if orientation is None else stored_as(rgb, orientation)
    return Photo(
        save(path, stored, orientation, **options),
        path.name,
        (rgb.shape[0], rgb.shape[1]),
        orientation=orientation or 1,
    )


def find_marker(rgb: torch.Tensor, portrait: bool) -> np.ndarray:
    """Centroid of the spot in the upright prepared image, from the stored view."""
    grey = rgb.mean(0).numpy()
    upright = grey.T if portrait else grey
    weight = np.clip(upright - 0.55, 0, None)  # padding is 0.5
    y, x = np.indices(upright.shape) + 0.5
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize(("suffix", "orientation"), [(".jpg", None), (".jpg", 2), (".jpg", 7), (".png", 6)])
@pytest.mark.parametrize("size_hw", [(751, 1003), (1003, 751), (997, 2501), (150, 211), (211, 150), (333, 333)])
def test_map_finds_a_marker(tmp_path: Path, size_hw: tuple[int, int], suffix: str, orientation: int | None, fit: str):
    at = (size_hw[1] * 0.62 + 0.3, size_hw[0] * 0.41 - 0.2)
    photo = photo_of(tmp_path / f"a{suffix}", with_marker(size_hw, at, max(size_hw) / 60), orientation)
    prepared = prepare([photo], (192, 256), fit=fit)  # type: ignore[arg-type]
    assert prepared.views.rgb.shape == (1, 3, 192, 256)
    portrait = bool(prepared.views.portrait[0])
    assert portrait == (size_hw[0] > size_hw[1])
    found = find_marker(prepared.views.rgb[0], portrait)
    assert np.linalg.norm(found - map_pixels(prepared.prepared_from_photo[0], np.array(at))) < 0.1


@pytest.mark.parametrize(("orientation", "at"), [(1, (1900.0, 1400.0)), (3, (150.0, 137.0)), (8, (1900.0, 137.0))])
def test_map_holds_where_a_jpeg_decoded_small_has_a_broken_block(
    tmp_path: Path, orientation: int, at: tuple[float, float]
):
    """1/8 decoding rounds 2049 up to 257 columns; taking those for the whole width would be 0.4 px off."""
    photo = photo_of(tmp_path / "a.jpg", with_marker((1537, 2049), at, 30), orientation)
    prepared = prepare([photo], (96, 128))
    found = find_marker(prepared.views.rgb[0], False)
    assert np.linalg.norm(found - map_pixels(prepared.prepared_from_photo[0], np.array(at))) < 0.1


def test_crop_is_centred_and_keeps_the_aspect(tmp_path: Path):
    photo = photo_of(tmp_path / "a.png", landscape(size_hw=(400, 1000)))
    pixels = prepare([photo], (192, 256)).prepared_from_photo[0]
    assert pixels[0, 0] == pytest.approx(pixels[1, 1], rel=0.005)
    assert map_pixels(pixels, np.array([500.0, 200.0])) == pytest.approx([128, 96], abs=0.5)


def test_pixels_are_those_of_the_upright_photo(tmp_path: Path):
    rgb = landscape(size_hw=(256, 192))
    prepared = prepare([photo_of(tmp_path / "a.png", rgb)], (192, 256))
    stored = (prepared.views.rgb[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(stored.swapaxes(0, 1), rgb)
    assert np.array_equal(prepared.prepared_from_photo[0], np.eye(3))
    assert prepared.masks is None
    assert prepared.views.rgb.dtype == torch.float32


def test_pad_shows_everything_and_masks_the_rest(tmp_path: Path):
    photo = photo_of(tmp_path / "a.png", np.full((100, 400, 3), 255, np.uint8))
    prepared = prepare([photo], (192, 256), fit="pad")
    assert prepared.masks is not None
    mask, rgb = prepared.masks[0].numpy(), prepared.views.rgb[0].numpy()
    assert mask.sum() == 64 * 256 and mask[64:128].all()
    assert (rgb[:, mask] == 1).all()
    assert np.allclose(rgb[:, ~mask], 128 / 255)


def test_masks_follow_their_photos(tmp_path: Path):
    save(tmp_path / "p" / "1.png", landscape(1, (300, 400)))
    save(tmp_path / "p" / "2.png", landscape(2, (400, 300)))
    use = np.zeros((400, 300), np.uint8)
    use[:100] = 255
    save(tmp_path / "m" / "2.png", use)
    photos = load_photos([tmp_path / "p"], masks=tmp_path / "m").photos
    prepared = prepare(photos, (192, 256))
    assert prepared.masks is not None
    assert prepared.masks.shape == (2, 192, 256) and prepared.masks.dtype == torch.bool
    assert prepared.masks[0].all()
    upright = prepared.masks[1].numpy().T
    assert upright[:64].all() and not upright[64:].any()
    assert prepared.views.rgb[1].min() < prepared.views.rgb[1].max(), "colours below a mask stay"


def test_poses_are_carried_along(tmp_path: Path):
    photo = photo_of(tmp_path / "a.png", landscape())
    c2w = np.eye(4)[None] * 2
    views = prepare([photo], (192, 256), c2w=c2w).views
    assert views.c2w is not None and views.c2w.dtype == torch.float32
    assert np.array_equal(views.c2w.numpy(), c2w)


def test_vanished_photo(tmp_path: Path):
    photo = photo_of(tmp_path / "a.png", landscape())
    photo.path.unlink()
    with pytest.raises(InputError, match=r"a\.png"):
        prepare([photo], (192, 256))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(3000, 4000)] * 3, (384, 512)),
        ([(4000, 3000), (3000, 4000)], (384, 512)),
        ([(1080, 1920)] * 5 + [(3000, 4000)], (320, 512)),
        ([(500, 500)], (512, 512)),
        ([(309, 1024)], (128, 512)),
        ([(10, 5000)], (64, 512)),
    ],
)
def test_canvas(sizes: list[tuple[int, int]], expected: tuple[int, int]):
    assert choose_canvas(sizes, 512, 64) == expected


def test_canvas_loses_least_of_all_candidates():
    rng = np.random.default_rng(3)
    for _ in range(50):
        sizes = [(int(h), int(w)) for h, w in rng.integers(200, 4000, (5, 2))]
        height, width = choose_canvas(sizes, 224, 16)

        def kept(h: int, sizes: list[tuple[int, int]] = sizes) -> float:
            aspects = np.array([min(size) / max(size) for size in sizes]) * 224 / h
            return float(np.minimum(aspects, 1 / aspects).mean())

        assert width == 224 and height % 16 == 0
        assert kept(height) >= max(kept(h) for h in range(16, 225, 16)) - 1e-8


@pytest.mark.parametrize(("sizes", "long_side"), [([], 512), ([(3, 4)], 500), ([(3, 4)], 0)])
def test_wrong_canvas(sizes: list[tuple[int, int]], long_side: int):
    with pytest.raises(ValueError, match=r"photo|multiple"):
        choose_canvas(sizes, long_side, 64)


def test_eight_photos_of_1024_px_take_less_than_a_second_of_cpu(tmp_path: Path):
    rng = np.random.default_rng(0)
    noisy = np.clip(landscape(size_hw=(768, 1024)) + rng.normal(0, 8, (768, 1024, 3)), 0, 255).astype(np.uint8)
    photos = [photo_of(tmp_path / f"{i}.jpg", noisy, quality=95) for i in range(8)]
    start = time.process_time()
    prepare(photos, (384, 512))
    assert time.process_time() - start < 1.0
