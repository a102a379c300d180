"""A set of cameras that claims to explain the matches, and how well it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from flarecli.geometry.transforms import invert_rigid
from flarecli.refine.features import Features
from flarecli.refine.lens import Lenses
from flarecli.refine.twoview import in_front, sampson_px

Pair = tuple[int, int]

SIFT_TOLERANCE = 2.0 / 1024
"""Inlier threshold of SIFT matches, as a fraction of the long side of the photo (2 px at 1024)."""

_PAIR_SATURATION = 100.0
# A pair with a thousand matches is hardly better known than one with a few hundred.


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """Cameras of some of the photos.

    Attributes:
        origin: what proposed them: "incremental", "global", "chain", "network", ...
        c2w: camera to world; rows of photos without a camera mean nothing.
        posed: which photos have a camera.
        lenses: intrinsics that go with it.
    """

    origin: str
    c2w: Float[np.ndarray, "V 4 4"]
    posed: Bool[np.ndarray, "V"]
    lenses: Lenses


@dataclass(frozen=True, slots=True, eq=False)
class MatchGraph:
    """Features of all photos and the matches between them.

    Attributes:
        features: per photo.
        matches: keypoint indices per pair (a < b), M x 2.
        tolerance: inlier threshold of a match, as a fraction of the long side of the photo.
        weight: what a match says compared with a SIFT match; less than one where neighbours err alike.
    """

    features: Sequence[Features]
    matches: Mapping[Pair, np.ndarray]
    tolerance: float = SIFT_TOLERANCE
    weight: float = 1.0
    _seen: dict[int, tuple[bytes, np.ndarray]] = field(default_factory=dict, repr=False)

    def threshold_px(self, lenses: Lenses, pair: Pair) -> float:
        """Inlier threshold of a pair, in pixels of a photo whose size lies between theirs, as errors are measured."""
        return self.tolerance * float(np.sqrt(lenses.long_side(pair[0]) * lenses.long_side(pair[1])))

    def pixels(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Matched photo pixels of a pair."""
        a, b = pair
        index = self.matches[pair]
        return self.features[a].xy[index[:, 0]], self.features[b].xy[index[:, 1]]

    def rays(self, pair: Pair, lenses: Lenses) -> tuple[np.ndarray, np.ndarray]:
        """Matched points of a pair on the planes z = 1."""
        index = self.matches[pair]
        return self._rays_of(pair[0], lenses)[index[:, 0]], self._rays_of(pair[1], lenses)[index[:, 1]]

    def _rays_of(self, photo: int, lenses: Lenses) -> np.ndarray:
        """All keypoints of a photo on the plane z = 1, kept until it is asked for with another lens.

        Taking the distortion out is slow, and a photo is in as many pairs as there are others.
        """
        group = lenses.group[photo]
        lens = lenses.K[group].tobytes() + lenses.k1[group].tobytes()
        found = self._seen.get(photo)
        if found is None or found[0] != lens:
            found = self._seen[photo] = (lens, lenses.rays(photo, self.features[photo].xy))
        return found[1]


def pair_inliers(graph: MatchGraph, candidate: Candidate) -> dict[Pair, np.ndarray]:
    """Matches of every pair of posed photos that agree with the candidate's cameras, as boolean arrays."""
    w2c, out = invert_rigid(candidate.c2w), {}
    for pair in graph.matches:
        a, b = pair
        if not (candidate.posed[a] and candidate.posed[b]):
            continue
        b_from_a = w2c[b] @ candidate.c2w[a]
        length = np.linalg.norm(b_from_a[:3, 3])
        if not length > 0:
            continue
        rotation, translation = b_from_a[:3, :3], b_from_a[:3, 3] / length
        rays_a, rays_b = graph.rays(pair, candidate.lenses)
        focal = np.sqrt(candidate.lenses.focal_px(a) * candidate.lenses.focal_px(b))
        good = sampson_px(rotation, translation, rays_a, rays_b, focal) < graph.threshold_px(candidate.lenses, pair)
        out[pair] = good & in_front(rotation, translation, rays_a, rays_b)
    return out


def support(inliers: Mapping[Pair, np.ndarray], num_photos: int) -> np.ndarray:
    """Support of every photo: agreeing matches over its pairs, each pair saturating at a few hundred."""
    out = np.zeros(num_photos)
    for (a, b), good in inliers.items():
        count = float(good.sum())
        value = count / (1 + count / _PAIR_SATURATION) if count >= 8 else 0.0
        out[a] += value
        out[b] += value
    return out
