import pytest

from flarecli.errors import InputError
from flarecli.export.colmap import write_colmap, write_colmap_text
from flarecli.export.colmap_raw import read_colmap_raw


@pytest.mark.parametrize("form", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("keep", [0, 4, 30, 0.5, -1])
def test_truncated_binary(synthetic, tmp_path, form, keep):
    folder = write_colmap(synthetic.reconstruction, tmp_path)[0].parent
    path = folder / f"{form}.bin"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))] if isinstance(keep, float) else data[:keep])
    with pytest.raises(InputError, match=f"{form}.bin is damaged"):
        read_colmap_raw(folder)


@pytest.mark.parametrize("form", ["cameras", "images", "points3D"])
def test_hostile_counts_allocate_nothing(synthetic, tmp_path, form):
    folder = write_colmap(synthetic.reconstruction, tmp_path)[0].parent
    path = folder / f"{form}.bin"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    with pytest.raises(InputError, match="announces"):
        read_colmap_raw(folder)


@pytest.mark.parametrize(
    ("form", "old", "new"),
    [
        ("cameras", " 128 ", " nan "),
        ("cameras", "1 PINHOLE", "7 PINHOLE"),
        ("images", "photo_00.png", ""),
        ("images", "1.0 ", "x "),
        ("points3D", "1 ", "-1 "),
    ],
)
def test_malformed_text(synthetic, tmp_path, form, old, new):
    folder = write_colmap_text(synthetic.reconstruction, tmp_path)[0].parent
    path = folder / f"{form}.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match="damaged"):
        read_colmap_raw(folder)


@pytest.mark.parametrize("write", [write_colmap, write_colmap_text])
def test_unknown_lens_models_are_named_with_a_way_out(synthetic, tmp_path, write):
    path = write(synthetic.reconstruction, tmp_path)[0]
    data = path.read_bytes()
    if path.suffix == ".bin":
        path.write_bytes(data[:12] + (6).to_bytes(4, "little") + data[16:])
    else:
        path.write_bytes(data.replace(b"PINHOLE", b"FULL_OPENCV"))
    with pytest.raises(
        InputError, match=r"cameras\.(bin has the camera model 6|txt has the camera model FULL_OPENCV)"
    ) as raised:
        read_colmap_raw(path.parent)
    assert "image_undistorter" in raised.value.hint
