import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import plyfile
import pytest

from flarecli.errors import InputError
from flarecli.export.colmap import write_colmap
from flarecli.export.inspect import inspect_path
from flarecli.export.ply import write_ply
from flarecli.export.sog import write_sog
from flarecli.export.splat import write_splat
from flarecli.export.spz import write_spz
from flarecli.geometry.transforms import rigid
from tests.synthetic import make_gaussians


def problems(report) -> dict[str, str]:
    return {f["message"]: f["level"] for f in report["findings"] if f["level"] != "ok"}


def model_of(reconstruction, folder, **changes):
    cameras = dataclasses.replace(reconstruction.cameras, **changes)
    write_colmap(dataclasses.replace(reconstruction, cameras=cameras), folder)
    return inspect_path(folder / "sparse/0")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "scene"),
        ("sparse/0", "colmap"),
        ("sparse_text/0", "colmap"),
        ("transforms.json", "transforms"),
        ("points.ply", "points"),
        ("gaussians.ply", "gaussians"),
        ("mesh.ply", "mesh"),
    ],
)
def test_our_own_files_are_fine(scene, name, kind):
    report = inspect_path(scene / name)
    assert (report["kind"], report["level"]) == (kind, "ok"), problems(report)
    json.dumps(report, allow_nan=False)


def test_counts_of_a_model(synthetic, scene):
    report, tracks = inspect_path(scene / "sparse/0"), synthetic.reconstruction.tracks
    assert (report["images"], report["cameras"], report["points"]) == (4, 1, len(tracks))
    assert report["observations"] == len(tracks.point_index)
    lengths = np.bincount(np.bincount(tracks.point_index))
    assert report["track_lengths"] == {str(n): int(c) for n, c in enumerate(lengths) if c}
    assert report["reprojection_px"] < 1e-6


def test_world_to_camera_written_as_camera_to_world(synthetic, tmp_path):
    report = model_of(synthetic.reconstruction, tmp_path, c2w=synthetic.reconstruction.cameras.w2c)
    assert report["level"] == "bad"
    assert any("reprojection" in message for message in problems(report))


def test_opengl_axes(synthetic, tmp_path):
    turned = synthetic.reconstruction.cameras.c2w @ np.diag([1, -1, -1, 1.0])
    messages = problems(model_of(synthetic.reconstruction, tmp_path, c2w=turned))
    assert any("all points are behind all cameras" in message for message in messages)


def test_one_camera_that_looks_away(synthetic, tmp_path):
    c2w = synthetic.reconstruction.cameras.c2w.copy()
    c2w[2] = rigid(c2w[2, :3, :3] @ np.diag([-1, 1, -1.0]), c2w[2, :3, 3])
    found = problems(model_of(synthetic.reconstruction, tmp_path, c2w=c2w))
    assert found["1 of 4 cameras look away from the points"] == "warn"


def test_principal_point_off_centre(synthetic, tmp_path):
    K = synthetic.reconstruction.cameras.K.copy()
    K[:, 0, 2] += 10
    found = problems(model_of(synthetic.reconstruction, tmp_path, K=K))
    assert any("principal point is off" in message and level == "warn" for message, level in found.items())


