"""One reconstruction against one reference: which photos count, and every number about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flarecli.errors import InputError
from flarecli.evaluate.metrics import (
    depth_metrics,
    focal_error,
    missing_pose,
    point_distances,
    pose_metrics,
    registered,
)
from flarecli.evaluate.sources import CameraSet, read_cameras
from flarecli.geometry.projection import map_pixels, photo_pixels, pixel_grid
from flarecli.geometry.transforms import Sim3, align_cameras, invert_rigid
from flarecli.scene.names import match_names
from flarecli.scene.reconstruction import DepthMap

MAX_POINTS = 200_000  # for nearest-neighbour distances; a regular sample of more does not change them
ALL_PHOTOS = "all"


def evaluate_scene(scene: Path, reference: Path, *, photos: Sequence[str] | str | None = None) -> dict[str, Any]:
    """Compare a reconstruction with a reference.

    Photos are matched by name, then by base name and by the name without its suffix where that is unique on both sides.
    A photo that counts and has no camera in the scene is a failure of 180 degrees in all its pairs.

    Args:
        scene: our output folder, or any COLMAP model, cameras.json or transforms.json.
        reference: the same kinds.
        photos: names that count, or "all" for every photo of the reference. By default all input photos that the
            scene's manifest lists, dropped ones too; a scene without manifest has no such list, there the photos with a
            camera count.

    Returns:
        JSON values: ``photos`` (how many count), ``counted_by``, the metrics of :func:`pose_metrics`,
        ``focal_error_percent``, ``depth`` and ``points`` (None where there is nothing to compare), ``missing`` (names
        without a camera) and ``unmatched`` (names of the scene that the reference does not know).

    Raises:
        InputError: a path can't be read, or fewer than two photos are in common.
    """
    predicted, truth = read_cameras(Path(scene)), read_cameras(Path(reference))
    wanted, counted_by = _counted_names(predicted, photos, truth)
    pairs = match_names(wanted, list(truth.w2c))
    unmatched = [name for name in wanted if name not in pairs]
    if isinstance(photos, Sequence) and not isinstance(photos, str) and unmatched:
        raise InputError(f"{reference} has no photo {unmatched[0]}", f"{len(unmatched)} of the given names are unknown")
    if len(pairs) < 2:
        raise InputError(
            f"{scene} and {reference} have {len(pairs)} photos in common; at least two are needed",
            "photos are matched by their file names",
        )
    in_scene = match_names(list(pairs), list(predicted.w2c))
    predicted_w2c = np.stack([predicted.w2c[in_scene[n]] if n in in_scene else missing_pose() for n in pairs])
    predicted_K = np.stack([predicted.K[in_scene[n]] if n in in_scene else np.full((3, 3), np.nan) for n in pairs])
    truth_w2c = np.stack([truth.w2c[name] for name in pairs.values()])
    out: dict[str, Any] = {"scene": str(scene), "reference": str(reference), "counted_by": counted_by}
    out |= pose_metrics(predicted_w2c, truth_w2c)
    out["focal_error_percent"] = focal_error(predicted_K, np.stack([truth.K[name] for name in pairs.values()]))
    similarity = _similarity(predicted_w2c, truth_w2c)
    out["depth"] = _depth(predicted, truth, {in_scene[n]: t for n, t in pairs.items() if n in in_scene}, similarity)
    out["points"] = _points(predicted, truth, set(pairs.values()), similarity)
    return out | {"missing": [name for name in pairs if name not in in_scene], "unmatched": unmatched}


def _counted_names(predicted: CameraSet, photos: Sequence[str] | str | None, truth: CameraSet) -> tuple[list[str], str]:
    if photos == ALL_PHOTOS:
        return list(truth.w2c), "all photos of the reference"
    if isinstance(photos, str):
        raise InputError(f"photos must be names or {ALL_PHOTOS!r}, not {photos!r}", "give a list of names")
    if photos is not None:
        return list(dict.fromkeys(photos)), "given list"
    if predicted.input_names is not None:
        return list(predicted.input_names), "input photos of the scene"
    return list(predicted.w2c), "photos with a camera"


def _similarity(predicted_w2c: np.ndarray, truth_w2c: np.ndarray) -> Sim3 | None:
    """Reference world from predicted world; None where the cameras don't fix it."""
    keep = registered(predicted_w2c)
    if keep.sum() < 2:
        return None
    try:
        return align_cameras(invert_rigid(predicted_w2c[keep]), invert_rigid(truth_w2c[keep]))
    except ValueError:
        return None


