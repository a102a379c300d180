"""Run the fused ray caster ``renderer.h`` on the device that holds the scenes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flarecli.errors import MissingDependency
from flarecli.runtime import require
from flarecli.train.primitives import PRIMS, RECORD
from flarecli.train.textures import TextureStack

_SOURCE = Path(__file__).with_name("renderer.h")
_CPU_LANES = 16
_CUDA_THREADS = 128
MISS = 1e5
"""Depths above this are rays that hit nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Cameras:
    """N cameras; the image of camera n shows scene ``scene_of[n]``.

    Attributes:
        centre: (N, 3) in the world.
        rotation: (N, 3, 3) camera to world.
        focal: (N,) focal length divided by the long image side.
        portrait: (N,) images that are stored transposed.
        scene_of: (N,) index of the scene.
    """

    centre: Tensor
    rotation: Tensor
    focal: Tensor
    portrait: Tensor
    scene_of: Tensor

    def pack(self) -> Tensor:
        """(N, 14) records in the order ``renderer.h`` reads."""
        parts = [self.centre, self.rotation.flatten(1), self.focal[:, None], self.portrait[:, None].float()]
        return torch.cat(parts, 1).float().contiguous()


@dataclass(frozen=True, slots=True)
class RenderSize:
    """Landscape storage size and quality; ``samples`` squared rays per pixel, 0 renders depth only."""

    height: int
    width: int
    samples: int = 2
    shadows: bool = True


def render(
    records: Tensor, lights: Tensor, cameras: Cameras, textures: TextureStack, size: RenderSize
) -> tuple[Tensor, Tensor, Tensor]:
    """Render N images of S scenes.

    Args:
        records: (S, PRIMS, RECORD) scene tables.
        lights: (S, 7) position, ambient, colour.
        cameras: N cameras.
        textures: stack on the same device.
        size: image size.

    Returns:
        Colours (N, 3, H, W) from 0 to 1.6, z-depth (N, H, W) above :data:`MISS` where nothing was hit, and the index of
        the primitive (N, H, W) uint8, 255 where none.
    """
    device, count = records.device, len(cameras.focal)
    rgb = torch.zeros(count, 3, size.height, size.width, device=device)
    depth = torch.zeros(count, size.height, size.width, device=device)
    index = torch.zeros(count, size.height, size.width, dtype=torch.uint8, device=device)
    inputs = [records.float().contiguous(), cameras.scene_of.int().contiguous(), cameras.pack()]
    inputs += [lights.float().contiguous(), textures.texels, textures.offsets]
    numbers = [len(textures.offsets), textures.size, count, size.height, size.width, size.samples, int(size.shadows)]
    outputs = [rgb, depth, index]
    if device.type == "cuda":
        _launch(inputs, numbers, outputs)
    else:
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (*inputs, *outputs)]
        _library().render_images(*pointers[:6], *numbers, *pointers[6:])
    return rgb, depth, index


def _launch(inputs: list[Tensor], numbers: list[int], outputs: list[Tensor]) -> None:
    import numpy as np

    cupy = require("cupy", "Scenes rendered on CUDA")
    count, pixels = numbers[2], numbers[3] * numbers[4]
    grid = ((pixels + _CUDA_THREADS - 1) // _CUDA_THREADS, count)
    pointer = [np.uint64(t.data_ptr()) for t in (*inputs, *outputs)]
    arguments = (*pointer[:6], *(np.int32(n) for n in numbers), *pointer[6:])
    device = outputs[0].device  # need not be the current one, which CuPy and torch would take
    stream = torch.cuda.current_stream(device).cuda_stream
    with cupy.cuda.Device(device.index), cupy.cuda.ExternalStream(stream, device.index):
        _kernel()(grid, (_CUDA_THREADS,), arguments)


@functools.cache
def _kernel():
    cupy = require("cupy", "Scenes rendered on CUDA")
    defines = f"#define LANES 1\n#define PRIMS {PRIMS}\n#define RECORD {RECORD}\n"
    return cupy.RawKernel(defines + _SOURCE.read_text(), "render_kernel", options=("--use_fast_math", "--std=c++14"))


@functools.cache
def _library() -> ctypes.CDLL:
    """The compiled CPU renderer, built once per source, machine and user.

    Raises:
        MissingDependency: there is no C++ compiler, or it fails.
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise MissingDependency("Rendering training scenes needs a C++ compiler", "install g++")
    # Not -ffast-math: some linkers then make denormal numbers zero in the whole process.
    fast = "no-math-errno no-trapping-math no-signed-zeros associative-math reciprocal-math finite-math-only"
    flags = ["-x", "c++", "-O3", "-march=native", *(f"-f{flag}" for flag in fast.split()), "-shared", "-fPIC"]
    flags += [f"-DLANES={_CPU_LANES}", f"-DPRIMS={PRIMS}", f"-DRECORD={RECORD}"]
    key = hashlib.sha256("|".join([*flags, compiler, _cpu_name()]).encode() + _SOURCE.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flarecli"
    library = cache / f"renderer-{key}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            built = Path(scratch) / library.name
            try:
                subprocess.run([compiler, *flags, "-o", built, _SOURCE], check=True, capture_output=True, text=True)
            except subprocess.CalledProcessError as error:
                lines = (line for line in error.stderr.splitlines() if "error" in line)
                message = f"{compiler} can't compile {_SOURCE.name}: {next(lines, f'exit code {error.returncode}')}"
                raise MissingDependency(message, "install a g++ that knows C++14 and -march=native") from error
            built.replace(library)
    return ctypes.CDLL(str(library))


def _cpu_name() -> str:
    """What ``-march=native`` depends on: a cache folder may be shared by different machines."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")] if cpuinfo.exists() else []
    return platform.machine() + (flags[0] if flags else platform.processor())
