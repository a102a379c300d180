"""A dry run of the GPU campaign, as small as it gets."""

import json
import shutil
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

from flarecli.errors import InputError, MissingDependency
from flarecli.export.archive import save_scene
from flarecli.model.config_small import GAUSSIAN_PART, SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.loading import convert_weights, load_model
from flarecli.model.shards import AVERAGE, load_shards
from flarecli.train import campaign
from flarecli.train.campaign import Campaign, run_phase
from flarecli.train.phases import PHASES
from tests.synthetic import make_scene
from tests.train.conftest import posed_photos

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
    return posed_photos(tmp_path_factory.mktemp("posed"))


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
    assert (out / "metrics.jsonl").is_file() and (tmp_path / "out-work" / "captures").is_dir()

    start = Campaign(
        textures=tmp_path / "out-work" / "textures", output=tmp_path / "next", minutes=0.0, phase=2, size="tiny",
        device="cpu", start=out / "weights", long_side=64, texture_size=32, images=8, held_out=2,
        work=tmp_path / "elsewhere",
    )  # fmt: skip
    run_phase(start)
    assert (tmp_path / "elsewhere" / "run" / "checkpoint").is_dir()
    before, after = (load_shards(each / "weights", AVERAGE) for each in (out, tmp_path / "next"))
    assert all(torch.equal(before[name], after[name]) for name in before)

    head = replace(start, output=tmp_path / "head", work=None, minutes=5, phase=3, max_steps=1)
    report = run_phase(head)
    assert report["rendering"]["psnr_exact"] > 3 and "held_out" in report
    after = load_shards(tmp_path / "head" / "weights", AVERAGE)
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


def test_a_phase_of_the_usual_size_leaves_what_may_travel_and_no_more(quick):
    run_phase(replace(quick, size="s", minutes=0.0))
    files = sorted(path for path in quick.output.rglob("*") if path.is_file())
    assert [path.relative_to(quick.output).as_posix() for path in files] == [
        "metrics.jsonl", "report.json", *(f"weights/ema-0000{k}-of-00004.safetensors" for k in (1, 2, 3, 4)),
        "weights/state.json",
    ]  # fmt: skip
    assert len(files) <= 8 and max(path.stat().st_size for path in files) <= 16 * 2**20
    made = convert_weights("flare-small", quick.output / "weights", quick.output / "all.safetensors")
    network = load_model("flare-small", weights=made).network
    assert isinstance(network, FlareSmall) and network.config == SIZES["s"]


def test_what_fails_after_the_training_takes_nothing_away(quick, monkeypatch):
    def fail(*args):
        assert (quick.output / "report.json").is_file()  # before anything is measured
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(campaign, "evaluate_synthetic", fail)
        with pytest.raises(RuntimeError, match="no memory left"):
            run_phase(quick)
    report = json.loads((quick.output / "report.json").read_text())
    assert report["state"]["step"] == 1 and "held_out" not in report
    assert load_shards(quick.output / "weights", AVERAGE)
    assert "held_out" in run_phase(quick)  # measured by a second call, without another step


def test_photos_that_can_not_be_measured_are_told_before_the_minutes_are_spent(quick, posed, tmp_path):
    folder = shutil.copytree(posed, tmp_path / "pairs")
    (folder / "subsets.json").write_text(json.dumps({"subsets": [{"n": 2, "images": []}]}))
    with pytest.raises(InputError, match="pairs has no subset of 4 photos"):
        run_phase(replace(quick, photos=(posed, folder)))
    assert not quick.output.exists()


def test_photos_are_measured_on_the_device_of_the_network_with_all_threads(quick, posed, monkeypatch):
    used = []

    def noted(network, folders, long_side, count):
        used.append((next(network.parameters()).device.type, torch.get_num_threads()))
        return {}

    monkeypatch.setattr(campaign, "evaluate_photos", noted)
    monkeypatch.setattr(FlareSmall, "cpu", lambda self: pytest.fail("the network was taken off its device"))
    torch.set_num_threads(2)
    run_phase(replace(quick, photos=(posed,), minutes=0.0))
    assert used == [("cpu", 2)] * 2


@pytest.mark.parametrize("damage", ["refused", "cut"])
def test_a_pack_that_was_not_unpacked_as_a_whole_is_never_trained_on(quick, pack, tmp_path, damage):
    bad = tmp_path / "bad.tar"
    if damage == "cut":
        bad.write_bytes(pack.read_bytes()[: pack.stat().st_size // 2])
    else:
        with tarfile.open(bad, "w") as tar:
            tar.add(pack.parent / "0.png", "photo/0.png")
            tar.add(pack.parent / "1.png", "../1.png")
    for _ in range(2):
        with pytest.raises(InputError, match=r"bad\.tar"):
            run_phase(replace(quick, textures=bad))
    assert not (quick.workshop / "textures").exists()


def test_a_phase_for_the_head_alone_reads_no_captures(quick, tmp_path):
    absent = replace(quick, phase=3, captures=(tmp_path / "absent",))
    assert campaign._capture(absent) is None
    with pytest.raises(InputError, match="absent"):
        campaign._capture(replace(absent, phase=2))


def test_phases_are_whole_and_unknown_ones_refused(tmp_path):
    assert all(abs(sum(phase.share for phase in phases) - 1) < 1e-9 for phases in PHASES.values())
    with pytest.raises(InputError, match="no phase 7"):
        run_phase(Campaign(textures=tmp_path, output=tmp_path, minutes=1, phase=7))
    with pytest.raises(InputError, match="unknown network size 'huge'"):
        run_phase(Campaign(textures=tmp_path, output=tmp_path, minutes=1, size="huge"))
