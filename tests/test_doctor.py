"""The doctor: what it looks at, and the fixes that it names."""

import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from flarecli import doctor, runtime
from flarecli.doctor import GIB, Package, check_package, examine, library_fix, nvidia_driver
from flarecli.errors import MissingDependency, WeightsError
from flarecli.job import SceneJob


@pytest.fixture(scope="module")
def checks():
    return {check.name: check for check in examine()}


def test_everything_that_matters_is_looked_at(checks):
    expected = (
        "python platform cores memory disk driver torch device gsplat pycolmap poselib open3d pillow_heif av OpenEXR "
        "torchmetrics numba plyfile"
    )
    assert set(expected.split()) <= set(checks)
    assert {"weights flare", "weights flare-small"} <= set(checks)


def test_nothing_is_asked_for_that_nothing_uses(checks):
    assert not {"ray", "viser"} & set(checks)


def test_only_what_is_not_ok_has_a_fix(checks):
    for check in checks.values():
        assert bool(check.fix) == (check.status != "ok"), check


def test_this_interpreter_and_these_packages_are_fine(checks):
    assert checks["python"].value == ".".join(map(str, sys.version_info[:3]))
    for name in ("torch", "pycolmap", "numpy"):
        assert checks[name].status == "ok"


def test_weights_say_their_licence(checks):
    assert "CC BY-NC-SA 4.0, no commercial use" in checks["weights flare"].value
    assert "any use" in checks["weights flare-small"].value


def test_the_default_model_is_the_one_that_must_be_there():
    assert SceneJob.model == doctor.DEFAULT_MODEL


def test_a_missing_package_is_bad_when_needed_and_a_warning_otherwise():
    needed = check_package(Package("nothing", "no-such-distribution", "magic", required=True))
    assert (needed.status, needed.fix) == ("bad", "pip install no-such-distribution")
    assert "for magic" in needed.value
    optional = check_package(Package("nothing", "no-such-distribution", "magic", extra="heif"))
    assert (optional.status, optional.fix) == ("warn", "pip install 'flarecli[heif]'")


def test_a_package_that_does_not_load_names_the_system_library(monkeypatch):
    def fail(name):
        raise ImportError("libusb-1.0.so.0: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(doctor, "load_module", fail)
    check = check_package(Package("open3d", "open3d-cpu", "meshes", required=True))
    assert (check.status, check.fix) == ("bad", "apt-get install libusb-1.0-0")
    assert "does not load: libusb-1.0.so.0" in check.value


def test_every_extra_that_a_feature_asks_for_is_looked_at_with_the_same_fix(monkeypatch):
    optional = {package.module: package for package in doctor.PACKAGES if package.extra}
    for module, extra in runtime._EXTRA_OF.items():
        assert optional[module].extra == extra
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
        with pytest.raises(MissingDependency) as error:
            runtime.require(module, "films")
        assert error.value.hint == f"pip install 'flarecli[{extra}]'"


def test_the_script_the_hint_and_the_doctor_name_the_same_system_libraries(monkeypatch):
    script = (Path(__file__).parents[1] / "setup.sh").read_text()
    installed = re.search(r'^OPEN3D_LIBRARIES="(.*)"$', script, re.M)[1].split()
    monkeypatch.setitem(sys.modules, "open3d", None)  # as if it did not load
    with pytest.raises(MissingDependency) as error:
        runtime.require("open3d", "meshes")
    hint = error.value.hint.partition("apt-get install ")[2].split()
    by_doctor = [library_fix(f"{name}: cannot open").split()[-1] for name in runtime.OPEN3D_LIBRARIES]
    assert sorted(installed) == sorted(hint) == sorted(by_doctor) and "libidn2-0" in hint


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        ("libGL.so.1: cannot open shared object file", "apt-get install libgl1"),
        ("libodd.so.7: cannot open", "install the system package that holds libodd.so.7"),
        ("No module named 'x'", ""),
    ],
)
def test_fix_for_a_system_library(error, fix):
    assert library_fix(error) == fix


def test_little_memory_and_disk_are_warnings(monkeypatch, tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:        8388608 kB\nMemAvailable:    1048576 kB\n")
    monkeypatch.setattr(doctor, "Path", lambda path: meminfo)
    memory = doctor._memory()
    assert (memory.status, memory.value) == ("warn", "1.0 GiB free of 8.0 GiB")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage(0, 0, GIB))
    disk = doctor._disk(tmp_path)
    assert disk.status == "warn"
    assert disk.value.startswith("1.0 GiB free")


def test_driver_is_what_nvidia_smi_says(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert nvidia_driver() == ""
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    answer = subprocess.CompletedProcess([], 0, stdout="580.1, NVIDIA H100, 81559 MiB\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *args, **kwargs: answer)
    assert nvidia_driver() == "580.1, NVIDIA H100, 81559 MiB"

    def broken(*args, **kwargs):
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(doctor.subprocess, "run", broken)
    assert nvidia_driver() == ""


def test_a_driver_without_a_cuda_torch_is_a_warning(monkeypatch):
    import torch

    monkeypatch.setattr(doctor, "nvidia_driver", lambda: "580.1, NVIDIA H100, 81559 MiB")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device = doctor._torch_and_device()[-1]
    assert device.status == "warn"
    assert "CUDA build" in device.fix


def test_wrong_environment_of_the_weights_is_named(monkeypatch):
    def fail():
        raise WeightsError("FLARE_WEIGHTS names nothing", "unset it")

    monkeypatch.setattr("flarecli.model.hub.weights_status", fail)
    assert doctor._weights() == [doctor.Check("weights", "bad", "FLARE_WEIGHTS names nothing", "unset it")]
