"""The example photos are what their truth says, and the example scripts do what their docstrings say."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from flarecli import load_photos

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("0*"))
TRUTH = json.loads((EXAMPLES / "truth/cameras.json").read_text())


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The scene of 01_reconstruct.py, made once."""
    folder = tmp_path_factory.mktemp("examples") / "scene"
    load_script("01_reconstruct.py").main(output=folder)
    return folder


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_says_what_it_shows_needs_and_prints(name):
    text = (EXAMPLES / name).read_text()
    assert all(re.search(rf"^(# )?{word}: \S", text, re.M) for word in ("Shows", "Needs", "Prints"))
    assert len(text.splitlines()) < 60
    assert name in (EXAMPLES / "README.md").read_text()


def test_photos_carry_their_true_focal_length_and_orientation():
    photos = load_photos([EXAMPLES / "photos"]).photos
    assert [photo.name for photo in photos] == [camera["name"] for camera in TRUTH["images"]]
    assert {photo.orientation for photo in photos} == {1, 6, 8}
    for photo, camera in zip(photos, TRUTH["images"], strict=True):
        assert photo.size_hw == (camera["height"], camera["width"])
        assert photo.exif_focal_px == pytest.approx(camera["K"][0][0], rel=2e-3)
    assert len({photo.camera_id for photo in photos}) == 1


def test_true_depth_warps_every_photo_onto_its_neighbour():
    with np.load(EXAMPLES / "truth/depth.npz") as archive:
        depth = {name: archive[name].astype(np.float64) for name in archive.files}
    for here, there in zip(TRUTH["images"], TRUTH["images"][1:], strict=False):
        uv, z, colour = warp(here, there, depth[here["name"]])
        measured, grey = nearest(depth[there["name"]], uv, there), nearest(luminance(there), uv, there)
        visible = np.abs(measured - z) < 0.02 * z
        assert visible.mean() > 0.6, (here["name"], there["name"])
        assert np.median(np.abs(measured - z)[visible] / z[visible]) < 2e-3
        # Turned the wrong way, or with a camera of another photo, the grey values would not be alike.
        assert np.corrcoef(colour[visible], grey[visible])[0, 1] > 0.8


def luminance(camera):
    with Image.open(EXAMPLES / "photos" / camera["name"]) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("L").reduce(4), np.float64)


def warp(here, there, depth):
    """Pixels and depth in the other photo of every pixel that lands inside it, with its grey value here."""
    height, width = depth.shape
    scale = here["width"] / width
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([columns * scale, rows * scale, np.ones_like(rows)], -1) @ np.linalg.inv(here["K"]).T
    world = ((rays * depth[..., None])[depth > 0] - here["t"]) @ np.array(here["R"])
    camera = world @ np.array(there["R"]).T + there["t"]
    uv = camera @ np.array(there["K"]).T
    uv = uv[:, :2] / uv[:, 2:]
    inside = ((uv > 0) & (uv < [there["width"], there["height"]])).all(-1)
    return uv[inside], camera[inside, 2], luminance(here)[depth > 0][inside]


def nearest(image, uv, camera):
    scale = image.shape[1] / camera["width"]
    index = np.minimum((uv * scale).astype(int), [image.shape[1] - 1, image.shape[0] - 1])
    return image[index[:, 1], index[:, 0]]


def test_the_folder_stays_small():
    files = [path for part in ("photos", "truth") for path in (EXAMPLES / part).iterdir()]
    assert sum(path.stat().st_size for path in files) < 6e6


@pytest.mark.slow
def test_01_gives_every_photo_a_verified_camera(scene):
    manifest = json.loads((scene / "flare.json").read_text())
    assert [photo["status"] for photo in manifest["photos"]] == ["verified"] * 8


@pytest.mark.slow
def test_02_comes_back_from_colmap_unchanged(scene, tmp_path):
    copy = shutil.copytree(scene, tmp_path / "scene")
    shutil.rmtree(copy / "sparse")
    assert load_script("02_export_to_colmap_and_back.py").main(copy) < 1e-9


@pytest.mark.slow
def test_03_measures_an_accurate_scene(scene):
    numbers = load_script("03_measure_poses.py").main(scene)
    assert numbers["registered"] == 8
    assert numbers["AUC@5"] > 90
    assert numbers["focal_error_percent"] < 1
    assert numbers["depth"] is not None


@pytest.mark.slow
def test_04_makes_one_scene_per_folder_and_keeps_it(tmp_path):
    photos = sorted((EXAMPLES / "photos").iterdir())
    for name, chosen in {"left": photos[:3], "right": photos[4:7]}.items():
        (tmp_path / name).mkdir()
        for photo in chosen:
            shutil.copy(photo, tmp_path / name)
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [str(EXAMPLES / "04_batch.sh"), "out", "left", "right"]
    for _ in range(2):
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PATH": search}, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "left: ok" in done.stdout and "right: ok" in done.stdout
    rows = json.loads((tmp_path / "out.json").read_text())["scenes"]
    assert all(row["resumed"] for row in rows)


def test_04_reads_names_with_commas_and_quotes(tmp_path):
    scenes = [{"name": 'attic, "left"', "hint": "a, b", "status": "ok", "seconds": 1.5}]
    (tmp_path / "flare").write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps({'scenes': scenes})}\nEND\nexit 6\n")
    (tmp_path / "flare").chmod(0o755)
    done = subprocess.run(
        [str(EXAMPLES / "04_batch.sh"), str(tmp_path / "out"), "any"],
        env=os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (6, "")
    assert done.stdout.splitlines() == ['attic, "left": ok, 1.5 s', "some scenes are partial or failed"]


def test_04_says_how_it_is_called():
    done = subprocess.run([str(EXAMPLES / "04_batch.sh")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage" in done.stderr


@pytest.mark.slow
def test_05_trains_and_says_the_losses(tmp_path):
    rows = load_script("05_train_small.py").main(tmp_path / "run", 2)
    assert rows[-1]["step"] == 2
    assert all(np.isfinite(row["pose_refined"]) for row in rows)
