import math
from pathlib import Path

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from flarecli.images.exif import camera_tags, exif_for_copy, orientation_of

EXIF_IFD, GPS_IFD = 0x8769, 0x8825
FOCAL, FOCAL_35, RESOLUTION, UNIT, WIDTH, HEIGHT, LENS = 0x920A, 0xA405, 0xA20E, 0xA210, 0xA002, 0xA003, 0xA434
SIZE = (4000, 3000)


def tagged(tmp_path: Path, camera: dict[int, object], *, size: tuple[int, int] = SIZE, **main: object) -> Image.Image:
    exif = Image.Exif()
    for tag, value in main.items():
        exif[int(tag.removeprefix("tag"))] = value
    exif.get_ifd(EXIF_IFD).update(camera)
    Image.new("RGB", size, (9, 90, 200)).save(tmp_path / "a.jpg", exif=exif)
    return Image.open(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("camera", "expected"),
    [
        ({FOCAL_35: 28}, 28 / 43.27 * 5000),
        ({FOCAL_35: 0, FOCAL: IFDRational(50), RESOLUTION: IFDRational(4000), UNIT: 3}, 50 * 400),
        ({FOCAL: IFDRational(6), RESOLUTION: IFDRational(25400 * 2), UNIT: 2}, 12000),
        ({FOCAL: IFDRational(6), RESOLUTION: IFDRational(25400 * 2)}, 12000),
        ({FOCAL: IFDRational(6), RESOLUTION: IFDRational(500), UNIT: 4}, 3000),
        ({FOCAL: IFDRational(6), RESOLUTION: IFDRational(1, 2), UNIT: 5}, 3000),
        ({FOCAL: IFDRational(6), RESOLUTION: IFDRational(500), UNIT: 4, WIDTH: 8000, HEIGHT: 6000}, 1500),
        ({FOCAL: IFDRational(6), RESOLUTION: IFDRational(500), UNIT: 4, FOCAL_35: 1}, 3000),
        ({FOCAL: IFDRational(6), RESOLUTION: IFDRational(500), UNIT: 9}, None),
        ({FOCAL: IFDRational(0, 0), RESOLUTION: IFDRational(500), UNIT: 4}, None),
        ({FOCAL: IFDRational(6)}, None),
        ({FOCAL_35: 60000}, None),
        ({}, None),
    ],
)
def test_focal_length(tmp_path: Path, camera: dict[int, object], expected: float | None):
    focal = camera_tags(tagged(tmp_path, camera)).focal_px
    assert focal == (None if expected is None else pytest.approx(expected, rel=1e-6))


def test_focal_does_not_depend_on_orientation(tmp_path: Path):
    upright = camera_tags(tagged(tmp_path, {FOCAL_35: 28}))
    turned = camera_tags(tagged(tmp_path, {FOCAL_35: 28}, tag274=6))
    assert turned.orientation == 6
    assert turned.focal_px == upright.focal_px == pytest.approx(28 / 43.27 * math.hypot(*SIZE))


@pytest.mark.parametrize(
    ("size", "whole"),
    [
        ((400, 300), 500),
        ((200, 300), 500),  # cropped at the sides
        ((225, 300), 500),  # to a shape that looks turned
        ((400, 225), 500),  # cropped above and below
        ((300, 400), 500),  # turned
        ((200, 150), 250),  # scaled
        ((150, 200), 250),
        ((201, 150), math.hypot(201, 150)),  # scaled and rounded
        ((200, 200), None),  # cropped on all sides, or cropped and scaled
        ((300, 200), None),
        ((400, 400), None),  # a stitched photo keeps the tags of its first part
    ],
)
def test_focal_length_of_a_cropped_photo(tmp_path: Path, size: tuple[int, int], whole: float | None):
    film = camera_tags(tagged(tmp_path, {FOCAL_35: 30, WIDTH: 400, HEIGHT: 300}, size=size)).focal_px
    assert film == (None if whole is None else pytest.approx(30 / 43.27 * whole))
    plane = {FOCAL: IFDRational(6), RESOLUTION: IFDRational(60), UNIT: 4, WIDTH: 400, HEIGHT: 300}
    focal = camera_tags(tagged(tmp_path, plane, size=size)).focal_px
    assert focal == (None if whole is None else pytest.approx(360 * whole / 500, rel=5e-3))


def test_copy_of_a_cropped_photo_claims_no_focal_length_of_the_whole(tmp_path: Path):
    for size, expected in (((400, 300), 30 / 43.27 * 500), ((200, 300), None)):
        image = tagged(tmp_path, {FOCAL_35: 30, WIDTH: 400, HEIGHT: 300}, size=size)
        encoded = exif_for_copy(image, (size[1], size[0]))
        assert encoded is not None
        Image.new("RGB", size).save(tmp_path / "copy.jpg", exif=encoded)
        focal = camera_tags(Image.open(tmp_path / "copy.jpg")).focal_px
        assert focal == (None if expected is None else pytest.approx(expected))


def test_camera_id_tells_cameras_apart(tmp_path: Path):
    def camera_id(focal: int, lens: str, model: str = "M") -> str | None:
        return camera_tags(
            tagged(tmp_path, {FOCAL: IFDRational(focal), LENS: lens}, size=(80, 60), tag271="Maker", tag272=model)
        ).camera_id

    same = camera_id(35, "L")
    assert same is not None and same == camera_id(35, "L")
    assert len({same, camera_id(50, "L"), camera_id(35, "K"), camera_id(35, "L", "N")}) == 4
    assert camera_tags(tagged(tmp_path, {FOCAL: IFDRational(35)})).camera_id is None
    assert camera_tags(tagged(tmp_path, {}, tag271="Maker", tag272="M")).camera_id is None


@pytest.mark.parametrize("value", [0, 9, 77])
def test_invalid_orientation_is_upright(tmp_path: Path, value: int):
    assert orientation_of(tagged(tmp_path, {}, tag274=value, size=(40, 30))) == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_counts_as_absent(tmp_path: Path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff garbage")
    tags = camera_tags(Image.open(tmp_path / "a.jpg"))
    assert (tags.orientation, tags.focal_px, tags.camera_id) == (1, None, None)


def test_copy_keeps_camera_and_position_but_not_orientation(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112], exif[0x0110], exif[0x0111] = 6, "Model", 1234
    exif.get_ifd(EXIF_IFD).update({FOCAL_35: 28, WIDTH: 40, HEIGHT: 30, 0x927C: b"\0" * 60000})
    exif.get_ifd(GPS_IFD).update({1: "N", 2: (48.0, 30.0, 0.0)})
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    copied = Image.Exif()
    encoded = exif_for_copy(Image.open(tmp_path / "a.jpg"), (40, 30))
    assert encoded is not None
    copied.load(encoded)
    camera = copied.get_ifd(EXIF_IFD)
    assert copied[0x0110] == "Model"
    assert 0x0112 not in copied and 0x0111 not in copied
    assert (camera[FOCAL_35], camera[WIDTH], camera[HEIGHT]) == (28, 30, 40)
    assert copied.get_ifd(GPS_IFD)[2] == (48.0, 30.0, 0.0)


def test_copy_of_a_photo_without_exif_has_none():
    assert exif_for_copy(Image.new("RGB", (40, 30)), (30, 40)) is None
