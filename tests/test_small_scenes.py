"""Scenes from flare-small with its shipped weights: Gaussians from photos to files, with and without refinement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flarecli.appearance.holdout import gaussians_without
from flarecli.export.archive import load_scene
from flarecli.export.gaussian_files import read_gaussians, scene_gaussians
from flarecli.geometry.projection import project
from flarecli.job import SceneJob
from flarecli.pipeline import run_scene
from tests.synthetic import make_scene


@pytest.mark.parametrize("refine", ["auto", "none"])
def test_a_gaussian_per_pixel_reaches_the_file(tmp_path: Path, refine: str) -> None:
    made = make_scene(4, (180, 240), num_tracks=60, depth_scale=0.1, arc_deg=20)
    made.write_images(tmp_path / "photos")
    job = SceneJob(sources=(str(tmp_path / "photos"),), output=tmp_path / "scene", refine=refine, preset="fast")
    result = run_scene(job)
    scene = load_scene(result.output)
    assert scene.gaussians is None and scene.first_gaussians is not None
    assert scene.provenance["gaussians"] == "network"
    gaussians, written = scene_gaussians(scene), read_gaussians(result.output / "gaussians.ply")
    assert len(written) == len(gaussians) == result.manifest["counts"]["gaussians"] > 0.5 * 4 * 168 * 224
    np.testing.assert_allclose(written.means, gaussians.means, rtol=1e-4, atol=1e-5)
    first = scene.first_gaussians.view_index == 0
    pixel, depth = project(written.means[first].astype(np.float64), scene.cameras.w2c[0], scene.cameras.K[0])
    height, width = scene.cameras.size_hw[0]
    assert (depth > 0).all() and (pixel > 0).all() and (pixel < (width, height)).all()
    rest = gaussians_without(scene, [scene.image_names[0]])
    assert len(rest) == len(gaussians) - int(first.sum())
    if refine == "auto":
        assert all(photo["status"] == "verified" for photo in result.manifest["photos"])
        assert any(each is not None and each.measured is not None for each in scene.depth_maps)
        # Better than a grey picture, whatever the depth.
        assert result.manifest["render_back"]["gaussians.ply"]["psnr_db"] > 15
