import json

import numpy as np
import plyfile
import pytest
from PIL import Image

from flarecli.errors import InputError
from flarecli.export.transforms_json import read_transforms, write_transforms
from flarecli.geometry.projection import project


def test_round_trip(synthetic, tmp_path):
    write_transforms(synthetic.reconstruction, tmp_path)
    for path in (tmp_path, tmp_path / "transforms.json"):
        names, cameras = read_transforms(path)
        assert names == synthetic.reconstruction.image_names
        np.testing.assert_allclose(cameras.c2w, synthetic.reconstruction.cameras.c2w, atol=1e-12)
        np.testing.assert_array_equal(cameras.K, synthetic.reconstruction.cameras.K)
        np.testing.assert_array_equal(cameras.size_hw, synthetic.reconstruction.cameras.size_hw)


def test_frames_and_points_agree_in_the_file_alone(synthetic, scene):
    """Project sparse_pc.ply as nerfstudio does: OpenGL cameras in the file's world must see the points' colours."""
    meta = json.loads((scene / "transforms.json").read_text())
    data = plyfile.PlyData.read(scene / meta["ply_file_path"])["vertex"].data
    xyz = np.stack([data[axis] for axis in "xyz"], 1).astype(np.float64)
    rgb = np.stack([data[channel] for channel in ("red", "green", "blue")], 1)[:200]
    tracks = synthetic.reconstruction.tracks
    np.testing.assert_array_equal(rgb, tracks.rgb)
    for view, frame in enumerate(meta["frames"]):
        w2c = np.linalg.inv(np.array(frame["transform_matrix"]))
        cam = xyz[:200] @ w2c[:3, :3].T + w2c[:3, 3]
        seen = tracks.view_index == view
        index = tracks.point_index[seen]
        x = frame["fl_x"] * cam[index, 0] / -cam[index, 2] + frame["cx"]
        y = frame["fl_y"] * -cam[index, 1] / -cam[index, 2] + frame["cy"]
        np.testing.assert_allclose(np.stack([x, y], 1), tracks.pixel[seen], atol=1e-3)


def test_rules_of_the_nerfstudio_parser(scene):
    meta = json.loads((scene / "transforms.json").read_text())
    assert meta["camera_model"] == "OPENCV"
    # (x, y, z) -> (x, z, -y), and both keys there, or the parser asks a question or assumes another matrix.
    assert meta["applied_transform"] == [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]]
    assert (scene / meta["ply_file_path"]).is_file()
    per_frame = {"fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "p1", "p2"}
    for frame in meta["frames"]:
        assert per_frame <= set(frame) and not per_frame & set(meta)
        assert (scene / frame["file_path"]).is_file()
        rotation = np.array(frame["transform_matrix"])[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) > 0


def test_up_of_the_file_is_up_in_the_photos(synthetic, tmp_path):
    write_transforms(synthetic.reconstruction, tmp_path)
    first = np.array(json.loads((tmp_path / "transforms.json").read_text())["frames"][0]["transform_matrix"])
    np.testing.assert_allclose(first[:3, 1], [0, 0, 1], atol=1e-12)


def test_masks_for_all_frames_or_none(synthetic, tmp_path):
    (tmp_path / "masks").mkdir()
    for view in range(3):
        (tmp_path / "masks" / f"photo_{view:02d}.png").touch()

    def frames():
        write_transforms(synthetic.reconstruction, tmp_path)
        return json.loads((tmp_path / "transforms.json").read_text())["frames"]

    assert not any("mask_path" in frame for frame in frames())
    (tmp_path / "masks" / "photo_03.png.png").touch()
    assert [frame["mask_path"] for frame in frames()][2:] == ["masks/photo_02.png", "masks/photo_03.png.png"]


def file_with(tmp_path, meta):
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(meta))
    return path


FRAME = {"file_path": "./images/a.png", "transform_matrix": np.eye(4).tolist()}


def test_global_intrinsics_distortion_and_scale(tmp_path):
    turned = np.diag([1.0, 1, 1, 1])
    turned[:3, 3] = 2, 4, 6
    meta = {
        "fl_x": 50,
        "cx": 30,
        "cy": 20,
        "w": 64,
        "h": 48,
        "k1": 0.1,
        "applied_scale": 2,
        "frames": [FRAME | {"transform_matrix": turned.tolist()}],
    }
    names, cameras = read_transforms(file_with(tmp_path, meta))
    assert names == ("a.png",) and cameras.k1 is not None and cameras.k1[0] == 0.1
    np.testing.assert_array_equal(cameras.K[0], [[50, 0, 30], [0, 50, 20], [0, 0, 1]])
    np.testing.assert_allclose(cameras.centers[0], [1, 2, 3])
    # An OpenGL camera at the origin looks along -z.
    pixel, depth = project(np.array([[1, 2, -7.0]]), cameras.w2c[0], cameras.K[0])
    np.testing.assert_allclose([*pixel[0], depth[0]], [30, 20, 10])


def test_field_of_view_and_size_from_the_image(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images/a.png")
    _, cameras = read_transforms(file_with(tmp_path, {"camera_angle_x": np.pi / 2, "frames": [FRAME]}))
    np.testing.assert_allclose(cameras.K[0], [[32, 0, 32], [0, 32, 24], [0, 0, 1]])
    assert tuple(cameras.size_hw[0]) == (48, 64)


MIRROR = np.diag([1.0, 1, -1, 1]).tolist()


@pytest.mark.parametrize(
    "meta",
    [
        [],
        {},
        {"frames": []},
        {"frames": [1]},
        {"frames": [FRAME]},
        {"frames": [FRAME], "w": 4, "h": 4},
        {"frames": [FRAME], "w": 4, "h": 4, "fl_x": -1},
        {"frames": [FRAME], "w": 0, "h": 4, "fl_x": 1},
        {"frames": [FRAME], "w": "x", "h": 4, "fl_x": 1},
        {"frames": [FRAME], "w": 4, "h": 4, "fl_x": 1, "applied_transform": np.zeros((3, 4)).tolist()},
        {"frames": [FRAME], "w": 4, "h": 4, "fl_x": 1, "applied_scale": 0},
        {"frames": [FRAME | {"transform_matrix": MIRROR}], "w": 4, "h": 4, "fl_x": 1},
        {"frames": [FRAME | {"transform_matrix": [[1]]}], "w": 4, "h": 4, "fl_x": 1},
        {"frames": [FRAME | {"file_path": 3}], "w": 4, "h": 4, "fl_x": 1},
    ],
)
def test_malformed(tmp_path, meta):
    with pytest.raises(InputError, match=r"transforms\.json"):
        read_transforms(file_with(tmp_path, meta))


def test_no_json(tmp_path):
    (tmp_path / "transforms.json").write_text("{")
    with pytest.raises(InputError, match="can't be read"):
        read_transforms(tmp_path)
