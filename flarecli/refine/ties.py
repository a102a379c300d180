"""Which photos their common points hold together as one rigid body."""

from __future__ import annotations

import numpy as np
import pycolmap
from jaxtyping import Bool

MIN_SHARED = 5
"""Points that must be common: with fewer, a single wrong one decides on the scale between two parts of a scene."""


def sightings(model: pycolmap.Reconstruction, count: int) -> Bool[np.ndarray, "P V"]:
    """Which of ``count`` photos observe which sparse point, image i + 1 being photo i."""
    seen = np.zeros((len(model.points3D), count), bool)
    for row, point in enumerate(model.points3D.values()):
        seen[row, [element.image_id - 1 for element in point.track.elements]] = True
    return seen


def tied_photos(seen: Bool[np.ndarray, "P V"]) -> Bool[np.ndarray, "V"]:
    """The largest set of photos that points tie together as resection does.

    It starts with the pair that shares most points and takes in every photo that sees enough points of which two photos
    of the set see each. Photos that merely share points with one photo of the set are not tied: nothing says how far
    they are from it compared with the others.
    """
    shared = seen.T.astype(np.int64) @ seen
    np.fill_diagonal(shared, 0)
    best, left = np.zeros(seen.shape[1], bool), np.ones(seen.shape[1], bool)
    while True:
        among = np.where(left[:, None] & left, shared, 0)
        if among.size == 0 or among.max() < MIN_SHARED:
            return best
        tied = _grown(seen, np.unravel_index(among.argmax(), among.shape))
        left &= ~tied
        if tied.sum() > best.sum():
            best = tied


def _grown(seen: Bool[np.ndarray, "P V"], pair: tuple[np.intp, ...]) -> Bool[np.ndarray, "V"]:
    tied = np.zeros(seen.shape[1], bool)
    tied[list(pair)] = True
    while True:
        known = seen[:, tied].sum(1) >= 2
        new = ~tied & (seen[known].sum(0) >= MIN_SHARED)
        if not new.any():
            return tied
        tied |= new
