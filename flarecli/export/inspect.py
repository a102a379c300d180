"""What a model, transforms.json, file of points or Gaussians, or scene holds, and whether its conventions are sane."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from flarecli.errors import InputError
from flarecli.export.archive import ARCHIVE_NAME
from flarecli.export.colmap import NO_POINT
from flarecli.export.colmap_raw import RawModel, find_model, read_colmap_raw
from flarecli.export.colmap_read import read_colmap
from flarecli.export.findings import Report
from flarecli.export.gaussian_files import GAUSSIAN_FILES
from flarecli.export.inspect_files import check_manifest, inspect_archive
from flarecli.export.inspect_gaussians import PACKED, inspect_gaussians_ply, inspect_packed
from flarecli.export.manifest import MANIFEST_NAME
from flarecli.export.ply import read_ply, read_points_ply
from flarecli.export.transforms_json import load_transforms, read_transforms
from flarecli.geometry.projection import project
from flarecli.scene.cameras import Cameras

_OFF_CENTRE = 0.01
_HIGH_ERROR_PX = 4.0


def inspect_path(path: Path) -> dict[str, Any]:
    """Counts and findings about a path, JSON values only.

    The dictionary has ``kind`` (scene, colmap, transforms, points, gaussians, mesh; archive for scene.npz), ``path``,
    ``level`` (the worst of the findings), counts that depend on the kind, and ``findings``: each with ``level`` (ok,
    warn, bad), ``check``, ``message``. A scene has its parts under ``parts``; a damaged one is a bad finding instead.

    Raises:
        InputError: nothing that is known, a damaged flare.json, or a damaged file outside of a scene.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the path")
    if path.suffix == ".ply":
        return _inspect_ply(path).as_dict()
    if path.suffix in PACKED and path.is_file():
        return inspect_packed(path).as_dict()
    if path.suffix == ".json" and path.is_file():
        return _inspect_transforms(path).as_dict()
    if path.is_dir() and ((path / MANIFEST_NAME).is_file() or (path / ARCHIVE_NAME).is_file()):
        return _inspect_scene(path)
    if path.is_dir() and (path / "transforms.json").is_file() and not _has_model(path):
        return _inspect_transforms(path / "transforms.json").as_dict()
    if path.is_dir():
        return _inspect_colmap(path).as_dict()
    raise InputError(
        f"{path} is nothing that can be inspected",
        "give a COLMAP folder, transforms.json, .ply, .splat, .spz, .sog or scene",
    )


def _has_model(path: Path) -> bool:
    try:
        find_model(path)
    except InputError:
        return False
    return True


def _inspect_scene(path: Path) -> dict[str, Any]:
    makers: list[tuple[str, Callable[[Path], Report]]] = [
        (ARCHIVE_NAME, inspect_archive),
        ("sparse/0", _inspect_colmap),
        ("transforms.json", _inspect_transforms),
        ("points.ply", _inspect_ply),
        ("gaussians.ply", _inspect_ply),
        ("mesh.ply", _inspect_ply),
        *((name, inspect_packed) for name in GAUSSIAN_FILES.values() if not name.endswith(".ply")),
    ]
    parts: dict[str, dict[str, Any]] = {}
    report = Report("scene", path, {"parts": parts}, [])
    check_manifest(report, path)
    for name, make in makers:
        if (path / name).exists():
            try:
                parts[name] = make(path / name).as_dict()
            except InputError as error:  # the other parts are still worth a look
                report.add(name, error.message)
    for name, part in parts.items():
        bad = [finding["message"] for finding in part["findings"] if finding["level"] != "ok"]
        level = "warn" if part["level"] == "warn" else "bad"
        report.add(name, "; ".join(bad) or None, level)
    return report.as_dict()


