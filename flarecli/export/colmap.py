"""COLMAP sparse models, written byte by byte.

The layout of these files has been stable since 2017, unlike the object API of pycolmap; so they are written here and
checked with whatever pycolmap is installed. The ``colmap`` modules are the only places that speak of world-to-camera
quaternions.

Binary models go to ``sparse/0`` and text models to ``sparse_text/0``: programs disagree on which form wins when
both are in one folder, so no reader may find a twin.

Source: COLMAP, doc/format.rst and src/colmap/scene/reconstruction_io_binary.cc.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flarecli.errors import OutputExists
from flarecli.geometry.transforms import quats_wxyz_from_matrix
from flarecli.scene.reconstruction import Reconstruction

LOGGER = logging.getLogger(__name__)
PINHOLE = 1
NO_POINT = 2**64 - 1
FORMS = ("cameras", "images", "points3D", "rigs", "frames")
# Made by viewers from our own points and never refreshed by them, so keeping it would show the old scene.
CACHED_POINTS = "sparse/0/points3D.ply"
_CAMERA_SENSOR = 0


@dataclass(frozen=True)
class _Layout:
    """Ids of the files: cameras, images and points count from 1; frame = image, rig = camera.

    ``camera_ids`` has the camera of each photo, ``cameras`` a photo of each camera. Observations are sorted by photo;
    ``slot`` is the place of each in its photo's list and ``starts`` where a photo's list begins.
    """

    quats: np.ndarray
    translations: np.ndarray
    camera_ids: np.ndarray
    cameras: dict[int, int]
    order: np.ndarray
    starts: np.ndarray
    slot: np.ndarray


def _layout(reconstruction: Reconstruction) -> _Layout:
    cameras, tracks = reconstruction.cameras, reconstruction.tracks
    ids: dict[tuple[float, ...], int] = {}
    first: dict[int, int] = {}
    camera_ids = np.zeros(len(cameras), np.int64)
    for view, (K, size) in enumerate(zip(cameras.K, cameras.size_hw, strict=True)):
        # Exactly equal K and size means that the photos share one camera; an adjuster must then move them together.
        camera_ids[view] = ids.setdefault((*K.ravel(), *size), len(ids) + 1)
        first.setdefault(int(camera_ids[view]), view)
    order = np.lexsort((tracks.point_index, tracks.view_index))
    starts = np.searchsorted(tracks.view_index[order], np.arange(len(cameras) + 1))
    slot = np.empty(len(order), np.int64)
    slot[order] = np.arange(len(order)) - starts[tracks.view_index[order]]
    w2c = cameras.w2c
    return _Layout(quats_wxyz_from_matrix(w2c[:, :3, :3]), w2c[:, :3, 3], camera_ids, first, order, starts, slot)


def refuse_text_model(scene_folder: Path) -> None:
    """Refuse a folder whose ``sparse/0`` holds a text model, which is never ours.

    Raises:
        OutputExists: it does; nerfstudio and others would read it instead of a binary model beside it.
    """
    for form in FORMS:
        path = scene_folder / "sparse" / "0" / f"{form}.txt"
        if path.exists():
            raise OutputExists(f"{path} would be read instead of the new model", "move it away")


def write_colmap(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write ``sparse/0`` in binary form: cameras (PINHOLE), images, points3D with tracks, rigs and frames.

    A ``points3D.ply`` there is removed: viewers cache our points in it and never refresh it.

    Raises:
        OutputExists: as :func:`refuse_text_model`.
    """
    refuse_text_model(scene_folder)
    folder = scene_folder / "sparse" / "0"
    folder.mkdir(parents=True, exist_ok=True)
    (scene_folder / CACHED_POINTS).unlink(missing_ok=True)
    layout = _layout(reconstruction)
    content = {
        "cameras": _cameras_bin(reconstruction, layout),
        "images": _images_bin(reconstruction, layout),
        "points3D": _points_bin(reconstruction, layout),
        "rigs": _rigs_bin(layout),
        "frames": _frames_bin(layout),
    }
    paths = [folder / f"{form}.bin" for form in FORMS]
    for path, form in zip(paths, FORMS, strict=True):
        path.write_bytes(content[form])
    return paths


def _pinhole(reconstruction: Reconstruction, view: int) -> tuple[int, int, list[float]]:
    height, width = map(int, reconstruction.cameras.size_hw[view])
    K = reconstruction.cameras.K[view]
    return width, height, [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])]


def _cameras_bin(reconstruction: Reconstruction, layout: _Layout) -> bytes:
    out = [struct.pack("<Q", len(layout.cameras))]
    for camera_id, view in layout.cameras.items():
        width, height, params = _pinhole(reconstruction, view)
        out.append(struct.pack("<IiQQ4d", camera_id, PINHOLE, width, height, *params))
    return b"".join(out)


