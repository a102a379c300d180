"""COLMAP sparse models of any origin: binary or text, read defensively.

Every length is compared with the bytes that are left before anything is allocated. Lens models beyond one radial term
can't be held by ``Cameras``: K and the first radial term are kept and a warning says so.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flarecli.errors import InputError
from flarecli.export.colmap import NO_POINT
from flarecli.geometry.projection import ideal_pixels
from flarecli.geometry.transforms import invert_rigid, matrix_from_quats_wxyz, rigid
from flarecli.scene.cameras import Cameras
from flarecli.scene.reconstruction import Tracks

# name, number of parameters, number of focal lengths; by COLMAP's model id.
MODELS = {
    0: ("SIMPLE_PINHOLE", 3, 1),
    1: ("PINHOLE", 4, 2),
    2: ("SIMPLE_RADIAL", 4, 1),
    3: ("RADIAL", 5, 1),
    4: ("OPENCV", 8, 2),
    5: ("OPENCV_FISHEYE", 8, 2),
}
_ID_OF = {name: model for model, (name, _, _) in MODELS.items()}
_OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<u8")])


@dataclass(frozen=True)
class RawCamera:
    """A camera as stored: model id, size in pixels, parameters."""

    model: int
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class RawImage:
    """An image as stored: world-to-camera pose and keypoints with their point ids (``NO_POINT`` = none)."""

    name: str
    camera_id: int
    quat_wxyz: np.ndarray
    translation: np.ndarray
    xy: np.ndarray
    point_ids: np.ndarray


@dataclass(frozen=True, eq=False)
class RawModel:
    """A model as stored, keyed by COLMAP's ids; ``elements`` holds (image id, keypoint index) of each point's track."""

    folder: Path
    cameras: dict[int, RawCamera]
    images: dict[int, RawImage]
    point_ids: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    error_px: np.ndarray
    elements: list[np.ndarray]


@dataclass(frozen=True, eq=False)
class ColmapModel:
    """A COLMAP model in our terms.

    Attributes:
        names: image names in the order of their COLMAP ids.
        cameras: same order; world unchanged.
        tracks: points with two or more observations in ideal pixels; None when the model has none.
        warnings: what could not be kept, one line each.
    """

    names: tuple[str, ...]
    cameras: Cameras
    tracks: Tracks | None
    warnings: tuple[str, ...] = field(default=())


def find_model(path: Path) -> tuple[Path, str]:
    """The folder and form (``.bin`` or ``.txt``) of the model at or below a path, preferring binary like COLMAP.

    Raises:
        InputError: there is none.
    """
    for folder in (path, path / "sparse" / "0", path / "sparse", path / "colmap" / "sparse" / "0", path / "0"):
        for suffix in (".bin", ".txt"):
            if all((folder / f"{form}{suffix}").is_file() for form in ("cameras", "images", "points3D")):
                return folder, suffix
    raise InputError(f"{path} holds no COLMAP model", "give the folder with cameras.bin, images.bin and points3D.bin")


def read_colmap_raw(path: Path) -> RawModel:
    """Read a model as stored.

    Raises:
        InputError: no model, or a damaged one; the message names the file.
    """
    folder, suffix = find_model(path)
    parsers = _BINARY if suffix == ".bin" else _TEXT
    parts = []
    for form, parse in zip(("cameras", "images", "points3D"), parsers, strict=True):
        file = folder / f"{form}{suffix}"
        try:
            parts.append(parse(file.read_bytes()))
        except (OSError, ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
            raise InputError(f"{file} is damaged: {error}") from error
    cameras, images, points = parts
    for image in images.values():
        if image.camera_id not in cameras:
            raise InputError(f"{folder / ('images' + suffix)} is damaged: {image.name} names camera {image.camera_id}")
    return RawModel(folder, cameras, images, *points)


def read_colmap(path: Path) -> ColmapModel:
    """Read a model with cameras of the COLMAP models 0 to 5.

    Raises:
        InputError: no model, a damaged one, or numbers that are no cameras.
    """
    raw = read_colmap_raw(path)
    warnings: list[str] = []
    ids = sorted(raw.images)
    lenses = {camera_id: _lens(camera_id, camera, warnings) for camera_id, camera in raw.cameras.items()}
    images = [raw.images[i] for i in ids]
    try:
        w2c = np.zeros((0, 4, 4))
        if images:
            quats = np.stack([image.quat_wxyz for image in images])
            if (np.linalg.norm(quats, axis=1) < 1e-9).any():
                raise ValueError("a quaternion is zero")
            w2c = rigid(matrix_from_quats_wxyz(quats), np.stack([image.translation for image in images]))
        cameras = Cameras(
            invert_rigid(w2c),
            np.array([lenses[image.camera_id][0] for image in images]).reshape(-1, 3, 3),
            np.array([_size_hw(raw.cameras[image.camera_id]) for image in images], np.int64).reshape(-1, 2),
            np.array([lenses[image.camera_id][1] for image in images]),
        )
        tracks = _tracks(raw, ids, cameras, warnings)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{raw.folder} holds no valid model: {error}") from error
    return ColmapModel(tuple(image.name for image in images), cameras, tracks, tuple(warnings))


def _size_hw(camera: RawCamera) -> tuple[int, int]:
    return camera.height, camera.width


def _lens(camera_id: int, camera: RawCamera, warnings: list[str]) -> tuple[np.ndarray, float]:
    """K and k1 of a stored camera."""
    name, _, num_focals = MODELS[camera.model]
    fx, fy = camera.params[0], camera.params[num_focals - 1]
    cx, cy, *terms = camera.params[num_focals:]
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    if name == "OPENCV_FISHEYE":
        warnings.append(f"camera {camera_id} is a fisheye lens; only its focal length and centre are kept")
        return K, 0.0
    if any(terms[1:]):
        warnings.append(f"camera {camera_id} has {name} distortion; only its first radial term is kept")
    return K, terms[0] if terms else 0.0


def _tracks(raw: RawModel, ids: list[int], cameras: Cameras, warnings: list[str]) -> Tracks | None:
    """Points that two or more images observe, from the images' side of the model."""
    position = {int(point_id): index for index, point_id in enumerate(raw.point_ids)}
    points, views, pixels = [], [], []
    for view, image_id in enumerate(ids):
        image = raw.images[image_id]
        index = np.array([position.get(int(p), -1) for p in image.point_ids], np.int64)
        # A point may be listed twice in one image of a model by others; its first keypoint counts.
        kept = np.unique(index, return_index=True)[1]
        kept = kept[index[kept] >= 0]
        points.append(index[kept])
        views.append(np.full(len(kept), view))
        assert cameras.k1 is not None
        pixels.append(ideal_pixels(cameras.K[view], float(cameras.k1[view]), image.xy[kept]))
    if not points or not len(raw.point_ids):
        return None
    point, view, pixel = np.concatenate(points), np.concatenate(views), np.concatenate(pixels)
    enough = np.bincount(point, minlength=len(raw.point_ids)) >= 2
    if not enough.all():
        warnings.append(f"{int((~enough).sum())} points with fewer than two observations were left out")
    if not enough.any():
        return None
    renumber = np.cumsum(enough) - 1
    used = enough[point]
    return Tracks(
        raw.xyz[enough], raw.rgb[enough], raw.error_px[enough], renumber[point[used]], view[used], pixel[used]
    )


