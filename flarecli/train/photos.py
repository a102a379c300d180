"""Accuracy on posed photographs with fixed subsets; for watching a training, never part of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flarecli.errors import InputError
from flarecli.model.flare_small import FlareSmall
from flarecli.model.matching import match_views
from flarecli.runtime import require
from flarecli.scene.views import Prediction, Views
from flarecli.train.evaluate import area_under_curve, direction_degrees, rotation_degrees

_MIN_MATCHES = 12
_LOST = 180.0
_EPIPOLAR_CELLS = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class PosedPhoto:
    """One photograph with its camera.

    Attributes:
        rgb: (3, H, W) in landscape storage, cropped around the centre to whole patches.
        portrait: whether it is stored transposed.
        w2c: (4, 4) world to camera.
        focal: true focal length divided by the long side of the crop.
    """

    rgb: Tensor
    portrait: bool
    w2c: Tensor
    focal: float


def load_scene(folder: Path, long_side: int, multiple: int) -> tuple[dict[str, PosedPhoto], list[dict]]:
    """Photos by name and the list of subsets of a folder with ``cameras.json`` and ``subsets.json``.

    Raises:
        InputError: files are missing or not of this form.
    """
    try:
        cameras = json.loads((folder / "cameras.json").read_text())["images"]
        subsets = json.loads((folder / "subsets.json").read_text())["subsets"]
        photos = {c["name"]: _load_photo(folder / "images" / c["name"], c, long_side, multiple) for c in cameras}
    except (OSError, KeyError, TypeError, ValueError) as error:
        hint = "it needs cameras.json, subsets.json and the photos in images"
        raise InputError(f"{folder} is no folder of posed photos: {error}", hint) from error
    return photos, subsets


def _load_photo(path: Path, camera: dict, long_side: int, multiple: int) -> PosedPhoto:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    portrait = picture.height > picture.width
    scale = long_side / max(picture.size)
    size = [max(multiple, round(s * scale)) for s in picture.size]
    crop = [max(multiple, s // multiple * multiple) for s in size]
    left, top = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
    small = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS).crop(
        (left, top, left + crop[0], top + crop[1])
    )
    rgb = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
    w2c = torch.eye(4, dtype=torch.float64)
    w2c[:3, :3], w2c[:3, 3] = torch.tensor(camera["R"]), torch.tensor(camera["t"])
    focal = camera["K"][0][0] * scale / max(crop)
    return PosedPhoto(rgb.transpose(1, 2) if portrait else rgb, portrait, w2c, focal)


def check_photos(folders: Sequence[Path], long_side: int, multiple: int, counts: Sequence[int]) -> None:
    """Look whether :func:`evaluate_photos` will be able to measure on all these folders, for these numbers of photos.

    Raises:
        InputError: as :func:`evaluate_photos`.
    """
    for folder in folders:
        photos, subsets = load_scene(folder, long_side, multiple)
        for count in counts:
            _chosen(folder, photos, subsets, count)


def _chosen(folder: Path, photos: dict[str, PosedPhoto], subsets: list[dict], count: int) -> list[list[PosedPhoto]]:
    """The subsets of ``count`` photos."""
    try:
        chosen = [[photos[name] for name in subset["images"]] for subset in subsets if subset["n"] == count]
    except (KeyError, TypeError) as error:
        message = f"{folder}: subsets.json has an entry without n or images, or names an unknown photo: {error}"
        raise InputError(message, "correct it") from error
    if not chosen:
        raise InputError(f"{folder} has no subset of {count} photos", "add one to subsets.json")
    if any(photo.rgb.shape != subset[0].rgb.shape for subset in chosen for photo in subset):
        raise InputError(
            f"{folder}: the photos of a subset have different shapes", "put photos of one shape into each subset"
        )
    return chosen


@torch.no_grad()
def evaluate_photos(
    network: FlareSmall, folders: list[Path], long_side: int, count: int = 2
) -> dict[str, dict[str, float]]:
    """Relative pose errors of all subsets of ``count`` photos, by scene and as ``mean``, on the device of the network.

    Returns:
        Per scene ``rotation``, ``direction`` (median degrees over pairs) and ``auc30`` for the coarse pose, the refined
        pose, and an essential matrix from mutual nearest descriptors with the predicted focal length (suffixes
        ``_coarse``, none, ``_matches``), and ``focal`` (median relative error).

    Raises:
        InputError: as :func:`load_scene`, or a folder has no such subset, or one of different shapes.
    """
    network.eval()
    table: dict[str, dict[str, float]] = {}
    for folder in folders:
        photos, subsets = load_scene(folder, long_side, network.config.patch)
        chosen = _chosen(folder, photos, subsets, count)
        table[folder.name] = _summary([_subset_errors(network, each) for each in chosen])
    table["mean"] = {key: float(np.mean([row[key] for row in table.values()])) for key in next(iter(table.values()))}
    return table


def _summary(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    merged = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
    found = {"focal": float(merged.pop("focal").median())}
    for suffix in ("_coarse", "", "_matches"):
        rotation, direction = merged["rotation" + suffix], merged["direction" + suffix]
        found["rotation" + suffix] = float(rotation.median())
        found["direction" + suffix] = float(direction.median())
        found["auc30" + suffix] = area_under_curve(torch.maximum(rotation, direction), 30)
    return {key: round(value, 3) for key, value in found.items()}


def _subset_errors(network: FlareSmall, photos: list[PosedPhoto]) -> dict[str, Tensor]:
    portrait, device = torch.tensor([p.portrait for p in photos]), next(network.parameters()).device
    prediction = network.predict(Views(torch.stack([p.rgb for p in photos]), portrait).to(device))
    prediction = replace(
        prediction,
        **{f.name: each.cpu() for f in fields(prediction) if isinstance(each := getattr(prediction, f.name), Tensor)},
    )
    c2w = torch.linalg.inv(torch.stack([p.w2c for p in photos]))
    truth = (torch.linalg.inv(c2w[:1]) @ c2w).float()
    first, second = torch.triu_indices(len(photos), len(photos), 1)
    answers = {"_coarse": prediction.coarse_c2w, "": prediction.refined_c2w}
    relative = {suffix: torch.linalg.inv(poses[first]) @ poses[second] for suffix, poses in answers.items()}
    relative["_matches"] = torch.stack(
        [
            pose_from_descriptors(prediction, portrait, i, j)
            for i, j in zip(first.tolist(), second.tolist(), strict=True)
        ]
    )
    wanted = torch.linalg.inv(truth[first]) @ truth[second]
    errors = {}
    for suffix, found in relative.items():
        lost = ~found.isfinite().flatten(1).all(1)
        errors["rotation" + suffix] = rotation_degrees(found[:, :3, :3], wanted[:, :3, :3]).masked_fill(lost, _LOST)
        errors["direction" + suffix] = direction_degrees(found[:, :3, 3], wanted[:, :3, 3]).masked_fill(lost, _LOST)
    assert prediction.focal is not None  # this network predicts it
    errors["focal"] = (prediction.focal / torch.tensor([p.focal for p in photos]) - 1).abs()
    return errors


def pose_from_descriptors(prediction: Prediction, portrait: Tensor, first: int, second: int) -> Tensor:
    """Pose of a second view in the frame of a first from mutual nearest descriptors; NaN where too few agree.

    Returns:
        (4, 4) camera ``second`` to camera ``first``, translation of length one.
    """
    poselib = require("poselib", "Poses of measured photos")
    assert prediction.focal is not None  # this network predicts it
    matches = match_views(prediction, portrait, first, second)
    if len(matches.similarity) < _MIN_MATCHES:
        return torch.full((4, 4), torch.nan)
    height, width = prediction.points_local.shape[1:3]
    points, lenses = [], []
    for pixels, view in ((matches.first, first), (matches.second, second)):
        size = (height, width) if bool(portrait[view]) else (width, height)
        points.append((pixels.double() - torch.tensor(size, dtype=torch.float64) / 2).numpy())
        lenses.append(_lens(float(prediction.focal[view]) * width, width))
    assert prediction.descriptors is not None  # matches come from them
    cell = width / prediction.descriptors.shape[-1]
    options = {"max_epipolar_error": _EPIPOLAR_CELLS * cell, "seed": 0}
    pose, _ = poselib.estimate_relative_pose(points[0], points[1], lenses[0], lenses[1], options, {})
    found = torch.eye(4)
    found[:3, :3] = torch.from_numpy(pose.R.T)
    found[:3, 3] = torch.from_numpy(-pose.R.T @ pose.t)
    return found


def _lens(focal: float, side: int) -> dict[str, object]:
    return {"model": "SIMPLE_PINHOLE", "width": side, "height": side, "params": [focal, 0.0, 0.0]}
