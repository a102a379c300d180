"""Depth and confidence per photo, as .npz and as OpenEXR.

``depth/NAME.npz`` holds ``depth`` (z-depth in world units, 0 = none), ``confidence`` (>= 1) and ``K`` in the pixels of
the map; NAME is the whole name of the photo with its sub-folders, so photo.jpg gives depth/photo.jpg.npz.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flarecli.errors import InputError
from flarecli.export.npz import read_npz
from flarecli.runtime import require
from flarecli.scene.reconstruction import DepthMap, Reconstruction


def _targets(reconstruction: Reconstruction, scene_folder: Path, suffix: str) -> list[tuple[Path, DepthMap]]:
    pairs = zip(reconstruction.image_names, reconstruction.depth_maps, strict=False)
    found = [(scene_folder / "depth" / f"{name}{suffix}", part) for name, part in pairs if part is not None]
    for path, _ in found:
        path.parent.mkdir(parents=True, exist_ok=True)
    return found


def write_depth(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write depth/NAME.npz for every photo that has depth."""
    targets = _targets(reconstruction, scene_folder, ".npz")
    for path, part in targets:
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, depth=part.depth, confidence=part.confidence, K=part.K)
    return [path for path, _ in targets]


def read_depth(path: Path) -> DepthMap:
    """Read one depth/NAME.npz.

    Raises:
        InputError: damaged, hostile, or not a depth map.
    """
    arrays = read_npz(path)
    try:
        return DepthMap(arrays["depth"], arrays["confidence"], arrays["K"])
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not a depth map: {error}", "give a file of a scene's folder depth") from error


def write_depth_exr(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write depth/NAME.exr with 32-bit float channels Z and confidence.

    Raises:
        MissingDependency: the package OpenEXR is not installed.
    """
    exr = require("OpenEXR", "EXR depth maps")
    targets = _targets(reconstruction, scene_folder, ".exr")
    for path, part in targets:
        header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
        # The file object keeps the arrays that it is given, and ours are read-only.
        channels = {"Z": part.depth.copy(), "confidence": part.confidence.copy()}
        exr.File(header, channels).write(str(path))
    return [path for path, _ in targets]
