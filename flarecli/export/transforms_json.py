"""``transforms.json`` of nerfstudio (also read by instant-ngp's heirs and Brush).

Frames are camera-to-world in OpenGL axes (x right, y up, looking along -z) in a world with z up: the world of the
reconstruction turned by ``applied_transform``, (x, y, z) -> (x, z, -y). The points of ``sparse_pc.ply`` are turned too.
Both keys are always written; without either, nerfstudio asks a question or assumes an older, wrong matrix.

Source: nerfstudio, docs/quickstart/data_conventions.md and data/dataparsers/nerfstudio_dataparser.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from flarecli.errors import InputError
from flarecli.export.ply import point_vertices, write_ply
from flarecli.geometry.distortion import Distortion
from flarecli.geometry.transforms import nearest_rotation, rigid
from flarecli.scene.cameras import Cameras
from flarecli.scene.reconstruction import Reconstruction

APPLIED_TRANSFORM = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]])
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_MIN_TRACKS, _MAX_POINTS = 1000, 100_000
_MAX_BYTES = 256 * 2**20


def write_transforms(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write ``transforms.json`` with one set of ideal pinhole intrinsics per frame, and ``sparse_pc.ply``."""
    cameras = reconstruction.cameras
    masks = [_mask_of(scene_folder, name) for name in reconstruction.image_names]
    frames = []
    for view, name in enumerate(reconstruction.image_names):
        height, width = map(int, cameras.size_hw[view])
        K = cameras.K[view]
        frame: dict[str, Any] = {"file_path": f"images/{name}", "w": width, "h": height}
        frame |= {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
        frame |= {"k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}
        frame["transform_matrix"] = (_square(APPLIED_TRANSFORM) @ cameras.c2w[view] @ _OPENGL_FROM_OPENCV).tolist()
        # nerfstudio takes masks for all frames or for none.
        if all(masks):
            frame["mask_path"] = masks[view]
        frames.append(frame)
    content = {
        "camera_model": "OPENCV",
        "applied_transform": APPLIED_TRANSFORM.tolist(),
        "ply_file_path": "sparse_pc.ply",
        "frames": frames,
    }
    path = scene_folder / "transforms.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    xyz, rgb = _seed_points(reconstruction)
    turned = xyz @ APPLIED_TRANSFORM[:, :3].T
    cloud = scene_folder / "sparse_pc.ply"
    write_ply(cloud, point_vertices(turned, rgb), ("frame: world of transforms.json (applied_transform applied)",))
    return [path, cloud]


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])


def _mask_of(scene_folder: Path, name: str) -> str | None:
    """Path of a photo's mask relative to the scene, under COLMAP's name (012.jpg.png) or nerfstudio's (012.png)."""
    for candidate in (f"masks/{name}.png", f"masks/{Path(name).with_suffix('.png').as_posix()}"):
        if (scene_folder / candidate).is_file():
            return candidate
    return None


def _seed_points(reconstruction: Reconstruction) -> tuple[np.ndarray, np.ndarray]:
    """Points to start splats from: the sparse ones when there are many, else an even sample of the dense ones."""
    tracks, points = reconstruction.tracks, reconstruction.points
    if len(tracks) >= _MIN_TRACKS or not len(points):
        return tracks.xyz, tracks.rgb
    pick = np.linspace(0, len(points) - 1, min(len(points), _MAX_POINTS)).astype(int)
    return np.concatenate([tracks.xyz, points.xyz[pick]]), np.concatenate([tracks.rgb, points.rgb[pick]])