def test_images_missing_and_of_other_size(synthetic, scene):
    (scene / "images/photo_03.png").unlink()
    size = synthetic.reconstruction.cameras.size_hw + 1
    for path in (scene / "sparse/0").iterdir():
        path.unlink()
    bigger = dataclasses.replace(synthetic.reconstruction.cameras, size_hw=size)
    write_colmap(dataclasses.replace(synthetic.reconstruction, cameras=bigger), scene)
    messages = " ".join(problems(inspect_path(scene / "sparse/0")))
    assert "1 missing" in messages and "photo_03.png" in messages
    assert "3 sizes differ: photo_00.png is 128 x 96, its camera 129 x 97" in messages
    assert inspect_path(scene)["level"] == "bad"


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def change_last_byte(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("damage", [cut, change_last_byte, Path.unlink])
@pytest.mark.parametrize("name", ["scene.npz", "depth/photo_01.png.npz", "mesh.glb", "images/photo_02.png"])
def test_a_listed_file_that_is_not_as_it_was_written(scene, name, damage):
    damage(scene / name)
    report = inspect_path(scene)
    assert report["level"] == "bad"
    number = len(json.loads((scene / "flare.json").read_text())["files"])
    what = {"cut": "has", "change_last_byte": "has the right size and other content", "unlink": "is missing"}
    first = next(each for each in report["findings"] if each["check"] == "files are as flare.json lists them")
    assert first["message"].startswith(f"1 of {number} are not: {name} {what[damage.__name__]}")


def test_many_changed_files_are_counted(scene):
    for path in (scene / "depth").iterdir():
        cut(path)
    assert any("4 of " in message and message.endswith("; 1 more") for message in problems(inspect_path(scene)))


def test_damaged_parts_are_findings_beside_the_sound_ones(scene):
    cut(scene / "points.ply")
    cut(scene / "scene.npz")
    report = inspect_path(scene)
    checks = {each["check"]: each for each in report["findings"] if each["level"] == "bad"}
    assert set(checks) == {"files are as flare.json lists them", "points.ply", "scene.npz"}
    assert str(scene / "scene.npz") in checks["scene.npz"]["message"]
    assert report["parts"]["sparse/0"]["level"] == "ok"


def test_an_archive_alone(scene, tmp_path, synthetic):
    (tmp_path / "alone").mkdir()
    shutil.copy(scene / "scene.npz", tmp_path / "alone")
    report = inspect_path(tmp_path / "alone")
    assert report["parts"]["scene.npz"]["sparse_points"] == len(synthetic.reconstruction.tracks)
    assert report["level"] == "warn" and "unfinished" in " ".join(problems(report))
    cut(tmp_path / "alone" / "scene.npz")
    assert inspect_path(tmp_path / "alone")["level"] == "bad"


def test_a_manifest_with_entries_that_no_file_can_fit(scene):
    manifest = json.loads((scene / "flare.json").read_text())
    names = ("images", "x" * 300, "nul\0")
    manifest["files"] += [{"path": name, "bytes": 1, "sha256": ""} for name in names]
    (scene / "flare.json").write_text(json.dumps(manifest))
    (message,) = problems(inspect_path(scene))
    assert "3 of" in message and "images is missing" in message
    assert "xx can't be read: " in message


def test_quaternions_links_and_twins(synthetic, tmp_path):
    folder = write_colmap(synthetic.reconstruction, tmp_path)[0].parent
    data = bytearray((folder / "images.bin").read_bytes())
    data[12:44] = (3 * np.frombuffer(data[12:44])).tobytes()
    (folder / "images.bin").write_bytes(data)
    points = bytearray((folder / "points3D.bin").read_bytes())
    points[-4:] = np.uint32(10**6).tobytes()
    (folder / "points3D.bin").write_bytes(points)
    (folder / "cameras.txt").write_text("")
    (folder / "points3D.ply").write_text("")
    messages = " ".join(problems(inspect_path(folder)))
    for part in ("quaternions are not unit", "one-sided links", "binary and text", "points3D.ply is a cache"):
        assert part in messages


def test_activated_gaussians(scene, tmp_path):
    data = plyfile.PlyData.read(scene / "gaussians.ply")["vertex"].data.copy()
    data["opacity"], data["rot_1"] = 0.5, 3
    for axis in range(3):
        data[f"scale_{axis}"] = 0.01
    data["x"][0] = np.nan
    write_ply(tmp_path / "g.ply", data)
    found = problems(inspect_path(tmp_path / "g.ply"))
    messages = " ".join(found)
    for part in ("opacity looks activated", "scale looks linear", "quaternions are not unit", "1 rows are not finite"):
        assert part in messages
    assert inspect_path(tmp_path / "g.ply")["level"] == "bad"


@pytest.mark.parametrize("suffix", ["splat", "spz", "sog"])
def test_packed_gaussians(tmp_path, suffix):
    gaussians = make_gaussians(60, 0 if suffix == "splat" else 2)
    path = tmp_path / f"g.{suffix}"
    {"splat": write_splat, "spz": write_spz, "sog": write_sog}[suffix](gaussians, path)
    found = inspect_path(path)
    assert (found["kind"], found["gaussians"], found["level"]) == ("gaussians", 60, "ok")
    assert found["sh_degree"] == gaussians.sh_degree
    for i, axis in enumerate("xyz"):
        assert found["bounds"][axis] == pytest.approx(
            [gaussians.means[:, i].min(), gaussians.means[:, i].max()], abs=0.01
        )
    assert found["median_opacity"] == pytest.approx(np.median(gaussians.opacities), abs=0.01)
    faint = dataclasses.replace(gaussians, opacities=np.full(60, 1e-4))
    {"splat": write_splat, "spz": write_spz, "sog": write_sog}[suffix](faint, path)
    assert "nothing can be seen" in " ".join(problems(inspect_path(path)))


def test_a_splat_with_damaged_rows(tmp_path):
    write_splat(make_gaussians(5, 0), tmp_path / "g.splat")
    data = b"\xff" * 32 + (tmp_path / "g.splat").read_bytes()
    (tmp_path / "g.splat").write_bytes(data)
    found = inspect_path(tmp_path / "g.splat")
    assert found["level"] == "bad" and found["gaussians"] == 5
    assert "1 rows are not finite" in " ".join(problems(found))


def test_transforms_without_the_two_keys(scene):
    meta = json.loads((scene / "transforms.json").read_text())
    del meta["applied_transform"], meta["ply_file_path"]
    (scene / "transforms.json").write_text(json.dumps(meta))
    report = inspect_path(scene / "transforms.json")
    assert report["level"] == "warn" and len(problems(report)) == 2


def test_transforms_whose_points_were_not_turned(scene):
    meta = json.loads((scene / "transforms.json").read_text())
    meta["ply_file_path"] = "points.ply"
    (scene / "transforms.json").write_text(json.dumps(meta))
    assert inspect_path(scene / "transforms.json")["level"] in ("warn", "bad")


def test_fisheye_is_a_warning_in_a_text_model(scene):
    path = scene / "sparse_text/0/cameras.txt"
    path.write_text("1 OPENCV_FISHEYE 128 96 140 140 64 48 0.1 0 0 0\n")
    assert any("fisheye" in message for message in problems(inspect_path(path.parent)))


def test_unknown_things(tmp_path):
    (tmp_path / "a.txt").write_text("")
    for path in (tmp_path / "absent", tmp_path / "a.txt", tmp_path):
        with pytest.raises(InputError):
            inspect_path(path)
