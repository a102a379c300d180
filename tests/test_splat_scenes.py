"""Scenes from the networks that predict Gaussians: photos to files, tiny untrained networks under their real names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flarecli.errors import InputError
from flarecli.export.archive import load_scene
from flarecli.export.gaussian_files import read_gaussians
from flarecli.geometry.projection import project
from flarecli.job import SceneJob, SceneResult
from flarecli.model import config
from flarecli.model.loading import network_builder
from flarecli.model.spec import Canvas
from flarecli.pipeline import run_scene
from tests.model.tiny import CONFIG, SPLAT_CONFIG
from tests.synthetic import make_scene

TINY = {
    "noposplat": (SPLAT_CONFIG, "heads.point_heads"),
    "spfsplatv2": (replace(SPLAT_CONFIG, pose="token", intrinsics="decoder"), "heads.point_heads"),
    "spfsplat-nointrin": (replace(SPLAT_CONFIG, pose="pooled", intrinsics="none"), "heads.point_heads"),
    "flare-nvs": (replace(CONFIG, appearance_depth=1), "global_head"),
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_scene(4, (180, 240), num_tracks=60, depth_scale=0.1, arc_deg=20).write_images(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def reconstruct(name: str, **options) -> SceneResult:
        sizes, points = TINY[name]
        canvas = Canvas(size_hw=(64, 64), long_side=64, multiple=sizes.multiple)
        monkeypatch.setitem(config.MODELS, name, replace(config.MODELS[name], config=sizes, canvas=canvas))
        torch.manual_seed(0)
        state = network_builder(config.MODELS[name])().state_dict()
        for key in state:
            if key.startswith(points) and key.endswith("head_out.bias"):
                state[key][2] = 1.0  # points lie before the first camera
            if "rotation.bias" in key:
                state[key] = torch.tensor([1.0, 0, 0, 0, 1, 0])  # and the cameras look at them
        save_file(state, tmp_path / "tiny.safetensors")
        job = SceneJob(
            sources=(str(photos),),
            output=tmp_path / "scene",
            model=name,
            weights=tmp_path / "tiny.safetensors",
            exports=("colmap", "gaussians"),
            preset="fast",
        )
        return run_scene(replace(job, **options))

    return reconstruct


@pytest.mark.parametrize(("name", "refine"), [("noposplat", "auto"), *((name, "none") for name in TINY)])
def test_gaussians_of_the_network_reach_the_file(run, name: str, refine: str) -> None:
    result = run(name, refine=refine)
    assert result.exit_code == 0
    scene = load_scene(result.output)
    assert scene.gaussians is not None and len(scene.gaussians) > 0.5 * 4 * 64 * 64
    assert scene.provenance["gaussians"] == "network"
    assert scene.provenance["name"] == name and "CC BY-NC-SA" in scene.provenance["licence"]
    written = read_gaussians(result.output / "gaussians.ply")
    assert len(written) == len(scene.gaussians) == result.manifest["counts"]["gaussians"]
    np.testing.assert_allclose(written.means, scene.gaussians.means, rtol=1e-5)
    # Every photo sees its own Gaussians: the first photo's come first and lie on its picture.
    pixel, depth = project(written.means[:1000], scene.cameras.w2c[0], scene.cameras.K[0])
    assert (depth > 0).all()
    height, width = scene.cameras.size_hw[0]
    inside = (pixel > -0.5 * width).all(1) & (pixel[:, 0] < 1.5 * width) & (pixel[:, 1] < height + 0.5 * width)
    assert inside.mean() > 0.8


def test_intrinsics_from_the_option_reach_the_network(run, tmp_path: Path) -> None:
    wide = run("noposplat", refine="none", intrinsics="35mm=18", output=tmp_path / "wide")
    narrow = run("noposplat", refine="none", intrinsics="35mm=80", output=tmp_path / "narrow")
    scenes = [load_scene(each.output) for each in (wide, narrow)]
    focal = [float(scene.cameras.focal_px[0]) for scene in scenes]
    assert focal[1] / focal[0] == pytest.approx(80 / 18, rel=1e-6)
    raw = [scene.gaussians.opacities for scene in scenes if scene.gaussians is not None]
    assert len(raw) == 2 and (len(raw[0]) != len(raw[1]) or np.abs(raw[0] - raw[1]).max() > 1e-6)


def test_poses_are_fitted_where_the_network_has_no_head_for_them(run, tmp_path: Path) -> None:
    fitted = run("noposplat", refine="none", output=tmp_path / "fitted").manifest
    assert fitted["model"]["pose_fit"]["photos"] == 3 and "fit poses" in fitted["timings_s"]
    before, after = fitted["model"]["pose_fit"]["loss"]
    assert after <= before
    for name, options in {"noposplat": {"fit_poses": "off"}, "spfsplatv2": {}}.items():
        assert "pose_fit" not in run(name, refine="none", output=tmp_path / name, **options).manifest["model"]
    asked = run("spfsplatv2", refine="none", fit_poses="on", output=tmp_path / "asked").manifest
    assert asked["model"]["pose_fit"]["photos"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "flare-test"}, "flare-test predicts no Gaussians of a depth"),
        ({"model": "noposplat", "poses": Path("transforms.json")}, "contradicts --poses"),
    ],
)
def test_poses_that_can_not_be_fitted_are_refused_before_photos_are_read(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    job = SceneJob(sources=(str(tmp_path / "nowhere"),), output=tmp_path / "scene", fit_poses="on", **options)
    with pytest.raises(InputError, match=message):
        run_scene(job)


def test_one_photo_is_refused(run, photos: Path) -> None:
    for path in sorted(photos.iterdir())[1:]:
        path.unlink()
    with pytest.raises(InputError, match="only one usable photo"):
        run("noposplat")
