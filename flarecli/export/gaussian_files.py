"""Gaussians of a scene in every file format, and back."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flarecli.errors import InputError
from flarecli.export.occlusion import behind_measured
from flarecli.export.ply import load_gaussians_ply, write_gaussians_ply
from flarecli.export.sog import read_sog, write_sog
from flarecli.export.splat import load_splat, write_splat
from flarecli.export.splats import gaussians_from_points
from flarecli.export.spz import read_spz, write_spz
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.reconstruction import Reconstruction

_LOG = logging.getLogger(__name__)
GAUSSIAN_FILES = {
    "gaussians": "gaussians.ply",
    "splat": "gaussians.splat",
    "spz": "gaussians.spz",
    "sog": "gaussians.sog",
}


def scene_gaussians(reconstruction: Reconstruction) -> Gaussians:
    """The reconstruction's own Gaussians, those that the network predicted, or first ones made from its dense points.

    Raises:
        InputError: it has none of them.
    """
    if reconstruction.gaussians is not None:
        return reconstruction.gaussians
    return first_gaussians(reconstruction)


def first_gaussians(reconstruction: Reconstruction, without: Sequence[int] = ()) -> Gaussians:
    """Gaussians that no photo was fitted to: those that the network predicted, or made from the dense points.

    Args:
        reconstruction: the scene.
        without: photos that contribute neither Gaussians nor measured depth.

    Raises:
        InputError: nothing of the other photos is there.
    """
    photos = [photo for photo in range(len(reconstruction)) if photo not in without]
    if reconstruction.first_gaussians is not None:
        return behind_measured(_of_photos(reconstruction.first_gaussians, photos), reconstruction, photos)
    if reconstruction.gaussians is not None and reconstruction.gaussians.view_index is not None:
        return _of_photos(reconstruction.gaussians, photos)  # of networks that place them by themselves
    points = reconstruction.points
    keep = np.isin(points.view_index, photos)
    rest = {each.name: getattr(points, each.name)[keep] for each in dataclasses.fields(points)}
    return gaussians_from_points(dataclasses.replace(reconstruction, points=dataclasses.replace(points, **rest)))


def _of_photos(gaussians: Gaussians, photos: Sequence[int]) -> Gaussians:
    assert gaussians.view_index is not None  # predicted ones know their photo
    kept = gaussians.select(np.isin(gaussians.view_index, photos))
    if not len(kept):
        raise InputError("the network predicted no Gaussians for these photos", "reconstruct with other photos")
    return kept


def write_gaussians(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write ``gaussians.ply``."""
    origin = "initial, from the dense points"
    if reconstruction.gaussians is not None or reconstruction.first_gaussians is not None:
        origin = str(reconstruction.provenance.get("gaussians", "predicted"))
    path = scene_folder / GAUSSIAN_FILES["gaussians"]
    unit = "unit: metre" if reconstruction.metric_scale else "unit: arbitrary"
    write_gaussians_ply(scene_gaussians(reconstruction), path, comments=(unit, f"source: {origin}"))
    return [path]


def write_scene_splat(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write ``gaussians.splat``."""
    path = scene_folder / GAUSSIAN_FILES["splat"]
    write_splat(scene_gaussians(reconstruction), path)
    return [path]


def write_scene_spz(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write ``gaussians.spz``."""
    path = scene_folder / GAUSSIAN_FILES["spz"]
    write_spz(scene_gaussians(reconstruction), path)
    return [path]


def write_scene_sog(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write ``gaussians.sog``."""
    path = scene_folder / GAUSSIAN_FILES["sog"]
    write_sog(scene_gaussians(reconstruction), path)
    return [path]


def read_gaussians(path: Path) -> Gaussians:
    """Gaussians of a .ply, .splat, .spz or .sog of any program, in the world of the file.

    Two defects are repaired, with a warning: Gaussians that are not finite are left out, and opacities of a .ply that
    all lie in [0, 1] are taken for what they are, not for logits.

    Raises:
        InputError: another suffix, a damaged file, or nothing usable in it.
    """
    readers = {".ply": _read_ply, ".splat": _read_splat, ".spz": read_spz, ".sog": read_sog}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is no file of Gaussians", f"known suffixes: {' '.join(readers)}")
    gaussians = reader(path)
    if not len(gaussians):
        raise InputError(f"{path} holds no Gaussians", "give a file with at least one Gaussian")
    return gaussians


def _read_splat(path: Path) -> Gaussians:
    gaussians, dropped = load_splat(path)
    _say_dropped(path, dropped)
    return gaussians


def _read_ply(path: Path) -> Gaussians:
    loaded = load_gaussians_ply(path)
    _say_dropped(path, loaded.dropped)
    if loaded.looks_activated:
        _LOG.warning("%s: all opacities lie in [0, 1]; they are read as opacities, not as logits", path)
    return loaded.gaussians


def _say_dropped(path: Path, dropped: int) -> None:
    if dropped:
        _LOG.warning("%s: %d Gaussians are not finite and were left out", path, dropped)
