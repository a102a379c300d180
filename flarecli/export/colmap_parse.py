"""The three files of a COLMAP model, binary or text, read defensively and without interpretation.

Every length is compared with the bytes that are left before anything is allocated. Parsers raise ValueError,
IndexError, KeyError, OverflowError or struct.error for what is not such a file.

Source: COLMAP, doc/format.rst and src/colmap/scene/reconstruction_io_binary.cc.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from flarecli.export.colmap import NO_POINT

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
    """An image as stored: its keypoints, and its pose from world to camera (OpenCV axes).

    Attributes:
        name: relative to the folder of photos.
        camera_id: key of its camera.
        quat_wxyz: (4,) rotation, not necessarily unit.
        translation: (3,).
        xy: (n, 2) keypoints in pixels of the photo, pixel centres at 0.5.
        point_ids: (n,) uint64 point of each keypoint, ``NO_POINT`` for none.
    """

    name: str
    camera_id: int
    quat_wxyz: np.ndarray
    translation: np.ndarray
    xy: np.ndarray
    point_ids: np.ndarray


class UnknownLensError(ValueError):
    """A lens model that is not in ``MODELS``."""

    def __init__(self, model: int | str) -> None:
        super().__init__(f"the camera model {model}; supported are {', '.join(_ID_OF)}")


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
            raise UnknownLensError(model)
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
            raise UnknownLensError(model)
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


PARSERS = {
    ".bin": (_cameras_bin, _images_bin, _points_bin),
    ".txt": (_cameras_txt, _images_txt, _points_txt),
}
"""Parsers of cameras, images and points by suffix: bytes to dicts of ids, or to the point arrays of a ``RawModel``."""
