"""Cameras from a network's own matches: the solver that SIFT matches go through, told how accurate dense ones are.

A cell of a descriptor map is several pixels of the photo wide. So the photos are taken to be so small that a match is
accurate to about a pixel, and everything that the solver and COLMAP know about pixels holds again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pycolmap

from flarecli.images.loading import Photo
from flarecli.refine.bundle import reprojection_px, track_errors, tracks_from_model
from flarecli.refine.candidate import Candidate, MatchGraph, Pair
from flarecli.refine.features import Features
from flarecli.refine.lens import Lenses
from flarecli.refine.place import place, prior_lenses
from flarecli.refine.solve import Solution, solve_matches
from flarecli.refine.ways import SolveOptions
from flarecli.scene.cameras import Cameras
from flarecli.scene.matches import DenseMatches
from flarecli.scene.priors import Priors
from flarecli.scene.reconstruction import Reconstruction, Tracks

_TOLERANCE_CELLS = 0.75
_PIXELS_PER_TOLERANCE = 2.0  # what the solver takes as the inlier threshold of a photo of 1024 pixels

_WEIGHT = 0.05
# Neighbouring cells err alike: on real photos with known focal lengths their matches bear out about a twentieth of the
# information that as many SIFT matches have.


def solve_from_matches(
    initial: Reconstruction,
    matches: Sequence[DenseMatches],
    photos: Sequence[Photo],
    priors: Priors,
    *,
    threads: int,
    seed: int,
) -> Reconstruction:
    """Replace a network's direct cameras by those that its own matches support better.

    Photos that no match reaches keep their camera, moved into the common world. Known poses stay, and the matches bring
    depth and unknown focal lengths onto them. Without matches nothing changes.

    Args:
        initial: direct cameras and depth of every photo.
        matches: of ordered pairs of photos.
        photos: the same photos.
        priors: known intrinsics and poses.
        threads: threads to use.
        seed: random seed.
    """
    if not any(len(found) for found in matches):
        return initial
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    tolerance = _TOLERANCE_CELLS * max(found.cell_size for found in matches)
    lenses = prior_lenses(priors)
    unit = tolerance * lenses.size_hw.max(1) / _PIXELS_PER_TOLERANCE
    small = scaled(lenses, unit)
    graph = dense_graph(matches, len(photos), unit[lenses.group], tolerance)
    direct = Candidate("direct", np.array(initial.cameras.c2w), np.ones(len(photos), bool), small)
    known = priors.c2w is not None
    options = SolveOptions(fixed_poses=known, distortion=False, uncalibrated=False, threads=threads, seed=seed)
    solution = solve_matches(graph, small, [lambda: direct], options)
    return _placed(initial, photos, priors, solution, unit)


def dense_graph(matches: Sequence[DenseMatches], count: int, unit: np.ndarray, tolerance: float) -> MatchGraph:
    """Keypoints and matches: a cell of a photo with all places where other photos show it makes one track.

    Args:
        matches: of ordered pairs.
        count: number of photos.
        unit: photo pixels per pixel of the graph, per photo.
        tolerance: inlier threshold as a fraction of the long side.
    """
    places: list[list[np.ndarray]] = [[np.zeros((0, 2))] for _ in range(count)]
    used = np.zeros(count, int)
    cells: dict[tuple[int, int], int] = {}
    pairs: dict[Pair, list[np.ndarray]] = {}

    def add(photo: int, pixels: np.ndarray) -> np.ndarray:
        places[photo].append(pixels / unit[photo])
        used[photo] += len(pixels)
        return np.arange(used[photo] - len(pixels), used[photo])

    for found in matches:
        a, b = found.first, found.second
        keys = [(a, cell) for cell in found.cell.tolist()]
        new = np.array([key not in cells for key in keys], bool)
        numbers = add(a, found.xy_first[new]).tolist()
        cells.update(zip((key for key, fresh in zip(keys, new, strict=True) if fresh), numbers, strict=True))
        here, there = np.array([cells[key] for key in keys], np.int64), add(b, found.xy_second)
        rows = np.stack([here, there] if a < b else [there, here], 1)
        pairs.setdefault((min(a, b), max(a, b)), []).append(rows)
    features = [Features(np.concatenate(parts), None) for parts in places]
    joined = {pair: np.concatenate(rows) for pair, rows in pairs.items()}
    return MatchGraph(features, {pair: rows for pair, rows in joined.items() if len(rows)}, tolerance, _WEIGHT)


def scaled(lenses: Lenses, unit: np.ndarray) -> Lenses:
    """The same lenses for photos whose pixels are ``unit`` (per group) times as large; below one enlarges them."""
    K = lenses.K.copy()
    K[:, :2] /= unit[:, None, None]
    size = np.maximum(1, np.round(lenses.size_hw / unit[:, None])).astype(np.int64)
    return replace(lenses, K=K, size_hw=size)


def _placed(
    initial: Reconstruction, photos: Sequence[Photo], priors: Priors, solution: Solution, unit: np.ndarray
) -> Reconstruction:
    best, adjusted, count = solution.candidate, solution.adjusted, len(photos)
    group, tracks, errors = best.lenses.group, Tracks.empty(), np.full(count, np.nan)
    lenses = scaled(best.lenses, 1 / unit)
    # Known intrinsics come back with their own last digits, known distortion as it is.
    K = np.where(priors.known[:, None, None], priors.K, lenses.K[group])
    cameras = Cameras(best.c2w, K, priors.size_hw, priors.k1)
    if adjusted is not None:
        small = {view: (int(h), int(w)) for view, (h, w) in enumerate(best.lenses.size_hw[group])}
        tracks = tracks_from_model(adjusted.model, best, lambda view: np.asarray(photos[view].decode(small[view]).rgb))
        pixel = tracks.pixel * unit[group][tracks.view_index][:, None]
        full = replace(best, lenses=replace(lenses, K=K[np.unique(group, return_index=True)[1]]))
        error = track_errors(tracks.xyz, tracks.point_index, tracks.view_index, pixel, full)
        tracks = replace(tracks, pixel=pixel, error_px=error)
        errors = reprojection_px(adjusted.model, count) * unit[group]
    seen = np.bincount(tracks.view_index, minlength=count)
    verdicts = tuple(
        replace(verdict, inliers=int(seen[view]), reprojection_px=None if np.isnan(errors[view]) else errors[view])
        for view, verdict in enumerate(initial.verdicts)
    )
    return replace(
        place(initial, cameras, tracks, priors),
        verdicts=verdicts,
        provenance={**initial.provenance, "readout": {"origin": best.origin, "support": solution.scores}},
    )
