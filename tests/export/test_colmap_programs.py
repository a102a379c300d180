"""The installed colmap program must run on what is written, as it is."""

import shutil
import sqlite3
import struct
import subprocess
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from flarecli.export.colmap import write_colmap
from flarecli.export.colmap_read import read_colmap
from tests.synthetic import SyntheticScene, make_scene

pytestmark = pytest.mark.skipif(shutil.which("colmap") is None, reason="the program colmap is not installed")


@pytest.fixture(scope="module")
def exact() -> SyntheticScene:
    return make_scene(4, (192, 256), num_tracks=300)


@pytest.fixture
def folder(exact: SyntheticScene, tmp_path: Path) -> Path:
    exact.write_images(tmp_path / "images")
    write_colmap(exact.reconstruction, tmp_path)
    (tmp_path / "out").mkdir()
    return tmp_path


def colmap(command: str, *options: object) -> str:
    done = subprocess.run(
        ["colmap", command, *map(str, options)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"QT_QPA_PLATFORM": "offscreen", "PATH": "/usr/bin:/usr/local/bin", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_bundle_adjuster_leaves_exact_cameras_where_they_are(folder, exact):
    colmap("bundle_adjuster", "--input_path", folder / "sparse/0", "--output_path", folder / "out")
    adjusted, true = read_colmap(folder / "out"), exact.reconstruction.cameras
    assert adjusted.names == exact.reconstruction.image_names
    assert np.abs(adjusted.cameras.c2w - true.c2w).max() < 1e-4
    assert np.abs(adjusted.cameras.focal_px / true.focal_px - 1).max() < 1e-4
    assert len(np.unique(adjusted.cameras.K[:, 0, 0])) == 1


def test_model_converter_and_analyzer(folder, exact):
    text = colmap("model_analyzer", "--path", folder / "sparse/0")
    assert "Registered images: 4" in text
    assert f"Points: {len(exact.reconstruction.tracks)}" in text
    assert f"Observations: {len(exact.reconstruction.tracks.point_index)}" in text
    colmap(
        "model_converter", "--input_path", folder / "sparse/0", "--output_path", folder / "out", "--output_type", "TXT"
    )
    converted = read_colmap(folder / "out")
    np.testing.assert_allclose(converted.cameras.c2w, exact.reconstruction.cameras.c2w, atol=1e-9)
    assert converted.tracks is not None and len(converted.tracks) == len(exact.reconstruction.tracks)


def test_image_undistorter(folder, exact):
    paths = ("--image_path", folder / "images", "--input_path", folder / "sparse/0", "--output_path", folder / "out")
    colmap("image_undistorter", *paths)
    undistorted = read_colmap(folder / "out" / "sparse")
    np.testing.assert_allclose(undistorted.cameras.c2w, exact.reconstruction.cameras.c2w, atol=1e-9)
    assert len(list((folder / "out" / "images").iterdir())) == 4


def fill_database(path: Path, exact: SyntheticScene) -> None:
    """Cameras, images, keypoints and pairwise matches of the tracks, as extractor and matcher would leave them."""
    tracks, cameras = exact.reconstruction.tracks, exact.reconstruction.cameras
    names = exact.reconstruction.image_names
    height, width = map(int, cameras.size_hw[0])
    K = cameras.K[0]
    slots = np.full((len(names), len(tracks)), -1)
    with sqlite3.connect(path) as db:
        params = struct.pack("<4d", K[0, 0], K[1, 1], K[0, 2], K[1, 2])
        db.execute("insert into cameras values (1, 1, ?, ?, ?, 1)", (width, height, params))
        for view, name in enumerate(names):
            db.execute("insert into images (image_id, name, camera_id) values (?, ?, 1)", (view + 1, name))
            mine = tracks.view_index == view
            slots[view, tracks.point_index[mine]] = np.arange(mine.sum())
            pixels = tracks.pixel[mine].astype("<f4")
            db.execute("insert into keypoints values (?, ?, 2, ?)", (view + 1, len(pixels), pixels.tobytes()))
        for a in range(len(names)):
            for b in range(a + 1, len(names)):
                both = (slots[a] >= 0) & (slots[b] >= 0)
                pairs = np.stack([slots[a, both], slots[b, both]], 1).astype("<u4")
                row = ((a + 1) * 2147483647 + b + 1, len(pairs), pairs.tobytes())
                db.execute("insert into matches values (?, ?, 2, ?)", row)
                db.execute(
                    "insert into two_view_geometries (pair_id, rows, cols, data, config) values (?, ?, 2, ?, 2)", row
                )


def test_point_triangulator(folder, exact):
    colmap("database_creator", "--database_path", folder / "db.db")
    fill_database(folder / "db.db", exact)
    colmap(
        "point_triangulator",
        *("--database_path", folder / "db.db", "--image_path", folder / "images"),
        *("--input_path", folder / "sparse/0", "--output_path", folder / "out"),
    )
    model = pycolmap.Reconstruction(str(folder / "out"))
    model.update_point_3d_errors()
    assert model.num_points3D() > 0.9 * len(exact.reconstruction.tracks)
    assert model.compute_mean_reprojection_error() < 1e-2
    moved = read_colmap(folder / "out").cameras.c2w - exact.reconstruction.cameras.c2w
    assert np.abs(moved).max() < 1e-4
