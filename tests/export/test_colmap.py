import dataclasses
import hashlib

import numpy as np
import pycolmap
import pytest
from PIL import Image

from flarecli.errors import OutputExists
from flarecli.export.colmap import write_colmap, write_colmap_text
from flarecli.export.colmap_read import read_colmap
from flarecli.scene.cameras import Cameras
from flarecli.scene.reconstruction import Tracks
from tests.synthetic import make_scene

FORMS = ("cameras", "images", "points3D", "rigs", "frames")


@pytest.fixture
def two_lenses(synthetic):
    """Photos 0 and 1 share a camera; 2 has another focal length and a folder; 3 has the same K and another size."""
    base = synthetic.reconstruction
    K = base.cameras.K.copy()
    K[2, 0, 0] += 1e-9
    size = base.cameras.size_hw.copy()
    size[3] += 2
    names = (*base.image_names[:2], "sub_folder/é.png", base.image_names[3])
    cameras = Cameras(base.cameras.c2w, K, size)
    return dataclasses.replace(base, cameras=cameras, image_names=names)


@pytest.mark.parametrize("write", [write_colmap, write_colmap_text])
def test_pycolmap_reads_what_was_written(two_lenses, tmp_path, write):
    paths = write(two_lenses, tmp_path)
    assert {p.stem for p in paths} == set(FORMS) and len({p.suffix for p in paths}) == 1
    model = pycolmap.Reconstruction(str(paths[0].parent))
    assert model.is_valid()
    assert (model.num_cameras(), model.num_images(), model.num_reg_images()) == (3, 4, 4)
    assert model.num_points3D() == len(two_lenses.tracks)
    for view, name in enumerate(two_lenses.image_names):
        image = model.image(view + 1)
        assert image.name == name
        np.testing.assert_allclose(image.cam_from_world().matrix(), two_lenses.cameras.w2c[view, :3], atol=1e-12)
        camera = model.camera(image.camera_id)
        assert camera.model_name == "PINHOLE"
        assert (camera.height, camera.width) == tuple(two_lenses.cameras.size_hw[view])
        np.testing.assert_array_equal(camera.calibration_matrix(), two_lenses.cameras.K[view])
    tracks = two_lenses.tracks
    for index in (0, len(tracks) - 1):
        point = model.points3D[index + 1]
        np.testing.assert_array_equal(point.xyz, tracks.xyz[index])
        np.testing.assert_array_equal(point.color, tracks.rgb[index])
        seen = {(e.image_id - 1, *model.image(e.image_id).points2D[e.point2D_idx].xy) for e in point.track.elements}
        mine = tracks.point_index == index
        assert seen == {(v, *p) for v, p in zip(tracks.view_index[mine], tracks.pixel[mine], strict=True)}
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() < 1e-6


def test_stored_errors_are_those_that_pycolmap_computes(tmp_path):
    noisy = make_scene(3, (48, 64), num_tracks=60, noise_px=0.7).reconstruction
    write_colmap(noisy, tmp_path)
    model = pycolmap.Reconstruction(str(tmp_path / "sparse/0"))
    stored = np.array([model.points3D[i + 1].error for i in range(len(noisy.tracks))])
    model.update_point_3d_errors()
    computed = np.array([model.points3D[i + 1].error for i in range(len(noisy.tracks))])
    assert computed.mean() > 0.5
    np.testing.assert_allclose(stored, computed, atol=1e-6)


@pytest.mark.parametrize("write", [write_colmap, write_colmap_text])
def test_round_trip_through_our_reader(two_lenses, tmp_path, write):
    folder = write(two_lenses, tmp_path)[0].parent
    model = read_colmap(folder)
    assert model.names == two_lenses.image_names and model.warnings == ()
    np.testing.assert_allclose(model.cameras.c2w, two_lenses.cameras.c2w, atol=1e-12)
    np.testing.assert_array_equal(model.cameras.K, two_lenses.cameras.K)
    np.testing.assert_array_equal(model.cameras.size_hw, two_lenses.cameras.size_hw)
    assert model.tracks is not None
    np.testing.assert_array_equal(model.tracks.xyz, two_lenses.tracks.xyz)

    def rows(tracks: Tracks):
        order = np.lexsort((tracks.view_index, tracks.point_index))
        return np.c_[tracks.point_index, tracks.view_index, tracks.pixel][order]

    np.testing.assert_array_equal(rows(model.tracks), rows(two_lenses.tracks))


def test_found_from_the_scene_folder_and_writing_changes_nothing(synthetic, tmp_path):
    def digest():
        parts = (synthetic.reconstruction.cameras.K, synthetic.reconstruction.tracks.pixel)
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()

    before = digest()
    write_colmap(synthetic.reconstruction, tmp_path)
    assert digest() == before
    assert len(read_colmap(tmp_path).names) == 4


def test_rules_of_the_gsplat_parser(written_once):
    """It zips two sorted listings, rescales all cameras by the first image's size, and loads through pycolmap."""
    model = pycolmap.Reconstruction(str(written_once / "sparse/0"))
    pictures = sorted(p.relative_to(written_once / "images").as_posix() for p in (written_once / "images").rglob("*"))
    assert pictures == sorted(image.name for image in model.images.values())
    for image in model.images.values():
        camera = model.cameras[image.camera_id]
        with Image.open(written_once / "images" / image.name) as picture:
            assert picture.size == (camera.width, camera.height)
        assert camera.model_name == "PINHOLE"


def test_stale_twins(synthetic, tmp_path):
    folder = tmp_path / "sparse" / "0"
    folder.mkdir(parents=True)
    (folder / "points3D.ply").write_text("cache")
    write_colmap(synthetic.reconstruction, tmp_path)
    assert {p.name for p in folder.iterdir()} == {f"{form}.bin" for form in FORMS}
    (folder / "images.txt").write_text("")
    with pytest.raises(OutputExists, match=r"images\.txt"):
        write_colmap(synthetic.reconstruction, tmp_path)


def test_names_with_spaces(synthetic, tmp_path):
    names = ("a b.png", *synthetic.reconstruction.image_names[1:])
    spaced = dataclasses.replace(synthetic.reconstruction, image_names=names)
    assert write_colmap_text(spaced, tmp_path) == []
    folder = write_colmap(spaced, tmp_path)[0].parent
    assert pycolmap.Reconstruction(str(folder)).image(1).name == "a b.png" == read_colmap(folder).names[0]


def test_no_tracks(synthetic, tmp_path):
    empty = Tracks(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, 2)))
    bare = dataclasses.replace(synthetic.reconstruction, tracks=empty)
    for folder in (write_colmap(bare, tmp_path)[0].parent, write_colmap_text(bare, tmp_path)[0].parent):
        assert pycolmap.Reconstruction(str(folder)).num_images() == 4
        model = read_colmap(folder)
        assert model.tracks is None and len(model.names) == 4