def _inspect_colmap(path: Path) -> Report:
    raw, model = read_colmap_raw(path), read_colmap(path)
    lengths = np.array([len(elements) for elements in raw.elements], int)
    report = Report("colmap", raw.folder, {}, [])
    report.counts = {
        "images": len(raw.images),
        "cameras": len(raw.cameras),
        "points": len(raw.point_ids),
        "observations": int(lengths.sum()),
        "mean_track_length": float(lengths.mean()) if len(lengths) else None,
        "track_lengths": {str(n): int(c) for n, c in enumerate(np.bincount(lengths)) if c} if len(lengths) else {},
        "stored_error_px": float(raw.error_px.mean()) if len(lengths) else None,
    }
    for warning in model.warnings:
        report.add("cameras can be held exactly", warning, "warn")
    norms = [float(np.linalg.norm(image.quat_wxyz)) for image in raw.images.values()]
    report.add(
        "quaternions are unit",
        "quaternions are not unit" if norms and np.abs(np.array(norms) - 1).max() > 1e-3 else None,
    )
    _check_links(report, raw)
    _check_twins(report, raw.folder)
    _check_cameras(report, model.cameras, model.names, _image_folder(raw.folder), raw.xyz)
    if model.tracks is not None:
        error = _reprojection_px(model.cameras, model.tracks)
        report.counts["reprojection_px"] = float(np.median(error)) if len(error) else None
        high = not len(error) or not np.median(error) < _HIGH_ERROR_PX
        what = f"median reprojection error is {np.median(error):.3g} px" if len(error) else "no point is in front"
        report.add("points project onto their keypoints", what if high else None)
    return report


def _reprojection_px(cameras: Cameras, tracks: Any) -> np.ndarray:
    """Errors of all observations in ideal pixels; infinite behind the camera."""
    errors = []
    w2c = cameras.w2c
    for view in range(len(cameras)):
        mine = tracks.view_index == view
        pixel, _ = project(tracks.xyz[tracks.point_index[mine]], w2c[view], cameras.K[view])
        errors.append(np.linalg.norm(pixel - tracks.pixel[mine], axis=1))
    return np.nan_to_num(np.concatenate(errors), nan=np.inf)


def _check_links(report: Report, raw: RawModel) -> None:
    """Tracks and keypoints must name each other."""
    rows = zip(raw.point_ids.tolist(), raw.elements, strict=True)
    from_points = {(int(i), int(k), point) for point, elements in rows for i, k in elements}
    from_images = {
        (image_id, int(k), int(image.point_ids[k]))
        for image_id, image in raw.images.items()
        for k in np.flatnonzero(image.point_ids != np.uint64(NO_POINT))
    }
    off = len(from_points ^ from_images)
    report.add(
        "tracks and keypoints name each other", f"{off} one-sided links between points and images" if off else None
    )


