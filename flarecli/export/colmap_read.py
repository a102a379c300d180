"""COLMAP sparse models of any origin in our terms: camera-to-world poses, K with one radial term, tracks.

Lens models beyond one radial term can't be held by ``Cameras``: K and the first radial term are kept and a warning says
so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flarecli.errors import InputError
from flarecli.export.colmap_parse import MODELS, RawCamera
from flarecli.export.colmap_raw import RawModel, read_colmap_raw
from flarecli.geometry.distortion import Distortion
from flarecli.geometry.projection import ideal_pixels
from flarecli.geometry.transforms import invert_rigid, matrix_from_quats_wxyz, rigid
from flarecli.scene.cameras import Cameras
from flarecli.scene.reconstruction import Tracks


@dataclass(frozen=True, eq=False)
class ColmapModel:
    """A COLMAP model in our terms.

    Attributes:
        names: image names in the order of their COLMAP ids.
        cameras: same order; world unchanged.
        tracks: points with two or more observations in ideal pixels; None when the model has none.
        distortions: same order; all terms as stored.
        warnings: what could not be kept, one line each.
    """

    names: tuple[str, ...]
    cameras: Cameras
    tracks: Tracks | None
    distortions: tuple[Distortion, ...]
    warnings: tuple[str, ...] = field(default=())


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
        raise InputError(
            f"{raw.folder} holds no valid model: {error}", "write the model again with the program that made it"
        ) from error
    names = tuple(image.name for image in images)
    distortions = tuple(_distortion(raw.cameras[image.camera_id]) for image in images)
    return ColmapModel(names, cameras, tracks, distortions, tuple(warnings))


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


def _distortion(camera: RawCamera) -> Distortion:
    name, _, num_focals = MODELS[camera.model]
    terms = camera.params[num_focals + 2 :]
    return Distortion(name, terms[:2], (terms[2], terms[3])) if name == "OPENCV" else Distortion(name, terms)


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
