"""What starting the program loads, how long that takes, and which package may import which."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flarecli.export.archive import save_scene
from flarecli.export.manifest import build_manifest, write_manifest
from tests.synthetic import make_scene

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "numpy",
    "scipy",
    "pycolmap",
    "open3d",
    "gsplat",
    "viser",
    "PIL",
    "poselib",
    "ray",
    "numba",
    "huggingface_hub",
)
STARTS = (["--help"], ["--version"], ["reconstruct", "--help"], ["batch", "--help"], ["weights", "--help"])

PROBE = """
import json, sys
from flarecli.cli.app import run
sys.stdout = sys.stderr
code = run(sys.argv[1:])
json.dump({"code": code, "modules": sorted(sys.modules)}, sys.__stdout__)
"""


def probe(*arguments, program=PROBE):
    answer = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.parametrize("arguments", STARTS, ids=" ".join)
def test_help_and_version_load_nothing_heavy(arguments):
    found = probe(*arguments)
    assert found["code"] == 0
    assert [name for name in HEAVY if name in found["modules"]] == []


def test_importing_the_package_loads_nothing_at_all():
    program = "import json, sys, flarecli; json.dump(sorted(sys.modules), sys.stdout)"
    assert [name for name in (*HEAVY, "typer", "rich") if name in probe(program=program)] == []


def test_export_and_inspect_run_without_torch(tmp_path):
    """A machine that only looks at results need not wait for torch."""
    (tmp_path / "x.ply").write_text("no ply")
    found = probe("inspect", str(tmp_path / "x.ply"))
    assert found["code"] == 3
    assert "torch" not in found["modules"]
    found = probe("export", str(tmp_path), "--to", "points")
    assert found["code"] == 3
    assert "torch" not in found["modules"]


def test_every_format_but_gaussians_is_written_without_torch(tmp_path):
    """Gaussians are rendered back after writing where torch is there; nothing else has a use for it."""
    synthetic = make_scene(3, with_images=True)
    synthetic.write_images(tmp_path / "images")
    save_scene(synthetic.reconstruction, tmp_path)
    write_manifest(tmp_path, build_manifest(synthetic.reconstruction, tmp_path, options={}, timings_s={}))
    for names in ("colmap,colmap-text,points,mesh,depth,depth-exr,transforms", "mesh-poisson"):
        found = probe("export", str(tmp_path), "--to", names, "--overwrite")
        assert found["code"] == 0
        assert "torch" not in found["modules"]
    assert (tmp_path / "sparse/0/images.bin").is_file() and (tmp_path / "mesh.glb").is_file()


def test_help_takes_less_than_half_a_second():
    script = Path(sys.executable).with_name("flare")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "flarecli"]
    subprocess.run([*command, "--help"], capture_output=True, check=True, timeout=60)  # writes the bytecode files
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run([*command, "--help"], capture_output=True, check=True, timeout=60)
        after = os.times()
        times.append(after.children_user - before.children_user + after.children_system - before.children_system)
    # Processor time: on an idle machine the wall time, on a busy one what the program is to blame for.
    assert min(times) < 0.5, times


def test_import_contracts_hold():
    script = Path(sys.executable).with_name("lint-imports")
    if not script.exists():
        pytest.skip("import-linter is not installed")
    answer = subprocess.run([str(script), "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stdout + answer.stderr