def _depth(
    predicted: CameraSet, truth: CameraSet, pairs: Mapping[str, str], similarity: Sim3 | None
) -> dict[str, float] | None:
    """Mean over photos: AbsRel with one scale per photo, and with the scale of the camera alignment."""
    rows, rows_in_scale = [], []
    for name, truth_name in pairs.items():
        if name not in predicted.depth_maps or truth_name not in truth.depth:
            continue
        depth_map = predicted.depth_maps[name]
        reference = sample_depth(
            truth.depth[truth_name](),
            depth_map,
            predicted.K[name],
            predicted.k1.get(name, 0.0),
            predicted.size_hw[name],
        )
        rows.append(depth_metrics(depth_map.depth, reference))
        if similarity is not None:
            rows_in_scale.append(depth_metrics(depth_map.depth, reference, scale=similarity.scale))
    rows = [row for row in rows if row["pixels"]]
    rows_in_scale = [row for row in rows_in_scale if row["pixels"]]
    if not rows:
        return None
    out = {key: float(np.mean([row[key] for row in rows])) for key in ("abs_rel", "rmse", "within_25")}
    if rows_in_scale:
        out["abs_rel_scene_scale"] = float(np.mean([row["abs_rel"] for row in rows_in_scale]))
    return out | {"photos": len(rows), "pixels": int(sum(row["pixels"] for row in rows))}


def sample_depth(
    reference: np.ndarray, depth_map: DepthMap, K: np.ndarray, k1: float, size_hw: tuple[int, int]
) -> np.ndarray:
    """Reference depth at the pixels of a depth map (nearest pixel, 0 outside).

    Args:
        reference: H x W z-depth of the whole photo at any resolution.
        depth_map: whose pixels are asked for; distortion-free.
        K: intrinsics of the photo, in photo pixels.
        k1: its radial distortion.
        size_hw: its size.
    """
    photo_from_map = K @ np.linalg.inv(depth_map.K)
    pixel = photo_pixels(K, k1, map_pixels(photo_from_map, pixel_grid(*depth_map.depth.shape)))
    height, width = reference.shape
    column = np.floor(pixel[..., 0] * width / size_hw[1]).astype(int)
    row = np.floor(pixel[..., 1] * height / size_hw[0]).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    out = np.zeros(depth_map.depth.shape)
    out[inside] = reference[row[inside], column[inside]]
    return out


def _points(
    predicted: CameraSet, truth: CameraSet, counted: set[str], similarity: Sim3 | None
) -> dict[str, float] | None:
    """Distances between the clouds in reference units, also relative to the spread of the reference points."""
    if predicted.points is None or truth.points is None or similarity is None:
        return None
    reference = truth.points
    if truth.point_views is not None:
        # What fewer than two of the counted photos show can't be asked of them.
        reference = reference[np.array([len(views & counted) > 1 for views in truth.point_views], bool)]
    if len(reference) == 0 or len(predicted.points) == 0:
        return None
    step = max(1, -(-len(predicted.points) // MAX_POINTS))
    out = point_distances(predicted.points[::step], reference, similarity)
    spread = float(np.median(np.linalg.norm(reference - np.median(reference, axis=0), axis=1)))
    if spread > 0:
        out |= {f"{name}_relative": value / spread for name, value in list(out.items()) if name.endswith("median")}
    return out | {"reference_points": len(reference)}
