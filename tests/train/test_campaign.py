"""A dry run of the GPU campaign, as small as it gets."""

import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from flarecli.errors import InputError, MissingDependency, VerificationError
from flarecli.export.archive import save_scene
from flarecli.model.config_small import GAUSSIAN_PART
from flarecli.train import campaign
from flarecli.train.campaign import PHASES, Campaign, check_renderer, run_phase
from flarecli.train.checkpoint import MAX_SHARD, load_shards
from tests.synthetic import make_scene

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pack"), np.random.default_rng(0)
    with tarfile.open(folder / "textures.tar", "w") as tar:
        for number in range(6):
            coarse = Image.fromarray((255 * rng.random((5, 5, 3))).astype(np.uint8))
            file = folder / f"{number}.png"
            coarse.resize((40, 40), Image.Resampling.BICUBIC).save(file)
            tar.add(file, f"photo/{number}.png")
    return folder / "textures.tar"


@pytest.fixture(scope="module")
def posed(tmp_path_factory) -> Path:
    """Posed photos in the form of the benchmark."""
    folder, scene = tmp_path_factory.mktemp("posed"), make_scene(4, (48, 64), num_tracks=20)
    scene.write_images(folder / "images")
    cameras = scene.reconstruction.cameras
    names = list(scene.reconstruction.image_names)
    images = [
        {"name": n, "R": w[:3, :3].tolist(), "t": w[:3, 3].tolist(), "K": k.tolist()}
        for n, w, k in zip(names, cameras.w2c, cameras.K, strict=True)
    ]
    (folder / "cameras.json").write_text(json.dumps({"images": images}))
    subsets = [{"id": "a", "n": 2, "images": names[:2]}, {"id": "b", "n": 4, "images": names}]
    (folder / "subsets.json").write_text(json.dumps({"subsets": subsets}))
    return folder


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    """A scene of photos with verified cameras, as flare reconstruct leaves one."""
    folder, scene = tmp_path_factory.mktemp("capture"), make_scene(3, (48, 64), num_tracks=60)
    scene.write_images(folder / "images")
    save_scene(scene.reconstruction, folder)
    return folder


def test_the_script_trains_measures_and_leaves_everything_to_go_on_with(pack, posed, capture, tmp_path):
    options = ["--textures", pack, "--output", tmp_path / "out", "--minutes", 5, "--size", "tiny", "--device", "cpu"]
    options += ["--max-steps", 2, "--long-side", 64, "--texture-size", 32, "--images", 8, "--held-out", 4]
    command = [sys.executable, ROOT / "scripts/gpu_phase.py", *options, "--photos", posed, "--captures", capture]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    out = tmp_path / "out"
    assert report == json.loads((out / "report.json").read_text())
    assert report["state"]["step"] == 2 and report["renderer"]["images_per_second"] > 0
    assert set(report["held_out"]) == {"2", "4"} and "auc30_matches" in report["photos"]["2"]["mean"]
    shards = list((out / "run" / "checkpoint").glob("*.safetensors"))
    assert shards and all(shard.stat().st_size <= MAX_SHARD for shard in shards)
    assert (out / "run" / "metrics.jsonl").is_file() and (out / "flare-small.safetensors").is_file()

    start = Campaign(
        textures=out / "textures", output=tmp_path / "next", minutes=0.0, phase=2, size="tiny", device="cpu",
        start=out / "run" / "checkpoint", long_side=64, texture_size=32, images=8, held_out=2,
    )  # fmt: skip
    run_phase(start)
    before, after = (load_shards(each / "run" / "checkpoint", "ema") for each in (out, tmp_path / "next"))
    assert all(torch.equal(before[name], after[name]) for name in before)

    head = replace(start, output=tmp_path / "head", minutes=5, phase=3, start=out / "run" / "checkpoint", max_steps=1)
    report = run_phase(head)
    assert report["rendering"]["psnr_exact"] > 3 and "held_out" in report
    after = load_shards(tmp_path / "head" / "run" / "checkpoint", "ema")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(GAUSSIAN_PART) for name in changed)


BARE = "pycolmap open3d poselib plyfile gsplat numba typer rich viser ray".split()
"""What a GPU machine without network need not have for phases 1 and 2."""


def test_a_bare_gpu_machine_has_all_that_the_first_phases_need():
    hide = f"import sys; sys.modules.update(dict.fromkeys({BARE}))"
    command = [sys.executable, "-c", f"{hide}; import flarecli.train.campaign"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def quick(pack, tmp_path) -> Campaign:
    """A phase that ends at once also where nothing stops it."""
    sizes = {"long_side": 64, "texture_size": 32, "images": 8, "held_out": 2, "max_steps": 1}
    return Campaign(textures=pack, output=tmp_path / "out", minutes=5, size="tiny", device="cpu", **sizes)


def test_a_missing_package_is_told_before_the_minutes_are_spent(quick, posed, monkeypatch):
    monkeypatch.setitem(sys.modules, "poselib", None)
    with pytest.raises(MissingDependency, match="Poses of measured photos need the package poselib"):
        run_phase(replace(quick, photos=(posed,)))
    assert not quick.output.exists()


@pytest.mark.parametrize(("phase", "missing"), [(1, "cupy"), (3, "gsplat")])
def test_cuda_needs_its_packages_from_the_start(quick, monkeypatch, phase, missing):
    monkeypatch.setattr(campaign, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependency, match=missing) as caught:
        run_phase(replace(quick, device="cuda", phase=phase))
    assert "pip install" in caught.value.hint
    assert not quick.output.exists()


def test_a_renderer_that_shows_two_worlds_is_caught(generator, monkeypatch):
    assert check_renderer(generator, (48, 64))["colour_difference"] < 0.05
    original = type(generator).batch

    def shuffled(self, *args):
        made = original(self, *args)
        made.rgb[:, 1] = made.rgb[torch.randperm(len(made.rgb)), 1].flip(-1)
        return made

    monkeypatch.setattr(type(generator), "batch", shuffled)
    with pytest.raises(VerificationError, match="disagree"):
        check_renderer(generator, (48, 64))


def test_phases_are_whole_and_unknown_ones_refused(tmp_path):
    assert all(abs(sum(phase.share for phase in phases) - 1) < 1e-9 for phases in PHASES.values())
    with pytest.raises(InputError, match="no phase 7"):
        run_phase(Campaign(textures=tmp_path, output=tmp_path, minutes=1, phase=7))
