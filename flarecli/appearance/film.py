"""Films of a scene: a .mp4 or a folder of PNG frames."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flarecli.appearance.frames import FrameSink, frame_folder
from flarecli.appearance.paths import CameraPath
from flarecli.appearance.photos import Progress
from flarecli.appearance.pictures import Quantity, color_picture, depth_picture, normals_picture
from flarecli.errors import InputError, OutputError, OutputExists
from flarecli.render.rasterize import render
from flarecli.render.splats import Splats
from flarecli.runtime import require

_DEPTH_SHARES = (2, 98)


@dataclass(frozen=True, kw_only=True)
class FilmLook:
    """What a film shows: the quantity, frames per second, the background's grey, and the rendering mode."""

    quantity: Quantity = "color"
    fps: int = 30
    background: float = 0.0
    antialiased: bool = False


def write_film(
    splats: Splats,
    path: CameraPath,
    output: Path,
    look: FilmLook,
    *,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Path:
    """Render a camera path into ``output``: a film where it ends in .mp4, else a folder of frame_0000.png and so on.

    Nothing appears under the final name before it is whole. ``overwrite`` replaces a film, and in a folder the frames
    of an earlier one; see :func:`frame_folder`.

    Raises:
        OutputExists: the output is there already, without ``overwrite``, or something that is not ours has its place.
        MissingDependency: a .mp4 needs the extra ``video``.
        InputError: another suffix of a film.
        OutputError: it can't be written.
    """
    near_far = depth_range(splats, path)
    with _sink(output, path, look.fps, overwrite) as add:
        for frame in range(len(path.w2c)):
            w2c, K = (torch.tensor(each[frame : frame + 1], dtype=torch.float32) for each in (path.w2c, path.K))
            device = splats.means.device
            with torch.no_grad():
                rendered = render(
                    splats,
                    w2c.to(device),
                    K.to(device),
                    path.size_hw,
                    antialiased=look.antialiased,
                    background=(look.background,) * 3,
                    with_normals=look.quantity == "normals",
                )
            if look.quantity == "color":
                add(color_picture(rendered))
            elif look.quantity == "depth":
                add(depth_picture(rendered, near_far))
            else:
                add(normals_picture(rendered))
            if on_progress:
                on_progress("frames", frame + 1, len(path.w2c))
    return output


def depth_range(splats: Splats, path: CameraPath) -> tuple[float, float]:
    """Depths between which a film of depth spreads its colours: those of the middle 96 percent of the Gaussians."""
    w2c = torch.tensor(path.w2c[:: max(1, len(path.w2c) // 8)], dtype=torch.float32)
    means = splats.means.detach().cpu()
    depth = torch.cat([means @ each[2, :3] + each[2, 3] for each in w2c]).numpy()
    depth = depth[depth > 0]
    if not len(depth):
        return 0.1, 1.0
    near, far = np.percentile(depth, _DEPTH_SHARES)
    return float(near), float(max(far, near * 1.001))


@contextmanager
def _sink(output: Path, path: CameraPath, fps: int, overwrite: bool) -> Iterator[FrameSink]:
    suffix = output.suffix.lower()
    if suffix and suffix != ".mp4" and not output.is_dir():
        raise InputError(f"{output}: a film is an .mp4, frames are a folder", "write -o fly.mp4 or -o frames")
    if suffix == ".mp4":
        sink = _mp4(output, path.size_hw, fps, overwrite)
    else:
        sink = frame_folder(output, len(path.w2c), overwrite=overwrite)
    with sink as add:
        yield add


@contextmanager
def _mp4(output: Path, size_hw: tuple[int, int], fps: int, overwrite: bool) -> Iterator[FrameSink]:
    if output.is_dir():
        raise OutputExists(f"{output} is a folder", "choose another -o")
    if output.exists() and not overwrite:
        raise OutputExists(f"{output} exists", "--overwrite replaces it, or choose another -o")
    av: Any = require("av", "films")
    # H.264 with its usual colour format halves the colour's resolution: the size must be even.
    height, width = (each - each % 2 for each in size_hw)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.partial-", dir=output.parent) as beside:
            part = Path(beside) / "film.mp4"
            with av.open(str(part), "w") as container:
                stream = container.add_stream("libx264", rate=Fraction(fps))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.options = {"crf": "18"}

                def add(frame: np.ndarray) -> None:
                    pixels = np.ascontiguousarray(frame[:height, :width])
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))

                yield add
                container.mux(stream.encode())
            part.replace(output)
    except (OSError, av.error.FFmpegError) as error:
        raise OutputError(f"{output} can't be written: {error}", "frames need no encoder: choose a folder") from error
