"""Cameras from pairwise poses alone: photos are added one by one over the best-supported pair.

It needs no photo to see the points of two others, so it still answers where mappers give up: two photos, or photos that
only overlap one by one. The scale of each step comes from points seen in three photos where there are any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from flarecli.geometry.transforms import invert_rigid, rigid
from flarecli.refine.candidate import Candidate, MatchGraph, Pair
from flarecli.refine.lens import Lenses
from flarecli.refine.ties import MIN_SHARED
from flarecli.refine.twoview import RelativePose, ray_depths, relative_pose

MIN_SUPPORT = 12
"""Matches that must agree on the pose of a pair."""

_MIN_PARALLAX_DEG = 1.0


def relative_poses(
    graph: MatchGraph, lenses: Lenses, pairs: Sequence[Pair] | None = None, *, seed: int, threads: int = 1
) -> dict[Pair, RelativePose]:
    """Robust calibrated pose of every matched pair (or of these) that enough matches agree on."""

    def pose_of(pair: Pair) -> RelativePose | None:
        focal = lenses.focal_px(pair[0]), lenses.focal_px(pair[1])
        return relative_pose(*graph.rays(pair, lenses), focal, graph.threshold_px(lenses, pair), seed)

    asked = graph.matches if pairs is None else pairs
    enough = [pair for pair in asked if len(graph.matches[pair]) >= MIN_SUPPORT]
    with ThreadPoolExecutor(threads) as pool:
        poses = zip(enough, pool.map(pose_of, enough), strict=True)
    return {pair: pose for pair, pose in poses if pose is not None and pose.support >= MIN_SUPPORT}


def chain_candidate(graph: MatchGraph, poses: Mapping[Pair, RelativePose], lenses: Lenses) -> Candidate | None:
    """The largest set of photos that pairwise poses connect, grown from the best pair; None without any pair."""
    count = len(lenses.group)
    unused, best = set(range(count)), None
    while unused:
        inside = {pair: pose for pair, pose in poses.items() if pair[0] in unused and pair[1] in unused}
        if not inside:
            break
        root = max(inside, key=lambda pair: _quality(inside[pair]))[0]
        posed = np.zeros(count, bool)
        posed[root] = True
        grown = grow(graph, inside, Candidate("chain", np.tile(np.eye(4), (count, 1, 1)), posed, lenses), {})
        unused -= set(np.flatnonzero(grown.posed).tolist())
        if best is None or grown.posed.sum() > best.posed.sum():
            best = grown
    return best


def grow(
    graph: MatchGraph,
    poses: Mapping[Pair, RelativePose],
    candidate: Candidate,
    depths: Mapping[int, Mapping[int, float]],
) -> Candidate:
    """Add every photo that a pairwise pose connects to the posed ones, strongest pair first.

    Args:
        graph: all matches.
        poses: relative poses of pairs.
        candidate: cameras to begin with.
        depths: known z-depths per photo and keypoint, which fix the scale of new steps.
    """
    c2w, posed = candidate.c2w.copy(), candidate.posed.copy()
    known = {photo: _Depths(of) for photo, of in depths.items()}
    while True:
        edges = [pair for pair in poses if posed[pair[0]] != posed[pair[1]]]
        if not edges:
            return Candidate(candidate.origin, c2w, posed, candidate.lenses)
        a, b = max(edges, key=lambda pair: _quality(poses[pair]))
        parent, child = (a, b) if posed[a] else (b, a)
        step = _Step.make(graph, poses, candidate.lenses, parent, child)
        scale = known[parent].scale_of(step.parent_keypoints, step.parent_depths) if parent in known else 1.0
        c2w[child] = c2w[parent] @ invert_rigid(rigid(step.rotation, scale * step.translation))
        posed[child] = True
        known.setdefault(parent, _Depths({})).add(step.parent_keypoints, scale * step.parent_depths)
        known.setdefault(child, _Depths({})).add(step.child_keypoints, scale * step.child_depths)


def _quality(pose: RelativePose) -> float:
    # A pair without parallax knows its rotation but no direction: last choice for a step.
    return pose.support * (1.0 if pose.parallax_deg > _MIN_PARALLAX_DEG else 0.1)


class _Depths:
    """Depths of keypoints of one photo, known from the steps so far."""

    def __init__(self, of: Mapping[int, float]) -> None:
        self._of = dict(of)
        self._typical = float(np.median(list(of.values()))) if of else 1.0

    def add(self, keypoints: np.ndarray, depths: np.ndarray) -> None:
        for keypoint, depth in zip(keypoints.tolist(), depths.tolist(), strict=True):
            self._of.setdefault(keypoint, depth)
        if len(depths):
            self._typical = float(np.median(depths))

    def scale_of(self, keypoints: np.ndarray, depths: np.ndarray) -> float:
        """Factor that brings new depths of this photo onto the known ones.

        Without shared points both steps are taken to look at the same median depth, which at least keeps the size of
        the scene.
        """
        shared = [(self._of[k], d) for k, d in zip(keypoints.tolist(), depths.tolist(), strict=True) if k in self._of]
        if len(shared) >= MIN_SHARED:
            known, new = np.array(shared).T
            return float(np.exp(np.median(np.log(known / new))))
        return self._typical / float(np.median(depths)) if len(depths) else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """Child from parent with unit baseline, and the depths of the shared keypoints in both photos."""

    rotation: np.ndarray
    translation: np.ndarray
    parent_keypoints: np.ndarray
    parent_depths: np.ndarray
    child_keypoints: np.ndarray
    child_depths: np.ndarray

    @staticmethod
    def make(graph: MatchGraph, poses: Mapping[Pair, RelativePose], lenses: Lenses, parent: int, child: int) -> _Step:
        pair = (min(parent, child), max(parent, child))
        pose = poses[pair]
        rays_a, rays_b = graph.rays(pair, lenses)
        matches = graph.matches[pair][pose.inliers]
        depth_a, depth_b = ray_depths(pose.rotation, pose.translation, rays_a[pose.inliers], rays_b[pose.inliers])
        good = (depth_a > 0) & (depth_b > 0)
        matches, depth_a, depth_b = matches[good], depth_a[good], depth_b[good]
        if parent == pair[0]:
            return _Step(pose.rotation, pose.translation, matches[:, 0], depth_a, matches[:, 1], depth_b)
        rotation = pose.rotation.T
        return _Step(rotation, -rotation @ pose.translation, matches[:, 1], depth_b, matches[:, 0], depth_a)
