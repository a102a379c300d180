import dataclasses
import json

import pytest

from flarecli.appearance.render_back import render_back
from flarecli.cli.app import run
from flarecli.export.gaussian_files import read_gaussians
from flarecli.export.manifest import read_manifest
from flarecli.export.ply import write_gaussians_ply


def test_a_wrong_frame_shows(scene, exact):
    good = scene / "gaussians.ply"
    turned = scene / "turned.ply"
    gaussians = read_gaussians(good)
    write_gaussians_ply(dataclasses.replace(gaussians, means=gaussians.means * [1, -1, -1]), turned)
    scores = render_back(scene, exact.reconstruction, [good, scene / "gaussians.spz", turned])
    assert scores["gaussians.ply"]["psnr_db"] > 13 and set(scores["gaussians.ply"]["photos"]) == {
        f"photo_{i:02d}.png" for i in range(5)
    }
    assert scores["gaussians.spz"]["psnr_db"] == pytest.approx(scores["gaussians.ply"]["psnr_db"], abs=0.3)
    assert scores["turned.ply"]["psnr_db"] < scores["gaussians.ply"]["psnr_db"] - 4


def test_export_enters_it_into_the_manifest(scene, capsys):
    assert run(["export", str(scene), "--to", "splat", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["render_back"]
    assert read_manifest(scene)["render_back"] == told
    assert told["gaussians.splat"]["psnr_db"] > 13
    assert run(["export", str(scene), "--to", "gaussians", "--overwrite", "--json"]) == 0
    assert set(read_manifest(scene)["render_back"]) == {"gaussians.splat", "gaussians.ply"}
