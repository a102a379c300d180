"""Gaussians of a scene in every file format, and back."""

from __future__ import annotations

import logging
from pathlib import Path

from flarecli.errors import InputError
from flarecli.export.ply import load_gaussians_ply, write_gaussians_ply
from flarecli.export.splat import read_splat, write_splat
from flarecli.export.splats import gaussians_from_points
from flarecli.export.spz import read_spz, write_spz
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.reconstruction import Reconstruction

_LOG = logging.getLogger(__name__)
GAUSSIAN_FILES = {"gaussians": "gaussians.ply", "splat": "gaussians.splat", "spz": "gaussians.spz"}


def scene_gaussians(reconstruction: Reconstruction) -> Gaussians:
    """The reconstruction's own Gaussians, or first ones made from its dense points.

    Raises:
        InputError: it has neither.
    """
    own = reconstruction.gaussians
    return gaussians_from_points(reconstruction) if own is None else own


def write_gaussians(reconstruction: Reconstruction, scene_folder: Path) -> list[Path]:
    """Write ``gaussians.ply``."""
    origin = "initial, from the dense points"
    if reconstruction.gaussians is not None:
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


def read_gaussians(path: Path) -> Gaussians:
    """Gaussians of a .ply, .splat or .spz of any program, in the world of the file.

    Two defects of a .ply are repaired, with a warning: Gaussians that are not finite are left out, and opacities that
    all lie in [0, 1] are taken for what they are, not for logits.

    Raises:
        InputError: another suffix, a damaged file, or nothing usable in it.
    """
    readers = {".ply": _read_ply, ".splat": read_splat, ".spz": read_spz}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is no file of Gaussians", f"known suffixes: {' '.join(readers)}")
    gaussians = reader(path)
    if not len(gaussians):
        raise InputError(f"{path} holds no Gaussians")
    return gaussians


def _read_ply(path: Path) -> Gaussians:
    loaded = load_gaussians_ply(path)
    if loaded.dropped:
        _LOG.warning("%s: %d Gaussians are not finite and were left out", path, loaded.dropped)
    if loaded.looks_activated:
        _LOG.warning("%s: all opacities lie in [0, 1]; they are read as opacities, not as logits", path)
    return loaded.gaussians