class _Cursor:
    """Bytes that are read from front to back; too few left is a ValueError."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def skip(self, size: int) -> int:
        if size > len(self.data) - self.at:
            raise ValueError(f"it ends at byte {len(self.data)}, {size} more are needed at {self.at}")
        self.at += size
        return self.at - size

    def unpack(self, layout: str) -> tuple:
        return struct.unpack_from(layout, self.data, self.skip(struct.calcsize(layout)))

    def array(self, dtype: np.dtype | str, count: int) -> np.ndarray:
        dtype = np.dtype(dtype)
        return np.frombuffer(self.data, dtype, count, self.skip(dtype.itemsize * count))

    def count(self, smallest: int) -> int:
        """A stored number of records, each of at least so many bytes."""
        (number,) = self.unpack("<Q")
        if number * smallest > len(self.data) - self.at:
            raise ValueError(f"it announces {number} records and is too short for them")
        return number

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise ValueError("a name does not end")
        start, self.at = self.at, end + 1
        return self.data[start:end].decode()


def _camera(model: int, width: int, height: int, params: tuple[float, ...]) -> RawCamera:
    if model not in MODELS:
        raise ValueError(f"camera model {model} is not supported (only {', '.join(_ID_OF)})")
    if len(params) != MODELS[model][1]:
        raise ValueError(f"{MODELS[model][0]} needs {MODELS[model][1]} parameters, not {len(params)}")
    if not np.isfinite(params).all():
        raise ValueError("a camera parameter is not finite")
    return RawCamera(model, width, height, params)


def _cameras_bin(data: bytes) -> dict[int, RawCamera]:
    cursor, cameras = _Cursor(data), {}
    for _ in range(cursor.count(48)):
        camera_id, model, width, height = cursor.unpack("<IiQQ")
        if model not in MODELS:
            raise ValueError(f"camera model {model} is not supported (only {', '.join(_ID_OF)})")
        cameras[camera_id] = _camera(model, width, height, cursor.unpack(f"<{MODELS[model][1]}d"))
    return cameras


def _images_bin(data: bytes) -> dict[int, RawImage]:
    cursor, images = _Cursor(data), {}
    for _ in range(cursor.count(73)):
        image_id, *pose, camera_id = cursor.unpack("<I7dI")
        name = cursor.text()
        observations = cursor.array(_OBSERVATION, cursor.count(_OBSERVATION.itemsize))
        quat, translation = np.array(pose[:4]), np.array(pose[4:])
        images[image_id] = RawImage(name, camera_id, quat, translation, observations["xy"], observations["point"])
    return images


def _points_bin(data: bytes) -> tuple:
    cursor = _Cursor(data)
    ids, xyz, rgb, error, elements = [], [], [], [], []
    for _ in range(cursor.count(51)):
        row = cursor.unpack("<Q3d3BdQ")
        ids.append(row[0])
        xyz.append(row[1:4])
        rgb.append(row[4:7])
        error.append(row[7])
        elements.append(cursor.array("<u4", 2 * row[8]).reshape(-1, 2))
    return _points(ids, xyz, rgb, error, elements)


def _points(ids: list, xyz: list, rgb: list, error: list, elements: list) -> tuple:
    if len(set(ids)) != len(ids):
        raise ValueError("a point id occurs twice")
    return (
        np.array(ids, np.uint64),
        np.array(xyz, np.float64).reshape(-1, 3),
        np.array(rgb, np.uint8).reshape(-1, 3),
        np.array(error, np.float64),
        elements,
    )


def _lines(data: bytes, *, keep_empty: bool = False) -> list[str]:
    lines = [line.strip() for line in data.decode().splitlines()]
    return [line for line in lines if not line.startswith("#") and (keep_empty or line)]


def _cameras_txt(data: bytes) -> dict[int, RawCamera]:
    cameras = {}
    for line in _lines(data):
        camera_id, model, width, height, *params = line.split()
        if model not in _ID_OF:
            raise ValueError(f"camera model {model} is not supported (only {', '.join(_ID_OF)})")
        cameras[int(camera_id)] = _camera(_ID_OF[model], int(width), int(height), tuple(map(float, params)))
    return cameras


def _images_txt(data: bytes) -> dict[int, RawImage]:
    lines, images = _lines(data, keep_empty=True), {}
    while lines and not lines[-1]:
        lines.pop()
    at = 0
    while at < len(lines):
        if not lines[at]:
            at += 1
            continue
        head = lines[at].split(maxsplit=9)
        if len(head) != 10:
            raise ValueError(f"image line {lines[at][:60]!r} has too few entries")
        rows = (lines[at + 1] if at + 1 < len(lines) else "").split()
        if len(rows) % 3:
            raise ValueError(f"the keypoints of {head[9]} do not come in threes")
        xy = np.array([[float(x), float(y)] for x, y in zip(rows[::3], rows[1::3], strict=True)]).reshape(-1, 2)
        point_ids = np.array([NO_POINT if p == "-1" else int(p) for p in rows[2::3]], np.uint64)
        pose = np.array([float(value) for value in head[1:8]])
        images[int(head[0])] = RawImage(head[9], int(head[8]), pose[:4], pose[4:], xy, point_ids)
        at += 2
    return images


def _points_txt(data: bytes) -> tuple:
    ids, xyz, rgb, error, elements = [], [], [], [], []
    for line in _lines(data):
        row = line.split()
        if len(row) < 8 or len(row) % 2:
            raise ValueError(f"point line {line[:60]!r} has a wrong number of entries")
        ids.append(int(row[0]))
        xyz.append([float(value) for value in row[1:4]])
        rgb.append([int(value) for value in row[4:7]])
        error.append(float(row[7]))
        elements.append(np.array([int(value) for value in row[8:]], np.int64).reshape(-1, 2))
    return _points(ids, xyz, rgb, error, elements)


_BINARY = (_cameras_bin, _images_bin, _points_bin)
_TEXT = (_cameras_txt, _images_txt, _points_txt)