def read_transforms(path: Path) -> tuple[tuple[str, ...], Cameras]:
    """Image names (without a leading ``images/``) and cameras of a transforms.json, in its order.

    Intrinsics may be global, per frame, or a field of view (``camera_angle_x``); missing sizes come from the image
    files. The world is the one before ``applied_transform`` and ``applied_scale``. Of lens distortion only k1 is kept;
    :func:`read_distortions` tells the rest.

    Args:
        path: the file, or the folder that holds it.

    Raises:
        InputError: missing, damaged, or without usable cameras; the message names the frame.
    """
    path = path / "transforms.json" if path.is_dir() else path
    meta = load_transforms(path)
    frames = meta["frames"]
    names, c2w, K, sizes, k1 = [], [], [], [], []
    for number, frame in enumerate(frames):
        try:
            name = frame["file_path"]
            size, matrix = _intrinsics(meta | frame, path.parent / name)
            c2w.append(_c2w(meta, frame))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, np.linalg.LinAlgError) as error:
            raise InputError(
                f"frame {number} of {path} is not usable: {error!r}", "mend or remove that frame"
            ) from error
        names.append(name.replace("\\", "/").removeprefix("./").removeprefix("images/"))
        K.append(matrix)
        sizes.append(size)
        k1.append(float((meta | frame).get("k1", 0.0)))
    try:
        cameras = Cameras(np.stack(c2w), np.stack(K), np.array(sizes), np.array(k1))
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path} holds no valid cameras: {error}", "mend the file, or write it anew") from error
    return tuple(names), cameras


def read_distortions(path: Path) -> tuple[Distortion, ...]:
    """Lens distortion of every frame of a transforms.json.

    Raises:
        InputError: as :func:`load_transforms`; a term is no number.
    """
    meta = load_transforms(path)
    found = []
    for number, frame in enumerate(meta["frames"]):
        values = meta | frame
        model = "OPENCV_FISHEYE" if values.get("is_fisheye") else str(values.get("camera_model", "OPENCV"))
        try:
            k1, k2, k3, k4, p1, p2 = (float(values.get(name, 0.0)) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
        except (TypeError, ValueError) as error:
            raise InputError(f"frame {number} of {path} is not usable: {error}", "mend or remove that frame") from error
        found.append(Distortion(model, (k1, k2, k3, k4), (p1, p2)))
    return tuple(found)


def load_transforms(path: Path) -> dict[str, Any]:
    """The JSON object of a transforms.json with at least one frame, each an object.

    Raises:
        InputError: missing, too large, no JSON, or no frames.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is too large for a transforms.json", "give the transforms.json of one scene")
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read: {error}", "give a transforms.json in nerfstudio's form") from error
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise InputError(f"{path} has no frames", "give a transforms.json in nerfstudio's form")
    return meta


def _intrinsics(values: dict[str, Any], image: Path) -> tuple[tuple[int, int], np.ndarray]:
    if "w" in values and "h" in values:
        width, height = int(values["w"]), int(values["h"])
    else:
        try:
            with Image.open(image) as file:
                width, height = file.size
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"no size is given and {image} can't be opened") from error
    if "fl_x" in values or "fl_y" in values:
        fx = float(values["fl_x"] if "fl_x" in values else values["fl_y"])
        fy = float(values.get("fl_y", fx))
    else:
        fx = width / (2 * math.tan(float(values["camera_angle_x"]) / 2))
        fy = height / (2 * math.tan(float(values["camera_angle_y"]) / 2)) if "camera_angle_y" in values else fx
    cx, cy = float(values.get("cx", width / 2)), float(values.get("cy", height / 2))
    return (height, width), np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def _c2w(meta: dict[str, Any], frame: dict[str, Any]) -> np.ndarray:
    """Camera to world in OpenCV axes before the file's own turn of the world."""
    matrix = np.array(frame["transform_matrix"], np.float64)
    if matrix.shape == (3, 4):
        matrix = _square(matrix)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError("transform_matrix must be 4 x 4 and finite")
    applied = np.array(meta.get("applied_transform", np.eye(4)[:3]), np.float64)[:3]
    scale = float(meta.get("applied_scale", 1.0))
    if not (scale > 0 and np.isfinite(scale)):
        raise ValueError("applied_scale must be positive")
    matrix[:3, 3] /= scale
    matrix = np.linalg.inv(_square(applied)) @ matrix @ _OPENGL_FROM_OPENCV
    if np.linalg.det(matrix[:3, :3]) <= 0:
        raise ValueError("transform_matrix mirrors the world")
    rotation = nearest_rotation(matrix[:3, :3])
    stretch = np.cbrt(np.linalg.det(matrix[:3, :3]))
    if not np.allclose(matrix[:3, :3] / stretch, rotation, atol=1e-3):
        raise ValueError("transform_matrix is no rotation")
    return rigid(rotation, matrix[:3, 3])
