import dataclasses
import io

import numpy as np
import plyfile
import pytest

from flarecli.errors import InputError
from flarecli.export.ply import (
    load_gaussians_ply,
    point_vertices,
    read_ply,
    read_points_ply,
    write_gaussians_ply,
    write_ply,
    write_points_ply,
)
from tests.synthetic import make_gaussians

ORDER = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
TAIL = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_gaussians_as_plyfile_sees_them(tmp_path, degree):
    gaussians = make_gaussians(30, degree)
    assert write_gaussians_ply(gaussians, tmp_path / "g.ply") == 0
    ply = plyfile.PlyData.read(tmp_path / "g.ply")
    assert not ply.text and ply.byte_order == "<"
    data = ply["vertex"].data
    num_rest = 3 * ((min(degree, 3) + 1) ** 2 - 1)
    assert list(data.dtype.names) == [*ORDER, *(f"f_rest_{i}" for i in range(num_rest)), *TAIL]
    assert {data.dtype[name] for name in data.dtype.names} == {np.dtype("<f4")}
    np.testing.assert_allclose(1 / (1 + np.exp(-data["opacity"])), gaussians.opacities, rtol=1e-5)
    np.testing.assert_allclose(np.exp(data["scale_1"]), gaussians.scales[:, 1], rtol=1e-5)
    np.testing.assert_allclose(data["rot_0"], gaussians.quats_wxyz[:, 0], atol=1e-6)
    np.testing.assert_array_equal(data["f_dc_2"], gaussians.sh[:, 0, 2])
    if num_rest:
        per_channel = num_rest // 3
        # All red coefficients come first: the second of them is f_rest_1, the first green one f_rest_{per_channel}.
        np.testing.assert_array_equal(data["f_rest_1"], gaussians.sh[:, 2, 0])
        np.testing.assert_array_equal(data[f"f_rest_{per_channel}"], gaussians.sh[:, 1, 1])
    assert any("OpenCV" in line for line in ply.comments)


@pytest.mark.parametrize("degree", [0, 2, 3])
def test_gaussians_round_trip(tmp_path, degree):
    gaussians = make_gaussians(30, degree)
    write_gaussians_ply(gaussians, tmp_path / "g.ply")
    loaded = load_gaussians_ply(tmp_path / "g.ply")
    assert (loaded.dropped, loaded.looks_activated, loaded.gaussians.sh_degree) == (0, False, degree)
    for name in ("means", "scales", "quats_wxyz", "opacities", "sh"):
        np.testing.assert_allclose(getattr(loaded.gaussians, name), getattr(gaussians, name), rtol=2e-5, atol=1e-6)


def test_padding_and_saturated_opacity(tmp_path):
    gaussians = dataclasses.replace(make_gaussians(3, 1), opacities=np.array([0, 1, 0.5]))
    write_gaussians_ply(gaussians, tmp_path / "g.ply", pad_degree=3)
    data = plyfile.PlyData.read(tmp_path / "g.ply")["vertex"].data
    assert sum(name.startswith("f_rest_") for name in data.dtype.names) == 45
    assert np.isfinite(data["opacity"]).all() and data["opacity"][2] == 0
    np.testing.assert_array_equal(data["f_rest_15"], gaussians.sh[:, 1, 1])
    np.testing.assert_array_equal(data["f_rest_14"], 0)


def foreign_gaussians(path, **columns):
    """A file of another program: no normals, no comments."""
    names = [name for name in ORDER if name[0] != "n"] + TAIL
    rows = np.zeros(4, [(name, "f4") for name in names])
    rows["rot_0"], rows["scale_0"], rows["opacity"] = 1, -3, [-2, 0.5, 1, 3]
    for name, values in columns.items():
        rows[name] = values
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")]).write(path)


def test_activated_opacity_and_rows_that_are_not_finite(tmp_path):
    foreign_gaussians(tmp_path / "a.ply")
    assert not load_gaussians_ply(tmp_path / "a.ply").looks_activated
    foreign_gaussians(tmp_path / "b.ply", opacity=[0.1, 0.5, 1, 0])
    activated = load_gaussians_ply(tmp_path / "b.ply")
    assert activated.looks_activated
    np.testing.assert_allclose(activated.gaussians.opacities, [0.1, 0.5, 1, 0])
    foreign_gaussians(tmp_path / "c.ply", x=[np.nan, 0, 0, 0], scale_1=[0, np.inf, 0, 0], rot_0=[1, 1, 0, 2])
    loaded = load_gaussians_ply(tmp_path / "c.ply")
    assert (len(loaded.gaussians), loaded.dropped) == (1, 3)
    np.testing.assert_array_equal(loaded.gaussians.quats_wxyz, [[1, 0, 0, 0]])