def _images_bin(reconstruction: Reconstruction, layout: _Layout) -> bytes:
    tracks = reconstruction.tracks
    observations = np.zeros(len(layout.order), [("xy", "<f8", 2), ("point", "<u8")])
    observations["xy"] = tracks.pixel[layout.order]
    observations["point"] = tracks.point_index[layout.order] + 1
    out = [struct.pack("<Q", len(reconstruction))]
    for view, name in enumerate(reconstruction.image_names):
        pose = (*layout.quats[view], *layout.translations[view])
        begin, end = layout.starts[view], layout.starts[view + 1]
        out.append(struct.pack("<I7dI", view + 1, *pose, layout.camera_ids[view]))
        out.append(name.encode() + b"\0" + struct.pack("<Q", end - begin))
        out.append(observations[begin:end].tobytes())
    return b"".join(out)


def _by_point(reconstruction: Reconstruction, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    """(image id, slot) of all observations sorted by point, and where each point's begin."""
    tracks = reconstruction.tracks
    order = np.lexsort((tracks.view_index, tracks.point_index))
    elements = np.stack([tracks.view_index[order] + 1, layout.slot[order]], 1).astype("<u4")
    return elements, np.searchsorted(tracks.point_index[order], np.arange(len(tracks) + 1))


def _points_bin(reconstruction: Reconstruction, layout: _Layout) -> bytes:
    tracks = reconstruction.tracks
    elements, starts = _by_point(reconstruction, layout)
    out = [struct.pack("<Q", len(tracks))]
    rows = zip(tracks.xyz.tolist(), tracks.rgb.tolist(), tracks.error_px.tolist(), strict=True)
    for index, (xyz, rgb, error) in enumerate(rows):
        begin, end = starts[index], starts[index + 1]
        out.append(struct.pack("<Q3d3BdQ", index + 1, *xyz, *rgb, error, end - begin))
        out.append(elements[begin:end].tobytes())
    return b"".join(out)


def _rigs_bin(layout: _Layout) -> bytes:
    rigs = [struct.pack("<IIiI", camera, 1, _CAMERA_SENSOR, camera) for camera in layout.cameras]
    return struct.pack("<Q", len(rigs)) + b"".join(rigs)


def _frames_bin(layout: _Layout) -> bytes:
    out = [struct.pack("<Q", len(layout.camera_ids))]
    for view, camera in enumerate(layout.camera_ids):
        pose = (*layout.quats[view], *layout.translations[view])
        out.append(struct.pack("<II7dIiIQ", view + 1, camera, *pose, 1, _CAMERA_SENSOR, camera, view + 1))
    return b"".join(out)


def write_colmap_text(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write the same model as text into ``sparse_text/0``; numbers keep all their digits.

    Returns no path, and says so in the log, when a photo has a space in its name: COLMAP's text form can't hold it.
    """
    spaced = next((name for name in reconstruction.image_names if name.split() != [name]), None)
    if spaced is not None:
        LOGGER.warning("COLMAP's text models can't hold the name %r; the binary model can", spaced)
        return []
    folder = scene_folder / "sparse_text" / "0"
    folder.mkdir(parents=True, exist_ok=True)
    layout = _layout(reconstruction)
    content = {
        "cameras": _cameras_txt(reconstruction, layout),
        "images": _images_txt(reconstruction, layout),
        "points3D": _points_txt(reconstruction, layout),
        "rigs": [f"{camera} 1 CAMERA {camera}" for camera in layout.cameras],
        "frames": [
            f"{view + 1} {camera} {_numbers(layout.quats[view])} {_numbers(layout.translations[view])} "
            f"1 CAMERA {camera} {view + 1}"
            for view, camera in enumerate(layout.camera_ids)
        ],
    }
    paths = [folder / f"{form}.txt" for form in FORMS]
    for path, form in zip(paths, FORMS, strict=True):
        path.write_text("\n".join([f"# {form} of a COLMAP model", *content[form], ""]), encoding="utf-8", newline="\n")
    return paths


def _numbers(values: np.ndarray | list[float]) -> str:
    return " ".join(repr(float(value)) for value in values)


def _cameras_txt(reconstruction: Reconstruction, layout: _Layout) -> list[str]:
    lines = []
    for camera_id, view in layout.cameras.items():
        width, height, params = _pinhole(reconstruction, view)
        lines.append(f"{camera_id} PINHOLE {width} {height} {_numbers(params)}")
    return lines


def _images_txt(reconstruction: Reconstruction, layout: _Layout) -> list[str]:
    tracks, lines = reconstruction.tracks, []
    for view, name in enumerate(reconstruction.image_names):
        pose = f"{_numbers(layout.quats[view])} {_numbers(layout.translations[view])}"
        lines.append(f"{view + 1} {pose} {layout.camera_ids[view]} {name}")
        mine = layout.order[layout.starts[view] : layout.starts[view + 1]]
        # The second line of an image must be there even when the photo observes nothing.
        lines.append(" ".join(f"{_numbers(tracks.pixel[i])} {tracks.point_index[i] + 1}" for i in mine))
    return lines


def _points_txt(reconstruction: Reconstruction, layout: _Layout) -> list[str]:
    tracks = reconstruction.tracks
    elements, starts = _by_point(reconstruction, layout)
    lines = []
    for index in range(len(tracks)):
        track = " ".join(map(str, elements[starts[index] : starts[index + 1]].ravel()))
        rgb = " ".join(map(str, tracks.rgb[index]))
        lines.append(f"{index + 1} {_numbers(tracks.xyz[index])} {rgb} {float(tracks.error_px[index])!r} {track}")
    return lines
