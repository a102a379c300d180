"""Reading back what was written, with readers that are not ours where there are: pycolmap, plyfile, Open3D, json."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from flarecli.errors import InputError, VerificationError
from flarecli.export.archive import ARCHIVE_NAME, load_scene
from flarecli.export.gaussian_files import read_gaussians
from flarecli.export.manifest import MANIFEST_NAME, file_problems, read_manifest
from flarecli.runtime import require
from flarecli.scene.reconstruction import Reconstruction

_ORIENTATION_TAG = 274
_AGAIN = "write it again; if it stays so, the disk or the memory is at fault"
_POSE_TOLERANCE = 1e-6  # of the extent of the cameras
_ERROR_TOLERANCE_PX = 0.01


def verify_scene(folder: Path) -> list[str]:
    """Check every file of a scene folder; returns the names of what was checked.

    Raises:
        VerificationError: a file is missing, does not read, or disagrees with another one; the message names it.
        MissingDependency: a reader does not load.
    """
    checked: list[str] = []
    scene = _read(folder / ARCHIVE_NAME, lambda: load_scene(folder)) if (folder / ARCHIVE_NAME).is_file() else None
    checks: list[tuple[str, Callable[[Path], None]]] = [
        ("sparse/0", lambda path: _check_colmap(path, folder / "images", scene)),
        ("sparse_text/0", lambda path: _check_colmap(path, folder / "images", scene)),
        ("points.ply", lambda path: _check_points(path, None if scene is None else len(scene.points))),
        ("gaussians.ply", _check_gaussians),
        ("gaussians.splat", lambda path: _check_packed(path, folder, 32)),
        ("gaussians.spz", lambda path: _check_packed(path, folder, None)),
        ("gaussians.sog", lambda path: _check_packed(path, folder, None)),
        ("mesh.ply", _check_mesh),
        ("mesh.glb", _check_glb),
        ("transforms.json", lambda path: _check_transforms(path, scene)),
        ("depth", lambda path: _check_depth(path, scene)),
        (MANIFEST_NAME, lambda path: _check_manifest(folder)),
    ]
    for name, check in checks:
        if (folder / name).exists():
            check(folder / name)
            checked.append(name)
    if not checked:
        raise VerificationError(f"{folder} holds nothing that could be verified", "give a folder of flare reconstruct")
    return checked


def _read(path: Path, reader: Callable[[], Any]) -> Any:
    """Run a reader; whatever it raises about the file becomes a VerificationError that names the file."""
    try:
        return reader()
    except (
        InputError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        RuntimeError,
        EOFError,
        zipfile.BadZipFile,
    ) as error:
        raise VerificationError(f"{path} does not read back: {error}", _AGAIN) from error


def _require(condition: bool, path: Path, what: str) -> None:
    if not condition:
        raise VerificationError(f"{path}: {what}", _AGAIN)


def _check_image(path: Path, size_wh: tuple[int, int]) -> None:
    try:
        with Image.open(path) as image:
            found, orientation = image.size, image.getexif().get(_ORIENTATION_TAG, 1)
    except FileNotFoundError as error:
        raise VerificationError(f"{path} is missing", "write the scene again with --overwrite") from error
    except (OSError, UnidentifiedImageError) as error:
        raise VerificationError(
            f"{path} is not a readable image: {error}",
            _AGAIN,
        ) from error
    _require(found == size_wh, path, f"is {found[0]} x {found[1]}, its camera {size_wh[0]} x {size_wh[1]}")
    _require(orientation == 1, path, f"has the EXIF orientation {orientation}; the copies must be upright")


def _check_colmap(path: Path, images: Path, scene: Reconstruction | None) -> None:
    pycolmap = require("pycolmap", "COLMAP models")
    model = _read(path, lambda: pycolmap.Reconstruction(str(path)))
    _require(bool(model.is_valid()), path, "pycolmap calls the model invalid")
    stored = {point_id: point.error for point_id, point in model.points3D.items()}
    model.update_point_3d_errors()
    worst = max((abs(point.error - stored[i]) for i, point in model.points3D.items()), default=0.0)
    _require(worst < _ERROR_TOLERANCE_PX, path, f"stored reprojection errors are off by up to {worst:.3g} px")
    by_name = {}
    for image in model.images.values():
        camera = model.cameras[image.camera_id]
        _check_image(images / image.name, (camera.width, camera.height))
        by_name[image.name] = image
    if scene is None:
        return
    _require(set(by_name) == set(scene.image_names), path, "its images are not those of the scene")
    _require(model.num_points3D() == len(scene.tracks), path, "it lost sparse points")
    _require(model.compute_num_observations() == len(scene.tracks.point_index), path, "it lost observations")
    extent = float(np.abs(scene.cameras.w2c[:, :3]).max(initial=1.0))
    for view, name in enumerate(scene.image_names):
        matrix = by_name[name].cam_from_world().matrix()
        off = float(np.abs(matrix - scene.cameras.w2c[view, :3]).max())
        _require(off < _POSE_TOLERANCE * extent, path, f"the pose of {name} is off by {off:.3g}")
        K = model.cameras[by_name[name].camera_id].calibration_matrix()
        _require(np.allclose(K, scene.cameras.K[view], rtol=1e-9), path, f"the intrinsics of {name} changed")


def _vertices(path: Path) -> Any:
    plyfile = require("plyfile", "PLY files")
    try:
        return plyfile.PlyData.read(str(path))["vertex"].data
    except (plyfile.PlyParseError, OSError, ValueError, KeyError) as error:
        raise VerificationError(f"{path} does not read back: {error}", _AGAIN) from error


def _require_finite(path: Path, vertices: np.ndarray) -> None:
    for name in vertices.dtype.names or ():
        _require(bool(np.isfinite(vertices[name]).all()), path, f"{name} holds values that are not finite")


def _check_points(path: Path, expected: int | None) -> None:
    vertices = _vertices(path)
    _require(expected is None or len(vertices) == expected, path, f"has {len(vertices)} points instead of {expected}")
    _require_finite(path, vertices)


def _check_gaussians(path: Path) -> None:
    vertices = _vertices(path)
    names = list(vertices.dtype.names or ())
    rest = [f"f_rest_{i}" for i in range(sum(name.startswith("f_rest_") for name in names))]
    order = [*"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity"]
    order += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    _require(names == order, path, "its properties are not in the order of 3D Gaussian splatting")
    _require(len(rest) in (0, 9, 24, 45), path, f"{len(rest)} f_rest properties fit no degree up to 3")
    _require_finite(path, vertices)
    norms = np.linalg.norm(np.stack([vertices[f"rot_{i}"] for i in range(4)], -1), axis=-1)
    _require(bool(np.allclose(norms, 1, atol=1e-3)), path, "its quaternions are not unit")


def _check_packed(path: Path, folder: Path, row_bytes: int | None) -> None:
    """The number of Gaussians as the container itself tells it, and the values by our own reader."""
    gaussians = _read(path, lambda: read_gaussians(path))
    if row_bytes is not None:
        stored = path.stat().st_size / row_bytes
    elif path.suffix == ".sog":
        with zipfile.ZipFile(path) as archive:
            stored = _read(path, lambda: json.loads(archive.read("meta.json")))["count"]
    else:
        with gzip.open(path) as stream:
            stored = _read(path, lambda: struct.unpack("<4sII", stream.read(12)))[2]
    _require(stored == len(gaussians), path, f"announces {stored} Gaussians and holds {len(gaussians)}")
    if (folder / "gaussians.ply").is_file():
        others = len(_vertices(folder / "gaussians.ply"))
        _require(others == len(gaussians), path, f"holds {len(gaussians)} Gaussians, gaussians.ply {others}")


def _check_mesh(path: Path) -> None:
    o3d = require("open3d", "meshes")
    # Open3D reports damage as a line on stdout, which belongs to results.
    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        mesh = _read(path, lambda: o3d.io.read_triangle_mesh(str(path)))
    _require(len(mesh.triangles) > 0, path, "has no triangles")
    _require(bool(np.isfinite(np.asarray(mesh.vertices)).all()), path, "has vertices that are not finite")
    _require(int(np.asarray(mesh.triangles).max()) < len(mesh.vertices), path, "a face names a missing vertex")


def _check_glb(path: Path) -> None:
    """The container by its specification, and the mesh by Open3D's own importer."""
    data = path.read_bytes()
    _require(len(data) > 20, path, "is too short")
    magic, version, length, json_length, kind = struct.unpack_from("<4sIII4s", data)
    _require((magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON"), path, "is no binary glTF 2.0")
    _read(path, lambda: json.loads(data[20 : 20 + json_length]))
    _check_mesh(path)


def _check_transforms(path: Path, scene: Reconstruction | None) -> None:
    meta = _read(path, lambda: json.loads(path.read_text(encoding="utf-8")))
    folder = path.parent
    for key in ("frames", "applied_transform", "ply_file_path"):
        _require(key in meta, path, f"lacks {key}")
    _require((folder / meta["ply_file_path"]).is_file(), folder / meta["ply_file_path"], "is missing")
    _require_finite(folder / meta["ply_file_path"], _vertices(folder / meta["ply_file_path"]))
    applied = np.vstack([meta["applied_transform"], [0, 0, 0, 1]])
    for view, frame in enumerate(meta["frames"]):
        _check_image(folder / frame["file_path"], (frame["w"], frame["h"]))
        _require("mask_path" not in frame or (folder / frame["mask_path"]).is_file(), path, "a mask is missing")
        if scene is None:
            continue
        c2w = np.linalg.inv(applied) @ np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1])
        _require(
            np.allclose(c2w, scene.cameras.c2w[view], atol=1e-9), path, f"the pose of {frame['file_path']} changed"
        )


def _check_depth(path: Path, scene: Reconstruction | None) -> None:
    if scene is None:
        return
    for name, depth_map in zip(scene.image_names, scene.depth_maps, strict=False):
        file = path / f"{name}.npz"
        if depth_map is None or not file.is_file():
            continue
        with _read(file, lambda file=file: np.load(file, allow_pickle=False)) as arrays:
            same = _read(file, lambda arrays=arrays, m=depth_map: np.array_equal(arrays["depth"], m.depth))
        _require(same, file, "differs from the depth of the scene")


def _check_manifest(folder: Path) -> None:
    manifest = _read(folder / MANIFEST_NAME, lambda: read_manifest(folder))
    for name, problem in file_problems(folder, manifest).items():
        raise VerificationError(f"{folder / name}: changed since {MANIFEST_NAME} was written: it {problem}", _AGAIN)
