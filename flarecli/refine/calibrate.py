"""Focal lengths of unknown lenses from the matches, before any camera has a pose."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from flarecli.refine.candidate import MatchGraph, Pair
from flarecli.refine.chain import relative_poses
from flarecli.refine.focal import FocalEstimate, combine_profiles
from flarecli.refine.lens import Lenses
from flarecli.refine.twoview import FocalProfile, focal_profile, refine_with_focal

_PROFILE_PAIRS = 12


def calibrate(graph: MatchGraph, lenses: Lenses, seed: int, threads: int = 1) -> Lenses:
    """Focal lengths of unknown groups from the focal profiles of their best-matched pairs.

    Pairs across two groups are taken to have the same field of view; they count only for groups that have no pair of
    their own.
    """
    if not (lenses.sigma > 0).any():
        return lenses
    ranked = sorted(graph.matches, key=lambda pair: len(graph.matches[pair]), reverse=True)
    ratio, sigma = lenses.K[:, 0, 0] / lenses.size_hw.max(1), lenses.sigma.copy()
    for group in np.flatnonzero(lenses.sigma > 0).tolist():
        own = [pair for pair in ranked if lenses.group[pair[0]] == lenses.group[pair[1]] == group]
        mixed = [pair for pair in ranked if group in (lenses.group[pair[0]], lenses.group[pair[1]])]
        chosen = (own or mixed)[:_PROFILE_PAIRS]
        with ThreadPoolExecutor(threads) as pool:
            found = pool.map(lambda pair: _profile(graph, lenses, pair, seed), chosen)
        profiles = [profile for profile in found if profile is not None]
        estimate = combine_profiles(profiles, FocalEstimate(float(ratio[group]), float(sigma[group])), graph.weight)
        ratio[group], sigma[group] = estimate.ratio, max(estimate.sigma, 1e-3)
    calibrated = lenses.with_focal_ratio(ratio.tolist(), sigma.tolist())
    if len(lenses.group) == 2 and len(graph.matches) == 1:
        return _calibrate_pair(graph, calibrated, seed)
    return calibrated


def _profile(graph: MatchGraph, lenses: Lenses, pair: Pair, seed: int) -> FocalProfile | None:
    a, b = graph.pixels(pair)
    centre_a, centre_b = lenses.K[lenses.group[pair[0]], :2, 2], lenses.K[lenses.group[pair[1]], :2, 2]
    sides = lenses.long_side(pair[0]), lenses.long_side(pair[1])
    return focal_profile(a - centre_a, b - centre_b, sides, graph.threshold_px(lenses, pair), seed)


def _calibrate_pair(graph: MatchGraph, lenses: Lenses, seed: int) -> Lenses:
    """For two photos: settle pose and focal length together, which bundle adjustment can't do without a prior."""
    pair = next(iter(graph.matches))
    poses = relative_poses(graph, lenses, seed=seed)
    if pair not in poses or not (lenses.sigma > 0).all():
        return lenses
    a, b = graph.pixels(pair)
    centres = lenses.K[lenses.group[0], :2, 2], lenses.K[lenses.group[1], :2, 2]
    focal = lenses.focal_px(pair[0]), lenses.focal_px(pair[1])
    sigma = float(np.clip(lenses.sigma.max(), 0.02, 0.35))
    noise = 0.5 * graph.threshold_px(lenses, pair)
    _, _, factor = refine_with_focal(poses[pair], a - centres[0], b - centres[1], focal, noise, sigma)
    ratio = lenses.K[:, 0, 0] / lenses.size_hw.max(1) * factor
    return lenses.with_focal_ratio(ratio.tolist(), lenses.sigma.tolist())
