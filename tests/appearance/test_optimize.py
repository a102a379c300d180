"""`flare optimize` on a whole scene: what it changes, what it keeps, how it goes on."""

import hashlib
import json

import numpy as np
import pytest

from flarecli.appearance import optimize
from flarecli.appearance.fit import FitOptions
from flarecli.appearance.fit_checkpoint import CHECKPOINT_NAME
from flarecli.appearance.optimize import OptimizeJob, optimize_scene
from flarecli.cli.app import run
from flarecli.errors import InputError
from flarecli.export.archive import load_scene
from flarecli.export.gaussian_files import read_gaussians
from flarecli.export.manifest import read_manifest
from flarecli.export.verify import verify_scene

CHANGED = {"gaussians.ply", "gaussians.spz", "scene.npz"}


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "flare.json"
    }


def test_the_scene_gets_better_and_keeps_its_other_files(scene, capsys):
    (scene / "mine.txt").write_text("foreign")
    before = digests(scene)
    points = load_scene(scene).points
    arguments = ["optimize", str(scene), "--steps", "30", "--long-side", "48", "--json"]
    assert run(arguments) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["improved"] and set(done["files"]) == CHANGED
    assert done["held_out"] == ["photo_02.png"]
    assert done["held_out_psnr_db"][1] > done["held_out_psnr_db"][0] + 1
    assert done["photos_psnr_db"][1] > done["photos_psnr_db"][0] + 1
    after = digests(scene)
    assert set(after) == set(before) and {name for name in after if after[name] != before[name]} == CHANGED
    assert {"gaussians.ply", "gaussians.spz", "flare.json", "points.ply"} <= set(verify_scene(scene))
    manifest = read_manifest(scene)
    assert manifest["model"]["gaussians"] == "optimised" and manifest["counts"]["gaussians"] == done["gaussians"]
    archive = load_scene(scene)
    assert archive.gaussians is not None
    np.testing.assert_array_equal(archive.points.xyz, points.xyz)
    np.testing.assert_allclose(read_gaussians(scene / "gaussians.ply").means, archive.gaussians.means)
    # Once more with fewer steps: what is there is better and stays.
    assert run([*arguments[:2], "--steps", "2", "--long-side", "48", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert not again["improved"] and digests(scene) == after


def test_what_does_not_help_is_rolled_back(scene, monkeypatch):
    rates = {**FitOptions().rates, "sh0": 3.0, "means": 1.0}
    monkeypatch.setattr(optimize, "FitOptions", lambda **values: FitOptions(**values, rates=rates))
    before = digests(scene)
    done = optimize_scene(OptimizeJob(scene=scene, steps=6, long_side=48))
    assert not done["improved"] and done["best_step"] == 0 and done["photos_psnr_db"] is None
    assert digests(scene) == before


@pytest.mark.parametrize("phase", ["held out", "all photos"])
def test_an_interrupted_run_goes_on(scene, monkeypatch, phase):
    monkeypatch.setattr(optimize, "_CHECKPOINT_SECONDS", 0.0)

    def interrupt(stage, done, total):
        if phase in stage and done == 5:
            raise KeyboardInterrupt

    job = OptimizeJob(scene=scene, steps=10, long_side=48)
    before = digests(scene)
    with pytest.raises(KeyboardInterrupt):
        optimize_scene(job, interrupt)
    assert (scene / CHECKPOINT_NAME).is_file()
    assert {name: digest for name, digest in digests(scene).items() if name != CHECKPOINT_NAME} == before
    with pytest.raises(InputError, match="other options"):
        optimize_scene(OptimizeJob(scene=scene, steps=11, long_side=48, resume=True))
    seen = []
    resumed = OptimizeJob(scene=scene, steps=10, long_side=48, resume=True)
    done = optimize_scene(resumed, lambda stage, step, _: seen.append((stage, step)))
    first = next(each for each in seen if each[0] != "photos")
    assert phase in first[0] and first[1] in (5, 6)
    assert done["improved"] and not (scene / CHECKPOINT_NAME).exists()


def test_no_time_changes_nothing(scene):
    before = digests(scene)
    done = optimize_scene(OptimizeJob(scene=scene, steps=1000, long_side=48, minutes=0.0))
    assert not done["improved"] and digests(scene) == before


def test_too_few_photos(scene, tmp_path):
    with pytest.raises(InputError, match="two must stay"):
        optimize_scene(OptimizeJob(scene=scene, hold_out=[f"photo_{i:02d}.png" for i in range(4)]))
    with pytest.raises(InputError, match=r"holds no scene\.npz"):
        optimize_scene(OptimizeJob(scene=tmp_path))
