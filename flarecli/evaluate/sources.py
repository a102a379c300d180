"""Reading cameras, depth and points to compare: our scene folder, a COLMAP model, cameras.json, transforms.json."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float

from flarecli.errors import InputError
from flarecli.export.archive import load_scene
from flarecli.export.colmap_read import read_colmap
from flarecli.export.manifest import read_manifest
from flarecli.export.transforms_json import read_transforms
from flarecli.scene.cameras import Cameras

if TYPE_CHECKING:
    from flarecli.scene.reconstruction import DepthMap

_KINDS = "give cameras.json or transforms.json, or a COLMAP model"


@dataclass(frozen=True, eq=False)
class CameraSet:
    """Cameras by photo name, with what else is known about the scene.

    Attributes:
        path: where it was read.
        w2c: world-to-camera matrix of every photo with a camera, OpenCV axes.
        K: intrinsics in photo pixels (centre of the top-left pixel at (0.5, 0.5)).
        size_hw: height and width of every photo.
        k1: radial distortion (COLMAP's SIMPLE_RADIAL) of photos that have one.
        points: points in the world frame, or None.
        point_views: for each point the names of the photos that see it, or None where unknown.
        depth: reads the z-depth of a whole photo at any resolution (0 = none), for photos that have one.
        depth_maps: our own depth of a photo, at the network's resolution.
        input_names: all photos that went into the reconstruction, dropped ones too; None where unknown.
    """

    path: Path
    w2c: Mapping[str, Float[np.ndarray, "4 4"]]
    K: Mapping[str, Float[np.ndarray, "3 3"]]
    size_hw: Mapping[str, tuple[int, int]]
    k1: Mapping[str, float] = field(default_factory=dict)
    points: Float[np.ndarray, "N 3"] | None = None
    point_views: tuple[frozenset[str], ...] | None = None
    depth: Mapping[str, Callable[[], Float[np.ndarray, "H W"]]] = field(default_factory=dict)
    depth_maps: Mapping[str, DepthMap] = field(default_factory=dict)
    input_names: tuple[str, ...] | None = None


def read_cameras(path: Path) -> CameraSet:
    """Read any of the known kinds; a folder is searched for them.

    Args:
        path: our scene folder, a COLMAP model folder or one that holds sparse/0, a cameras.json, a transforms.json,
            or a folder with one of those files. Integers in a depth.npz beside a cameras.json are millimetres of a
            reference in metres; floats are in the reference's own unit.

    Raises:
        InputError: the path does not exist, holds none of them, or is damaged.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the path")
    try:
        return _read(path)
    except (LookupError, TypeError, ValueError, RuntimeError, OSError, EOFError, BadZipFile) as error:
        raise InputError(
            f"{path} can't be read: {type(error).__name__}: {error}",
            _KINDS,
        ) from error


def _read(path: Path) -> CameraSet:
    if path.is_file():
        readers = {"cameras.json": _read_cameras_json, "transforms.json": _read_transforms}
        if path.name in readers:
            return readers[path.name](path)
        if path.suffix == ".json":
            return _read_transforms(path) if "frames" in _json(path) else _read_cameras_json(path)
        raise InputError(f"{path} is neither cameras.json nor transforms.json", "give a scene folder or a COLMAP model")
    if (path / "scene.npz").exists():
        return _read_own_scene(path)
    if (path / "cameras.json").exists():
        return _read_cameras_json(path / "cameras.json")
    for folder in (path, path / "sparse" / "0", path / "sparse", path / "colmap" / "sparse" / "0"):
        if (folder / "images.bin").exists() or (folder / "images.txt").exists():
            return replace(_read_colmap(folder), path=path, input_names=_manifest_names(path))
    if (path / "transforms.json").exists():
        return _read_transforms(path / "transforms.json")
    raise InputError(f"{path} holds no cameras", "expected scene.npz, sparse/0, cameras.json or transforms.json in it")


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object", _KINDS)
    return value


def _manifest_names(path: Path) -> tuple[str, ...] | None:
    """Input photos that the manifest of a scene lists; None without a manifest."""
    if not (path / "flare.json").exists():
        return None
    return tuple(str(photo["name"]) for photo in read_manifest(path).get("photos", ())) or None


def _read_own_scene(path: Path) -> CameraSet:
    scene = load_scene(path)
    depth_maps = scene.depth_maps or (None,) * len(scene)
    return CameraSet(
        path=path,
        **_by_name(scene.image_names, scene.cameras),
        points=scene.points.xyz if len(scene.points) else scene.tracks.xyz,
        depth_maps={name: each for name, each in zip(scene.image_names, depth_maps, strict=True) if each is not None},
        input_names=tuple(verdict.name for verdict in scene.verdicts) or scene.image_names,
    )


def _read_colmap(folder: Path) -> CameraSet:
    # Not by pycolmap: it allocates whatever a damaged file asks for.
    model = read_colmap(folder)
    tracks, views = model.tracks, None
    if tracks is not None:
        seen: list[set[str]] = [set() for _ in range(len(tracks))]
        for point, view in zip(tracks.point_index.tolist(), tracks.view_index.tolist(), strict=True):
            seen[point].add(model.names[view])
        views = tuple(map(frozenset, seen))
    points = None if tracks is None else tracks.xyz
    return CameraSet(folder, **_by_name(model.names, model.cameras), points=points, point_views=views)


def _by_name(names: tuple[str, ...], cameras: Cameras) -> dict[str, Any]:
    k1 = np.zeros(len(names)) if cameras.k1 is None else cameras.k1
    return {
        "w2c": dict(zip(names, cameras.w2c, strict=True)),
        "K": dict(zip(names, cameras.K, strict=True)),
        "size_hw": {name: (int(h), int(w)) for name, (h, w) in zip(names, cameras.size_hw, strict=True)},
        "k1": {name: float(k) for name, k in zip(names, k1, strict=True)},
    }


def _read_transforms(path: Path) -> CameraSet:
    return CameraSet(path, **_by_name(*read_transforms(path)))


def _read_cameras_json(path: Path) -> CameraSet:
    content = _json(path)
    images = content["images"]
    names = [str(image["name"]) for image in images]
    w2c = {}
    for name, image in zip(names, images, strict=True):
        w2c[name] = np.eye(4)
        w2c[name][:3, :3] = np.asarray(image["R"], np.float64)
        w2c[name][:3, 3] = np.asarray(image["t"], np.float64)
        if not np.isfinite(w2c[name]).all():
            raise InputError(f"{path}: the pose of {name} is not finite", "mend or remove that photo")
    points, views = _points_npz(path.parent / "points.npz", names)
    return CameraSet(
        path=path,
        w2c=w2c,
        K={name: np.asarray(image["K"], np.float64) for name, image in zip(names, images, strict=True)},
        size_hw={name: (int(i["height"]), int(i["width"])) for name, i in zip(names, images, strict=True)},
        points=points,
        point_views=views,
        depth=_depth_npz(path.parent / "depth.npz"),
    )


def _points_npz(path: Path, names: list[str]) -> tuple[np.ndarray | None, tuple[frozenset[str], ...] | None]:
    if not path.exists():
        return None, None
    with np.load(path, allow_pickle=False) as archive:
        xyz = np.asarray(archive["xyz"], np.float64)
        if "obs_point" not in archive or "obs_image" not in archive:
            return xyz, None
        views: list[set[str]] = [set() for _ in xyz]
        for point, image in zip(archive["obs_point"].tolist(), archive["obs_image"].tolist(), strict=True):
            views[point].add(names[image])
    return xyz, tuple(map(frozenset, views))


def _depth_npz(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as archive:
        if "depth" in archive:  # one stack for all photos; otherwise each photo's depth lies under its own name
            maps = dict(zip(map(str, archive["names"]), archive["depth"], strict=True))
        else:
            maps = {name: archive[name] for name in archive.files}
    return {name: functools.partial(_in_units, depth) for name, depth in maps.items()}


def _in_units(depth: np.ndarray) -> np.ndarray:
    # Integers are millimetres, the custom of depth cameras; floats are in units of the reference.
    return depth.astype(np.float64) * (1e-3 if np.issubdtype(depth.dtype, np.integer) else 1.0)
