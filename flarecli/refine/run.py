"""Verification and refinement of a network's reconstruction: the entry point of this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Literal

import numpy as np
import pycolmap

from flarecli.images.loading import Photo
from flarecli.refine.bundle import reprojection_px, tracks_from_model
from flarecli.refine.candidate import Candidate, Pair
from flarecli.refine.features import extract_features
from flarecli.refine.focal_sigma import focal_sigmas
from flarecli.refine.lens import Lenses
from flarecli.refine.place import place, prior_lenses
from flarecli.refine.solve import Solution, solve
from flarecli.refine.stereo_depth import StereoOptions, stereo_depth
from flarecli.refine.ways import SolveOptions
from flarecli.scene.cameras import Cameras
from flarecli.scene.priors import CALIBRATED, Priors
from flarecli.scene.reconstruction import PhotoVerdict, PointCloud, Reconstruction, Tracks

_NETWORK_SIGMA = 0.5  # of the logarithm of the network's focal length
# Up to this many photos, features that follow slanted surfaces are worth their time where plain ones do not convince.
_FEW = 6
_FEW_BEST = 24
_EXHAUSTIVE = 40  # up to this many photos, every pair is matched
_NEIGHBOURS = 20

MAX_FEATURES = {"fast": 2048, "balanced": 8192, "best": 16384}
_STEREO = {"fast": (192, 2), "balanced": (288, 4), "best": (448, 6)}  # long side of the depth maps, photos compared


@dataclass(frozen=True, slots=True)
class RefineOptions:
    """How to refine.

    Attributes:
        mode: "auto" also solves the view graph from the matches; "ba" only adjusts the network's cameras.
        preset: fast, balanced or best.
        threads: threads to use.
        seed: random seed.
    """

    mode: Literal["auto", "ba"] = "auto"
    preset: Literal["fast", "balanced", "best"] = "balanced"
    threads: int = 2
    seed: int = 0


def refine(
    initial: Reconstruction,
    photos: Sequence[Photo],
    priors: Priors,
    options: RefineOptions,
    on_progress: Callable[[str, int, int], None] | None = None,
    *,
    better: Callable[[], Reconstruction] | None = None,
) -> Reconstruction:
    """Check predicted cameras against photo matches and replace them by better-supported ones.

    Photos that the matches do not reach keep the network's camera, moved into the common world. Nothing of the initial
    reconstruction is lost where the matches support nothing.

    Args:
        initial: what the network made; one camera and depth map per photo.
        photos: the same photos.
        priors: known intrinsics and poses.
        options: how hard to try.
        on_progress: told about "features", "matching", "adjusting" and "stereo".
        better: makes a better reconstruction than ``initial`` of what the network said, such as one from its own
            matches. It takes time, and is asked for only where the photo matches alone do not convince.
    """
    # Its log lines say nothing to a user of this program; what matters comes back as values and exceptions.
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    features = extract_features(
        photos, max_features=MAX_FEATURES[options.preset], threads=options.threads, on_progress=on_progress
    )
    # The network's direct focal length is a second opinion, which one from matches of the same photos would not be.
    lenses = _lenses(priors, initial.cameras)

    @cache
    def start() -> Reconstruction:
        return initial if better is None else better()

    def network() -> Candidate:
        cameras = start().cameras
        # Poses that were solved go with the focal lengths that they were solved with.
        known = lenses if start() is initial else lenses.with_focal_of(cameras)
        return Candidate("network", np.array(cameras.c2w), np.ones(len(photos), bool), known)

    settings = SolveOptions(
        mode=options.mode,
        fixed_poses=priors.c2w is not None,
        thorough=options.preset == "best",
        threads=options.threads,
        seed=options.seed,
    )
    pairs = choose_pairs(initial if len(photos) <= _EXHAUSTIVE else start())
    solution = solve(features, lenses, pairs, [network], settings, on_progress)
    few = len(photos) <= (_FEW_BEST if options.preset == "best" else _FEW)
    if few and not solution.convincing and options.preset != "fast" and options.mode == "auto":
        features = extract_features(
            photos,
            max_features=MAX_FEATURES[options.preset],
            threads=options.threads,
            affine=True,
            on_progress=on_progress,
        )
        earlier = replace(solution.candidate, origin="plain-features")
        solution = solve(features, lenses, pairs, [network, lambda: earlier], settings, on_progress)
    refined = _apply(initial if solution.convincing else start(), photos, priors, solution)
    long_side, sources = _STEREO[options.preset]
    stereo = StereoOptions(long_side, sources, options.threads)
    depth_maps = stereo_depth(
        photos, refined.cameras, refined.tracks, refined.depth_maps, solution.verified, stereo, on_progress
    )
    return replace(refined, depth_maps=depth_maps)


def choose_pairs(initial: Reconstruction) -> list[Pair]:
    """Pairs worth matching: all of a small set; else the nearest in viewpoint and the neighbours in order."""
    count = len(initial)
    if count <= _EXHAUSTIVE:
        return list(combinations(range(count), 2))
    centers, forward = initial.cameras.centers, initial.cameras.c2w[:, :3, 2]
    spread = float(np.median(np.linalg.norm(centers - np.median(centers, 0), axis=1))) or 1.0
    distance = np.linalg.norm(centers[:, None] - centers[None], axis=2) / spread + 2 * (1 - forward @ forward.T)
    np.fill_diagonal(distance, -1.0)  # itself first, also among photos from one place
    pairs = {(a, b) for a in range(count) for b in range(a + 1, min(a + 1 + _NEIGHBOURS // 2, count))}
    for a in range(count):
        for b in np.argsort(distance[a])[1 : _NEIGHBOURS + 1].tolist():
            pairs.add((min(a, b), max(a, b)))
    return sorted(pairs)


def _lenses(priors: Priors, cameras: Cameras) -> Lenses:
    """Starting lenses; without EXIF the focal length is a guess that the network's answer draws towards itself."""
    lenses = prior_lenses(priors)
    K, sigma = lenses.K.copy(), lenses.sigma.copy()
    for row, spread in enumerate(lenses.sigma):
        if spread > 0:
            photo = int(np.flatnonzero(lenses.group == row)[0])
            weight = spread**2 / (spread**2 + _NETWORK_SIGMA**2)
            focal = K[row, 0, 0] ** (1 - weight) * cameras.K[photo, 0, 0] ** weight
            K[row, 0, 0] = K[row, 1, 1] = focal
            sigma[row] = spread * np.sqrt(1 - weight)
    return replace(lenses, K=K, sigma=sigma)


