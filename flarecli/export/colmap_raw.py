"""A COLMAP sparse model as stored: found in its folder, read, and checked to hang together."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flarecli.errors import InputError
from flarecli.export.colmap_parse import PARSERS, RawCamera, RawImage, UnknownLensError

_FORMS = ("cameras", "images", "points3D")
_AGAIN = "write the model again with the program that made it"


@dataclass(frozen=True, eq=False)
class RawModel:
    """A model as stored.

    Attributes:
        folder: where its files are.
        cameras: by COLMAP's camera id.
        images: by COLMAP's image id.
        point_ids: (N,) uint64.
        xyz: (N, 3) world.
        rgb: (N, 3) uint8.
        error_px: (N,) mean reprojection error in pixels.
        elements: (image id, keypoint index) of each observation of each point, N arrays (n, 2).
    """

    folder: Path
    cameras: dict[int, RawCamera]
    images: dict[int, RawImage]
    point_ids: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    error_px: np.ndarray
    elements: list[np.ndarray]


def find_model(path: Path) -> tuple[Path, str]:
    """The folder and form (``.bin`` or ``.txt``) of the model at or below a path, preferring binary like COLMAP.

    Raises:
        InputError: there is none.
    """
    for folder in (path, path / "sparse" / "0", path / "sparse", path / "colmap" / "sparse" / "0", path / "0"):
        for suffix in (".bin", ".txt"):
            if all((folder / f"{form}{suffix}").is_file() for form in _FORMS):
                return folder, suffix
    raise InputError(f"{path} holds no COLMAP model", "give the folder with cameras.bin, images.bin and points3D.bin")


def read_colmap_raw(path: Path) -> RawModel:
    """Read a model as stored.

    Raises:
        InputError: no model, a damaged one, or an unknown lens; the message names the file.
    """
    folder, suffix = find_model(path)
    parts = []
    for form, parse in zip(_FORMS, PARSERS[suffix], strict=True):
        file = folder / f"{form}{suffix}"
        try:
            parts.append(parse(file.read_bytes()))
        except UnknownLensError as error:
            raise InputError(f"{file} has {error}", "undistort the photos with `colmap image_undistorter`") from error
        except (OSError, ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
            raise InputError(f"{file} is damaged: {error}", _AGAIN) from error
    cameras, images, points = parts
    for image in images.values():
        if image.camera_id not in cameras:
            file = folder / f"images{suffix}"
            raise InputError(f"{file} is damaged: {image.name} names camera {image.camera_id}", _AGAIN)
    return RawModel(folder, cameras, images, *points)