def _check_twins(report: Report, folder: Path) -> None:
    both = all((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt"))
    text = "binary and text models in one folder; programs disagree on which one they read" if both else None
    report.add("one form per folder", text, "warn")
    stale = (folder / "points3D.ply").is_file()
    report.add("no cached points", "points3D.ply is a cache that is never refreshed" if stale else None, "warn")


def _image_folder(model_folder: Path) -> Path | None:
    """The images folder that belongs to a model, when there is one beside or above it."""
    for parent in (model_folder, *list(model_folder.parents)[:3]):
        if (parent / "images").is_dir():
            return parent / "images"
    return None


def _check_cameras(
    report: Report, cameras: Cameras, names: tuple[str, ...], images: Path | None, xyz: np.ndarray
) -> None:
    centre = cameras.size_hw[:, ::-1] / 2
    off = np.abs(cameras.K[:, :2, 2] - centre) / cameras.size_hw[:, ::-1] if len(cameras) else np.zeros((1, 2))
    percent = f"principal point is off the centre by up to {100 * off.max():.1f} % (some programs ignore it)"
    report.add("principal points are central", percent if off.max() > _OFF_CENTRE else None, "warn")
    if len(xyz) and len(cameras):
        _check_view(report, cameras, np.asarray(xyz, np.float64)[:: max(1, len(xyz) // 20_000)])
    if images is not None:
        _check_files(report, cameras, names, images)


def _check_view(report: Report, cameras: Cameras, xyz: np.ndarray) -> None:
    xyz = xyz[np.isfinite(xyz).all(1)]
    in_front, inside = [], []
    for w2c, K, size_hw in zip(cameras.w2c, cameras.K, cameras.size_hw, strict=True):
        pixel, depth = project(xyz, w2c, K)
        in_front.append(float((depth > 0).mean()))
        with np.errstate(invalid="ignore"):
            inside.append(float(((pixel > 0) & (pixel < size_hw[::-1])).all(1).mean()))
    away = sum(share < 0.5 for share in in_front)
    problem = f"{away} of {len(cameras)} cameras look away from the points" if away else None
    if max(in_front) == 0:
        problem = "all points are behind all cameras (camera-to-world written as world-to-camera, or OpenGL axes?)"
    report.add("cameras look at the points", problem, "bad" if 2 * away > len(cameras) else "warn")
    blind = sum(share == 0 for share in inside)
    report.add("every camera sees points", f"{blind} cameras see none of the points" if blind else None, "warn")


def _check_files(report: Report, cameras: Cameras, names: tuple[str, ...], images: Path) -> None:
    missing, sizes = [], []
    for name, size_hw in zip(names, cameras.size_hw, strict=True):
        try:
            with Image.open(images / name) as image:
                if image.size != (size_hw[1], size_hw[0]):
                    sizes.append(f"{name} is {image.size[0]} x {image.size[1]}, its camera {size_hw[1]} x {size_hw[0]}")
        except (OSError, UnidentifiedImageError):
            missing.append(name)
    report.add("image files exist", f"{len(missing)} missing in {images}, first {missing[0]}" if missing else None)
    report.add("sizes equal the files'", f"{len(sizes)} sizes differ: {sizes[0]}" if sizes else None)


def _inspect_transforms(path: Path) -> Report:
    names, cameras = read_transforms(path)
    meta = load_transforms(path)
    report = Report("transforms", path, {"images": len(names)}, [])
    xyz = np.zeros((0, 3))
    cloud = meta.get("ply_file_path")
    report.add("ply_file_path is there", None if cloud else "without it nerfstudio may ask a question", "warn")
    if isinstance(cloud, str):
        if (path.parent / cloud).is_file():
            turned = np.array(meta.get("applied_transform", np.eye(4)[:3]))[:3]
            stored = read_points_ply(path.parent / cloud)[0].astype(np.float64)
            xyz = (stored / float(meta.get("applied_scale", 1.0)) - turned[:, 3]) @ np.linalg.inv(turned[:, :3]).T
        else:
            report.add("the points' file exists", f"{cloud} is missing")
    report.counts["points"] = len(xyz)
    applied = "applied_transform" in meta
    report.add("applied_transform is there", None if applied else "readers will have to guess the world's turn", "warn")
    folder = path.parent / "images"
    _check_cameras(report, cameras, names, folder if folder.is_dir() else None, xyz)
    return report


def _inspect_ply(path: Path) -> Report:
    ply = read_ply(path)
    names = ply.vertices.dtype.names or ()
    if "f_dc_0" in names or "rot_0" in names:
        return inspect_gaussians_ply(path)
    kind = "mesh" if ply.counts.get("face") else "points"
    report = Report(kind, path, {"vertices": len(ply.vertices), "faces": ply.counts.get("face", 0)}, [])
    xyz, rgb = read_points_ply(path)
    bad = int((~np.isfinite(xyz)).any(1).sum())
    report.add("coordinates are finite", f"{bad} rows are not finite" if bad else None)
    report.add("there are vertices", None if len(xyz) else "the file is empty")
    report.add("there are colours", "no colours" if rgb is None else None, "warn")
    return report
