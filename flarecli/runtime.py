"""Decisions about the machine, made once per run: device, precision, threads, memory, seeds, optional packages."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from flarecli.errors import InputError, MissingDependency, was_interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_EXTRA_OF = {
    "pillow_heif": "heif",
    "av": "video",
    "torchmetrics": "metrics",
    "OpenEXR": "exr",
}
# Debian and Ubuntu packages of the shared libraries that the wheel of Open3D expects from the system. setup.sh, which
# runs before there is a package to ask, holds the same list.
OPEN3D_LIBRARIES = {
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
    "libidn2.so.0": "libidn2-0",
    "libudev.so.1": "libudev1",
    "libgomp.so.1": "libgomp1",
}
_HINT_OF = {
    "open3d": f"on Debian/Ubuntu: apt-get install {' '.join(OPEN3D_LIBRARIES.values())}",
    "cupy": "pip install cupy-cuda12x or cupy-cuda13x, by the CUDA version that nvidia-smi shows",
}


def load_module(name: str) -> ModuleType:
    """Import a package by its name; SIGTERM stays with whom it belonged to.

    pycolmap takes that signal over while it loads, to print a stack trace and die, past every clean-up. So whoever may
    be the first to load it in a process does it here, or through :func:`require`.

    Raises:
        ImportError: the package, or something that it needs, is absent.
        OSError: a system library does not load.
    """
    try:
        return importlib.import_module(name)
    finally:
        # Python has a say only in handlers that it knows, and only in its first thread.
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def require(module: str, purpose: str) -> ModuleType:
    """Import an optional package, or say how to install it.

    Args:
        module: importable name, for example ``pillow_heif``.
        purpose: what the package is needed for, as it should read in the error ("HEIC photos").

    Raises:
        MissingDependency: the package, or a system library that it loads, is absent or broken.
    """
    try:
        return load_module(module)
    except (ImportError, OSError, RuntimeError) as failure:
        if was_interrupted(failure):
            raise KeyboardInterrupt from failure
        # pycolmap wraps what the system said about its library into a RuntimeError with advice of its own.
        error = failure.__cause__ if isinstance(failure, RuntimeError) else failure
        if not isinstance(error, ImportError | OSError):
            raise
        extra = _EXTRA_OF.get(module)
        hint = f"pip install 'flarecli[{extra}]'" if extra else _HINT_OF.get(module, "pip install -e .")
        raise MissingDependency(f"{purpose} need the package {module}, which does not load: {error}", hint) from failure


def resolve_device(name: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` into a device that exists.

    Raises:
        InputError: the name is unknown or the machine has no such device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}", "use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"device {name} is not available", "run `flare doctor`, or use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps is not available", "use --device cpu")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise InputError(f"device {name} is not supported", "use auto, cpu, cuda, cuda:N or mps")
    return device


def device_name(device: torch.device) -> str:
    """What the device is called in logs: the model of a CUDA card, else its type."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def inference_precision(
    device: torch.device, precision: Literal["bfloat16", "float32"] = "bfloat16"
) -> contextlib.AbstractContextManager[object]:
    """Autocast to bfloat16 on CUDA cards that compute in it, if the network is meant for that; float32 elsewhere."""
    import torch

    if precision == "float32":
        return _tf32_products() if device.type == "cuda" else contextlib.nullcontext()
    # Cards without bfloat16 emulate it, slower than float32.
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _tf32_products() -> Iterator[None]:
    """Products of float32 matrices with the 10 bits of TF32, which is enough for inference."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy, torch and pycolmap so that the same input gives the same output.

    Raises:
        MissingDependency: pycolmap does not load.
    """
    import numpy as np
    import torch

    pycolmap = require("pycolmap", "reconstructions")
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)
    pycolmap.set_random_seed(seed)


def cpu_count() -> int:
    """Cores this process may use (honours affinity, unlike ``os.cpu_count``)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def parse_size(text: str) -> int:
    """Bytes from ``8G``, ``512M``, ``1.5G``, ``4096``; powers of 1024.

    Raises:
        InputError: not a size.
    """
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    cleaned = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = cleaned[-1:] if cleaned[-1:].isalpha() else ""
    try:
        size = int(float(cleaned.removesuffix(unit)) * units[unit])
    except (KeyError, ValueError) as error:
        raise InputError(f"not a memory size: {text!r}", "write for example 8G or 512M") from error
    if size <= 0:
        raise InputError(f"a memory size must be positive: {text!r}", "write a size such as 6G or 800M")
    return size


def available_memory(device: torch.device) -> int:
    """Free bytes on the device: GPU memory on CUDA, else what system and container give without swapping."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    left = _left_in_container(Path("/sys/fs/cgroup"))
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
                return free if left is None else min(free, left)
    return 8 * 2**30 if left is None else left


def _left_in_container(cgroup: Path) -> int | None:
    """Bytes below the limit of a control group (version 2), cached files being free; None where no limit is set."""
    try:
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(counts.get("inactive_file", 0)))
    except (OSError, ValueError):  # no such files, or "max"
        return None
