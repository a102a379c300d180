"""What a built package holds, and whether the program runs from there alone."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "flarecli", "weights")
WEIGHTS = "weights/flare-small.safetensors"


@pytest.fixture
def source(tmp_path):
    pytest.importorskip("setuptools", minversion="68")
    folder = tmp_path / "source"
    folder.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    return folder


def build(source, kind):
    """Build one kind of package as pip does it, and return its file."""
    program = f"from setuptools import build_meta; print(build_meta.build_{kind}('out'))"
    made = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True, timeout=600)
    assert made.returncode == 0, made.stderr
    return source / "out" / made.stdout.split()[-1]


@pytest.mark.slow
def test_a_built_package_runs_with_the_shipped_weights(source, tmp_path):
    with zipfile.ZipFile(build(source, "wheel")) as wheel:
        wheel.extractall(tmp_path / "installed")
    installed = tmp_path / "installed" / "flarecli"
    assert (installed / "py.typed").is_file() and (installed / "train" / "renderer.h").is_file()
    assert {path.name for path in installed.parent.iterdir() if path.suffix != ".dist-info"} == {"flarecli"}
    own = {"PYTHONPATH": str(installed.parent), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {name: value for name, value in os.environ.items() if name != "FLARE_WEIGHTS"} | own
    command = [sys.executable, "-m", "flarecli", "weights", "verify", "flare-small", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["path"] == str(installed / WEIGHTS)
    assert answer["sha256"] == answer["expected_sha256"]


@pytest.mark.slow
def test_a_source_archive_holds_the_weights_and_an_editable_install_no_copy(source):
    with tarfile.open(build(source, "sdist")) as archive:
        assert any(name.endswith(f"/{WEIGHTS}") for name in archive.getnames())
        assert any(name.endswith("/setup.py") for name in archive.getnames())
    with zipfile.ZipFile(build(source, "editable")) as editable:
        assert not any(name.endswith(".safetensors") for name in editable.namelist())
