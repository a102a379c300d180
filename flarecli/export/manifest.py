"""``flare.json``: what was made, from what, with what, and how sure we are. The schema is in docs/manifest.md."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from flarecli.errors import InputError
from flarecli.scene.names import stays_inside
from flarecli.scene.reconstruction import Reconstruction

MANIFEST_NAME = "flare.json"
FORMAT_VERSION = 1
_MAX_BYTES = 256 * 2**20
# What readers take for granted, of the manifest and of each row of its lists.
_KINDS = {"files": list, "photos": list, "counts": dict, "model": dict, "options": dict, "exports": dict}
_KINDS |= {"warnings": list, "render_back": dict}
_ROWS = {
    "files": {"path": str, "bytes": int, "sha256": str},
    "photos": {"name": str, "status": str, "reason": str},
}
_LIBRARIES = ("torch", "numpy", "pycolmap", "open3d-cpu", "open3d", "pillow", "plyfile", "poselib", "scipy")


def build_manifest(
    reconstruction: Reconstruction,
    folder: Path,
    *,
    options: Mapping[str, Any],
    timings_s: Mapping[str, float],
    exports: Mapping[str, list[str]] | None = None,
    warnings: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Describe a scene folder whose other files are all written.

    Args:
        reconstruction: what the files were written from.
        folder: scene folder; every file in it is listed with size and sha256.
        options: the options that were used, JSON values only.
        timings_s: seconds per stage.
        exports: files of each exporter, relative to the folder.
        warnings: lines for the user.
    """
    tracks, cameras = reconstruction.tracks, reconstruction.cameras
    provenance = dict(reconstruction.provenance)
    statuses = [verdict.status for verdict in reconstruction.verdicts]
    return {
        "format": "flarecli scene",
        "format_version": FORMAT_VERSION,
        "flarecli": _version("flarecli"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name))},
        "model": provenance,
        "options": dict(options),
        "timings_s": {stage: round(float(seconds), 3) for stage, seconds in timings_s.items()},
        "confidence": float(reconstruction.confidence),
        "metric_scale": bool(reconstruction.metric_scale),
        "counts": {
            "photos": len(statuses) or len(reconstruction),
            "cameras": len(reconstruction),
            **{status: statuses.count(status) for status in ("verified", "network-only", "dropped")},
            "sparse_points": len(tracks),
            "observations": len(tracks.point_index),
            "dense_points": len(reconstruction.points),
            "gaussians": _count_gaussians(reconstruction, exports or {}),
        },
        "reprojection_px": float(np.mean(tracks.error_px)) if len(tracks) else None,
        "photos": [dataclasses.asdict(verdict) for verdict in reconstruction.verdicts],
        "lens_k1": dict(zip(reconstruction.image_names, map(float, np.asarray(cameras.k1)), strict=True)),
        "exports": dict(exports or {}),
        "warnings": list(warnings),
        "next": next_commands(folder),
        "files": describe_files(folder),
    }


def _count_gaussians(reconstruction: Reconstruction, exports: Mapping[str, list[str]]) -> int:
    """Gaussians of the scene, or those that were written as first ones: one per dense point."""
    for own in (reconstruction.gaussians, reconstruction.first_gaussians):
        if own is not None:
            return len(own)
    return len(reconstruction.points) if exports.get("gaussians") else 0


def next_commands(folder: Path) -> list[str]:
    """Commands of other programs that take the scene as it is."""
    commands = []
    if (folder / "sparse/0/cameras.bin").is_file():
        commands += [
            "python examples/simple_trainer.py default --data_dir SCENE --data_factor 1",
            "ns-train splatfacto colmap --data SCENE --colmap-path sparse/0 --downscale-factor 1",
            "colmap gui --import_path SCENE/sparse/0 --image_path SCENE/images",
        ]
    if (folder / "transforms.json").is_file():
        commands.append("ns-train splatfacto nerfstudio-data --data SCENE")
    return commands


def describe_files(folder: Path) -> list[dict[str, Any]]:
    """Path, size in bytes and sha256 of every file below a folder except the manifest itself, sorted by path."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST_NAME:
            found.append({"path": name, "bytes": path.stat().st_size, "sha256": _sha256(path)})
    return found


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """Write flare.json; strict JSON, so NaN is a ValueError."""
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path


def update_manifest(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Set keys of an existing manifest; the old file stays until the new one is whole.

    Raises:
        InputError: as :func:`read_manifest`.
        OSError: the folder can't be written.
    """
    manifest = read_manifest(folder) | dict(values)
    with tempfile.TemporaryDirectory(prefix=".manifest-", dir=folder) as beside:
        write_manifest(Path(beside), manifest).replace(folder / MANIFEST_NAME)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Content of flare.json.

    Raises:
        InputError: no manifest, not one of ours, damaged, incomplete, or of a newer format.
    """
    manifest = _load(folder)
    # The first versions of this program did not render back.
    known = {"render_back": {}} | manifest
    odd = _misfits(known, _KINDS)
    for key, kinds in _ROWS.items():
        if key not in odd and any(not isinstance(row, dict) or _misfits(row, kinds) for row in manifest[key]):
            odd.append(key)
    if odd:
        message = f"{folder / MANIFEST_NAME} is damaged: {', '.join(odd)} missing or not as they should be"
        raise InputError(message, "reconstruct again with --overwrite")
    return manifest


def _misfits(values: Mapping[str, Any], kinds: Mapping[str, type]) -> list[str]:
    """Keys that are missing or whose values are of another kind."""
    return [key for key, kind in kinds.items() if not isinstance(values.get(key), kind)]


def _load(folder: Path) -> dict[str, Any]:
    """A manifest of which only format and version are known to be right.

    Raises:
        InputError: as :func:`read_manifest`, for anything but missing parts.
    """
    path = folder / MANIFEST_NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is too large for a manifest", "reconstruct again with --overwrite")
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no {MANIFEST_NAME}", "give a folder that flare reconstruct wrote") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}", "reconstruct again with --overwrite") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "flarecli scene":
        raise InputError(f"{path} was not written by flarecli", "give a folder that flare reconstruct wrote")
    version = manifest.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}; this program knows {FORMAT_VERSION}", "update flarecli")
    return manifest


def file_problems(folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with files that a manifest lists, by their names: missing, or of another size or content.

    The checksums of 100 MB take 0.2 s.
    """
    found = {entry["path"]: _problem(folder / entry["path"], entry) for entry in manifest["files"]}
    return {name: problem for name, problem in found.items() if problem}


def _problem(path: Path, entry: Mapping[str, Any]) -> str | None:
    size = entry["bytes"]
    try:
        if not path.is_file():
            return "is missing"
        if (found := path.stat().st_size) != size:
            return f"has {found} bytes instead of {size}"
        same = _sha256(path) == entry["sha256"]
    except (OSError, ValueError) as error:  # a name that can't be one is a ValueError
        return f"can't be read: {error}"
    return None if same else "has the right size and other content"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed_files(folder: Path) -> set[str]:
    """Relative paths that the manifest of a folder lists; empty without a valid manifest, unsafe paths left out."""
    try:
        files = _load(folder).get("files", [])
    except InputError:
        # An output of somebody else: then nothing in it is ours, and nothing may be replaced.
        return set()
    names = {entry.get("path") for entry in files if isinstance(entry, dict)} if isinstance(files, list) else set()
    return {name for name in names if isinstance(name, str) and stays_inside(name)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
