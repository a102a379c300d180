"""Candidates from pycolmap's mappers, run on the verified matches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from flarecli.geometry.transforms import rigid
from flarecli.refine.candidate import Candidate
from flarecli.refine.lens import Lenses


def incremental_candidates(
    database: Path, folder: Path, lenses: Lenses, *, threads: int, seed: int, few: bool, distortion: bool = True
) -> list[Candidate]:
    """Models of incremental mapping, largest first.

    Args:
        database: verified matches.
        folder: working folder for pycolmap.
        lenses: intrinsics of photos that no model registers.
        threads: threads to use.
        seed: random seed.
        few: relax what COLMAP asks of photo counts, angles and track lengths; right for a handful of photos.
        distortion: estimate the radial term of unknown lenses.
    """
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed = threads, seed
    options.min_model_size, options.extract_colors = 2, False
    options.constant_cameras = _known_cameras(lenses)
    options.ba_refine_extra_params = distortion
    if few:
        options.min_num_matches = 12
        options.mapper.init_min_num_inliers = 30
        options.mapper.init_min_tri_angle = 6.0
        options.mapper.abs_pose_min_num_inliers = 15
        options.triangulation.ignore_two_view_tracks = False
    work = folder / f"incremental-{'few' if few else 'default'}"
    work.mkdir()
    models = pycolmap.incremental_mapping(database, folder, work, options)
    return _candidates("incremental", models.values(), lenses)


def global_candidates(
    database: Path, folder: Path, lenses: Lenses, *, threads: int, seed: int, distortion: bool = True
) -> list[Candidate]:
    """Models of global mapping (rotation averaging, then all positions at once), largest first; arguments as above."""
    options = pycolmap.GlobalPipelineOptions()
    options.num_threads, options.random_seed, options.min_num_matches = threads, seed, 12
    options.mapper.bundle_adjustment.refine_extra_params = distortion
    work = folder / "global"
    work.mkdir()
    try:
        models = pycolmap.global_mapping(database, folder, work, options)
    except (RuntimeError, ValueError):
        # pycolmap raises where a view graph falls apart; that is an answer: no model
        return []
    return _candidates("global", models.values(), lenses)


def _candidates(origin: str, models: Iterable[Any], lenses: Lenses) -> list[Candidate]:
    ranked = sorted(models, key=lambda model: (model.num_reg_images(), model.num_points3D()), reverse=True)
    return [candidate_from_model(origin, model, lenses) for model in ranked]


def candidate_from_model(origin: str, model: pycolmap.Reconstruction, lenses: Lenses) -> Candidate:
    """Cameras of a pycolmap model whose image i + 1 is photo i."""
    count = len(lenses.group)
    c2w, posed = np.tile(np.eye(4), (count, 1, 1)), np.zeros(count, bool)
    used = {}
    for image in model.images.values():
        if image.has_pose:
            pose = image.cam_from_world().inverse()
            c2w[image.image_id - 1] = rigid(pose.rotation.matrix(), pose.translation)
            posed[image.image_id - 1] = True
            used[image.camera_id] = image.camera
    return Candidate(origin, c2w, posed, lenses.from_pycolmap(used))


def _known_cameras(lenses: Lenses) -> set[int]:
    return {index + 1 for index in range(len(lenses)) if lenses.sigma[index] == 0}
