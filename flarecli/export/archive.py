"""``scene.npz``: the whole reconstruction in one file that loads back bit by bit.

Arrays are stored under ``part.field`` (``cameras.c2w``, ``tracks.pixel``, ``depth.0.K`` ...); ``header`` is UTF-8 JSON
with everything that is not an array.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from flarecli.errors import InputError
from flarecli.export.npz import read_npz
from flarecli.scene.cameras import Cameras
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.reconstruction import DepthMap, PhotoVerdict, PointCloud, Reconstruction, Tracks

ARCHIVE_NAME = "scene.npz"
ARCHIVE_VERSION = 1


def save_scene(reconstruction: Reconstruction, folder: Path) -> list[Path]:
    """Write scene.npz into a folder; the same reconstruction gives the same bytes."""
    parts = {"cameras": reconstruction.cameras, "points": reconstruction.points, "tracks": reconstruction.tracks}
    if reconstruction.gaussians is not None:
        parts["gaussians"] = reconstruction.gaussians
    if reconstruction.first_gaussians is not None:
        parts["first_gaussians"] = reconstruction.first_gaussians
    parts |= {f"depth.{view}": part for view, part in enumerate(reconstruction.depth_maps) if part is not None}
    arrays = {
        f"{name}.{field.name}": getattr(part, field.name)
        for name, part in parts.items()
        for field in dataclasses.fields(part)
        if getattr(part, field.name) is not None
    }
    header = {
        "format": "flarecli archive",
        "version": ARCHIVE_VERSION,
        "image_names": list(reconstruction.image_names),
        "depth_maps": [depth_map is not None for depth_map in reconstruction.depth_maps],
        "has_gaussians": reconstruction.gaussians is not None,
        "verdicts": [dataclasses.asdict(verdict) for verdict in reconstruction.verdicts],
        "confidence": float(reconstruction.confidence),
        "metric_scale": bool(reconstruction.metric_scale),
        "provenance": dict(reconstruction.provenance),
    }
    text = json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    path = folder / ARCHIVE_NAME
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, header=np.frombuffer(text, np.uint8), **arrays)
    return [path]


def load_scene(folder: Path) -> Reconstruction:
    """Read the reconstruction of a scene folder, or of the path of a scene.npz.

    Raises:
        InputError: missing, damaged, hostile, or of a newer version.
    """
    path = folder if folder.suffix == ".npz" else folder / ARCHIVE_NAME
    if not path.is_file():
        raise InputError(f"{folder} holds no {ARCHIVE_NAME}", "give a folder that flare reconstruct wrote")
    arrays = read_npz(path)
    try:
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != "flarecli archive":
            raise ValueError("not an archive of this program")
        if header["version"] != ARCHIVE_VERSION:
            raise InputError(f"{path} has version {header['version']}, this program reads 1", "update flarecli")
        return _assemble(header, arrays)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}", "reconstruct again with --overwrite") from error


def _assemble(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reconstruction:
    def part(kind: type, name: str) -> Any:
        values = {
            field.name: arrays[f"{name}.{field.name}"]
            for field in dataclasses.fields(kind)
            if f"{name}.{field.name}" in arrays or field.default is dataclasses.MISSING
        }
        for key, value in values.items():
            if value.dtype.kind not in "fiub":
                raise ValueError(f"{name}.{key} holds no numbers")
        return kind(**values)

    verdicts = tuple(PhotoVerdict(**verdict) for verdict in header["verdicts"])
    if not all(isinstance(name, str) for name in header["image_names"]):
        raise ValueError("image names must be text")
    return Reconstruction(
        image_names=tuple(header["image_names"]),
        cameras=part(Cameras, "cameras"),
        points=part(PointCloud, "points"),
        tracks=part(Tracks, "tracks"),
        depth_maps=tuple(
            part(DepthMap, f"depth.{view}") if there else None for view, there in enumerate(header["depth_maps"])
        ),
        gaussians=part(Gaussians, "gaussians") if header["has_gaussians"] else None,
        first_gaussians=part(Gaussians, "first_gaussians") if "first_gaussians.means" in arrays else None,
        verdicts=verdicts,
        confidence=float(header["confidence"]),
        metric_scale=bool(header["metric_scale"]),
        provenance=dict(header["provenance"]),
    )
