"""What this machine has and lacks for a reconstruction, each with the fix."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from flarecli.errors import WeightsError
from flarecli.runtime import OPEN3D_LIBRARIES, cpu_count, load_module

Status = Literal["ok", "warn", "bad"]
MIN_PYTHON = (3, 11)
MIN_MEMORY_GIB = 4.0
MIN_DISK_GIB = 5.0
GIB = 2**30
DEFAULT_MODEL = "flare-small"  # the one that `flare reconstruct` takes unless told otherwise


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        status: ok, warn (something works less well or not at all, but not the main job), or bad (the main job fails).
        value: what was found.
        fix: what to do about it; empty when ok.
    """

    name: str
    status: Status
    value: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """A package to look for.

    Attributes:
        module: importable name.
        distribution: name in the package index.
        purpose: what it is needed for.
        required: whether the main job fails without it.
        extra: extra of flarecli that brings it, if any.
        load: whether to import it, because installed does not mean loadable.
    """

    module: str
    distribution: str
    purpose: str
    required: bool = False
    extra: str = ""
    load: bool = True


PACKAGES = (
    Package("numpy", "numpy", "arrays", required=True),
    Package("scipy", "scipy", "nearest neighbours", required=True),
    Package("PIL", "pillow", "reading photos", required=True),
    Package("pycolmap", "pycolmap", "matching and bundle adjustment", required=True),
    Package("poselib", "poselib", "poses from point maps", required=True),
    Package("numba", "numba", "rendering Gaussians on the CPU", required=True),
    Package("plyfile", "plyfile", "PLY files", required=True),
    Package("safetensors", "safetensors", "reading weights", required=True),
    Package("open3d", "open3d-cpu", "meshes", required=True),
    # Importing gsplat may start its compiler; the version is all that is asked here.
    Package("gsplat", "gsplat", "rendering Gaussians on CUDA", load=False),
    Package("pillow_heif", "pillow-heif", "HEIC photos", extra="heif"),
    Package("av", "av", "video", extra="video"),
    Package("OpenEXR", "OpenEXR", "EXR depth maps", extra="exr"),
    Package("torchmetrics", "torchmetrics", "LPIPS", extra="metrics"),
)


def examine(folder: Path | None = None) -> list[Check]:
    """Look at everything; takes seconds, because torch and Open3D are loaded.

    Args:
        folder: where results would be written; the current folder when omitted.
    """
    checks = [_python(), _platform(), _cores(), _memory(), _disk(folder or Path.cwd())]
    checks += _torch_and_device()
    checks += [check_package(package) for package in PACKAGES]
    return checks + _weights()


def _python() -> Check:
    good = sys.version_info >= MIN_PYTHON
    fix = "" if good else f"install Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer"
    return Check("python", "ok" if good else "bad", platform.python_version(), fix)


def _platform() -> Check:
    return Check("platform", "ok", f"{platform.system()} {platform.release()} {platform.machine()}")


def _cores() -> Check:
    return Check("cores", "ok", str(cpu_count()))


def _memory() -> Check:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return Check("memory", "ok", "not measured on this system")
    sizes = {key: int(kib) / 2**20 for key, kib in re.findall(r"^(\w+):\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)}
    value = f"{sizes['MemAvailable']:.1f} GiB free of {sizes['MemTotal']:.1f} GiB"
    if sizes["MemAvailable"] >= MIN_MEMORY_GIB:
        return Check("memory", "ok", value)
    return Check("memory", "warn", value, "close other programs, or use --preset fast and --max-memory 2G")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / GIB
    value = f"{free:.1f} GiB free at {folder}"
    if not os.access(folder, os.W_OK):
        return Check("disk", "warn", f"{folder} is not writable", "write somewhere else with -o")
    if free >= MIN_DISK_GIB:
        return Check("disk", "ok", value)
    return Check("disk", "warn", value, "free some space or write to another disk with -o")


def _torch_and_device() -> list[Check]:
    driver = nvidia_driver()
    driver_check = Check("driver", "ok", driver or "no NVIDIA driver")
    torch_check = check_package(Package("torch", "torch", "the network", required=True))
    if torch_check.status == "bad":
        return [driver_check, torch_check]
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        free = torch.cuda.mem_get_info()[0] / GIB
        device = Check("device", "ok", f"cuda: {', '.join(names)}, {free:.1f} GiB free, CUDA {torch.version.cuda}")
    elif torch.backends.mps.is_available():
        device = Check("device", "ok", "mps")
    elif driver:
        fix = "install the CUDA build of torch that fits the driver: pip install --upgrade torch"
        device = Check("device", "warn", f"cpu, although a driver is there; torch {torch.__version__}", fix)
    else:
        device = Check("device", "ok", "cpu")
    return [driver_check, torch_check, device]


def nvidia_driver() -> str:
    """Driver version and cards as nvidia-smi tells them; empty where there is no working driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError):
        return ""
    return "; ".join(answer.stdout.strip().splitlines())


def check_package(package: Package) -> Check:
    """Whether a package is installed and loads; the fix names a missing system library where that is the reason."""
    failing: Status = "bad" if package.required else "warn"
    install = f"pip install 'flarecli[{package.extra}]'" if package.extra else f"pip install {package.distribution}"
    found = _installed_version(package)
    if found is None:
        return Check(package.module, failing, f"not installed (for {package.purpose})", install)
    if package.load:
        try:
            load_module(package.module)
        except (ImportError, OSError, RuntimeError) as error:
            return Check(
                package.module,
                failing,
                f"{found}, does not load: {_one_line(error)}",
                library_fix(str(error)) or install,
            )
    return Check(package.module, "ok", found)


def _installed_version(package: Package) -> str | None:
    # Open3D comes under two names for the same module.
    for name in (package.distribution, package.distribution.removesuffix("-cpu")):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def library_fix(error: str) -> str:
    """The apt line for a shared library that an import error names; empty where it names none."""
    match = re.search(r"(lib[\w.+-]+\.so(?:\.\d+)*)", error)
    if match is None:
        return ""
    package = OPEN3D_LIBRARIES.get(match.group(1))
    return f"apt-get install {package}" if package else f"install the system package that holds {match.group(1)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _weights() -> list[Check]:
    from flarecli.model.hub import pull_hint, weights_of, weights_status

    try:
        statuses = weights_status()
    except WeightsError as error:
        return [Check("weights", "bad", error.message, error.hint)]
    checks = []
    for status in statuses:
        weights = weights_of(status.spec)
        licence = f"{weights.licence}, {'any' if weights.commercial else 'no commercial'} use"
        name = f"weights {status.spec.name}"
        if status.path is not None:
            size = status.size_bytes / 1e6
            checks.append(Check(name, "ok", f"{status.path} ({size:.0f} MB, {licence})"))
        else:
            missing: Status = "bad" if status.spec.name == DEFAULT_MODEL else "warn"
            checks.append(Check(name, missing, f"absent ({licence})", pull_hint(status.spec)))
    return checks
