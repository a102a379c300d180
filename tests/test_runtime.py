"""Packages that are loaded late, and what they may not take with them."""

import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from flarecli import runtime
from flarecli.errors import MissingDependency
from flarecli.export.colmap import write_colmap
from flarecli.runtime import inference_precision, require
from tests.synthetic import make_scene

# A process that SIGTERM may only interrupt in Python's way.
INTERRUPTED = """
import os, signal, sys, time
from pathlib import Path

def stop(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)
{load}
assert "pycolmap" in sys.modules
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    "load",
    [
        "from flarecli.export.verify import verify_scene; verify_scene(Path(sys.argv[1]))",
        "import flarecli.refine.features",
        "from flarecli import doctor; [doctor.check_package(each) for each in doctor.PACKAGES]",
        "from flarecli.runtime import seed_everything; seed_everything(0)",
    ],
    ids=["verify", "refine", "doctor", "seed"],
)
def test_whoever_loads_pycolmap_leaves_sigterm_alone(load, tmp_path):
    synthetic = make_scene(2)
    synthetic.write_images(tmp_path / "images")
    write_colmap(synthetic.reconstruction, tmp_path)
    line = [sys.executable, "-c", INTERRUPTED.format(load=load), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (130, "")


def test_other_threads_may_load_packages_too():
    with ThreadPoolExecutor(1) as pool:  # only the first thread may set handlers
        assert pool.submit(require, "json", "tests").result().__name__ == "json"


def test_a_missing_package_is_named():
    with pytest.raises(MissingDependency, match="tests need the package no_such_package"):
        require("no_such_package", "tests")


def broken_package(folder, name, cause):
    """A package that fails to load as pycolmap does: a RuntimeError about whatever befell its library."""
    (folder / f"{name}.py").write_text(
        f"try:\n    {cause}\nexcept BaseException as error:\n"
        "    raise RuntimeError('Cannot import the C++ backend\\nadvice') from error\n"
    )


def test_a_package_whose_library_is_broken_is_told_with_the_cause(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    broken_package(tmp_path, "without_library", "raise ImportError('libodd.so.3: cannot open')")
    with pytest.raises(MissingDependency, match=r"which does not load: libodd\.so\.3: cannot open$") as error:
        require("without_library", "tests")
    assert error.value.hint
    broken_package(tmp_path, "interrupted_library", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        require("interrupted_library", "tests")
    broken_package(tmp_path, "with_a_defect", "raise ValueError('a defect')")
    with pytest.raises(RuntimeError, match="C\\+\\+ backend"):
        require("with_a_defect", "tests")


def test_numpy_is_one_whose_savez_knows_allow_pickle():
    """Before 2.2 it stored the argument as an array."""
    content = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    needed = [Requirement(line) for line in content["project"]["dependencies"]]
    (numpy,) = (each.specifier for each in needed if each.name == "numpy")
    assert np.__version__ in numpy and "2.1.3" not in numpy


def test_the_memory_of_a_container_counts_and_its_cached_files_are_free(tmp_path):
    assert runtime._left_in_container(tmp_path) is None
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 250\nactive_file 50\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert runtime._left_in_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert runtime._left_in_container(tmp_path) == 550


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_only_where_the_card_computes_in_it(monkeypatch, native):
    # Cards before Ampere emulate it, and torch calls that support unless it is asked.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    found = inference_precision(torch.device("cuda"))
    assert isinstance(found, torch.autocast) == native


def test_float32_networks_take_tf32_products_for_as_long_as_they_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    before = torch.get_float32_matmul_precision()
    with inference_precision(torch.device("cuda"), "float32"):
        assert torch.get_float32_matmul_precision() == "high" and not torch.is_autocast_enabled("cuda")
    assert torch.get_float32_matmul_precision() == before
    with inference_precision(torch.device("cpu"), "float32"):
        assert torch.get_float32_matmul_precision() == before