def _apply(initial: Reconstruction, photos: Sequence[Photo], priors: Priors, solution: Solution) -> Reconstruction:
    best, adjusted = solution.candidate, solution.adjusted
    count = len(photos)
    if not solution.support.any():
        nothing = np.full(count, np.nan), np.zeros(count, int), [None] * count
        return replace(initial, verdicts=_verdicts(photos, solution, *nothing))
    K, k1 = best.lenses.K[best.lenses.group], best.lenses.k1[best.lenses.group]
    cameras = Cameras(best.c2w, K, priors.size_hw, k1)
    if adjusted is not None:
        tracks = tracks_from_model(adjusted.model, best, lambda photo: photos[photo].rgb())
        errors, observations = reprojection_px(adjusted.model, count), adjusted.observations
        sigmas = focal_sigmas(adjusted)
    else:
        # Points of the network's own matches belong to the cameras they were made with.
        tracks, errors, observations = Tracks.empty(), np.full(count, np.nan), np.zeros(count, int)
        sigmas = best.lenses.sigma
    verdicts = _verdicts(photos, solution, errors, observations, sigmas[best.lenses.group].tolist())
    return replace(
        place(initial, cameras, tracks, priors),
        verdicts=verdicts,
        confidence=_confidence(verdicts, tracks, calibrated=bool((priors.sigma < CALIBRATED).all())),
        points=PointCloud(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros((0, 2))),
        provenance={**initial.provenance, "refinement": {"origin": best.origin, "support": solution.scores}},
    )


def _verdicts(
    photos: Sequence[Photo],
    solution: Solution,
    errors: np.ndarray,
    observations: np.ndarray,
    sigmas: Sequence[float | None],
) -> tuple[PhotoVerdict, ...]:
    out = []
    for index, photo in enumerate(photos):
        error = None if np.isnan(errors[index]) else float(errors[index])
        known = int(observations[index]), error, sigmas[index]
        if solution.verified[index]:
            out.append(PhotoVerdict(photo.name, "verified", "", *known))
        else:
            reason = "too few matches with other photos agree on a camera"
            out.append(PhotoVerdict(photo.name, "network-only", reason, *known))
    return tuple(out)


def _confidence(verdicts: Sequence[PhotoVerdict], tracks: Tracks, *, calibrated: bool) -> float:
    """Share of photos that matches verify, weighed by how many sparse points each sees and how well they fit.

    Args:
        verdicts: of all photos with a camera.
        tracks: sparse points.
        calibrated: all focal lengths were known before, at least from EXIF.
    """
    values = []
    for verdict in verdicts:
        enough = min(verdict.inliers / 100.0, 1.0) if verdict.status == "verified" else 0.0
        sharp = 1.0 if verdict.reprojection_px is None else float(np.exp(-max(verdict.reprojection_px - 1.0, 0.0)))
        values.append(enough * sharp)
    lengths = np.bincount(tracks.point_index) if len(tracks) else np.zeros(1)
    # Points that only two photos see tie neither scale nor focal length; two photos alone have but one scale.
    chained = float((lengths >= 3).mean()) > 0.1 or (len(verdicts) == 2 and calibrated)
    return float(np.mean(values)) * (1.0 if chained else 0.7)