def test_missing_properties(tmp_path):
    write_ply(tmp_path / "p.ply", point_vertices(np.zeros((1, 3)), np.zeros((1, 3))))
    with pytest.raises(InputError, match="no Gaussians: f_dc_0"):
        load_gaussians_ply(tmp_path / "p.ply")


def test_points_as_plyfile_sees_them(synthetic, tmp_path):
    points = synthetic.reconstruction.points
    (path,) = write_points_ply(synthetic.reconstruction, tmp_path)
    data = plyfile.PlyData.read(path)["vertex"].data
    np.testing.assert_array_equal(np.stack([data[a] for a in "xyz"], 1), points.xyz)
    np.testing.assert_array_equal(data["green"], points.rgb[:, 1])
    np.testing.assert_array_equal(data["confidence"], points.confidence)
    xyz, rgb = read_points_ply(path)
    np.testing.assert_array_equal(xyz, points.xyz)
    assert rgb is not None
    np.testing.assert_array_equal(rgb, points.rgb)


@pytest.mark.parametrize(("text", "order"), [(True, "="), (False, "<"), (False, ">")])
def test_files_of_plyfile_in_every_encoding(tmp_path, text, order):
    rows = np.array(
        [(1.5, -2, 3, 255, 0, 7), (0, 0, 1e-3, 1, 2, 3)],
        [(n, "f8") for n in "xyz"] + [(n, "u1") for n in ("red", "green", "blue")],
    )
    faces = np.array([([0, 1, 0],)], [("vertex_indices", "i4", (3,))])
    elements = [plyfile.PlyElement.describe(rows, "vertex"), plyfile.PlyElement.describe(faces, "face")]
    plyfile.PlyData(elements, text=text, byte_order=order, comments=["hello there"]).write(tmp_path / "p.ply")
    ply = read_ply(tmp_path / "p.ply")
    assert ply.comments == ("hello there",) and ply.counts == {"vertex": 2, "face": 1}
    xyz, rgb = read_points_ply(tmp_path / "p.ply")
    np.testing.assert_allclose(xyz, [[1.5, -2, 3], [0, 0, 1e-3]])
    np.testing.assert_array_equal(rgb, [[255, 0, 7], [1, 2, 3]])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plx\nend_header\n",
        b"ply\nformat binary_little_endian 1.0\nelement vertex 1000000000000\nproperty float x\nend_header\n1234",
        b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n1 2\n",
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\nabc\n",
        b"ply\nformat ascii 1.0\nelement vertex -1\nproperty float x\nend_header\n",
        b"ply\nformat odd 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n",
        b"ply\nformat ascii 1.0\nelement face 1\nproperty int v\nelement vertex 1\nproperty float x\nend_header\n1 1\n",
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int v\nend_header\n1 1\n",
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty quad x\nend_header\n1\n",
        b"ply\nformat ascii 1.0\nelement vertex\nproperty float x\nend_header\n1\n",
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float x\nend_header\n1 1\n",
    ],
)  # fmt: skip
def test_malformed_files(tmp_path, data):
    (tmp_path / "p.ply").write_bytes(data)
    with pytest.raises(InputError, match=r"p\.ply"):
        read_ply(tmp_path / "p.ply")


def test_faces_and_dropped_points(tmp_path):
    vertices = point_vertices(np.array([[0, 0, 0], [np.nan, 0, 0], [1, 0, 0], [0, 1, 0]]), np.zeros((4, 3)))
    assert len(vertices) == 3
    write_ply(tmp_path / "m.ply", vertices, faces=np.array([[0, 1, 2]]))
    ply = plyfile.PlyData.read(io.BytesIO((tmp_path / "m.ply").read_bytes()))
    assert [list(face) for face in ply["face"]["vertex_indices"]] == [[0, 1, 2]]
    with pytest.raises(InputError, match="can't be read"):
        read_ply(tmp_path / "absent.ply")
