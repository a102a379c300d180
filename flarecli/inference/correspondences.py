"""Matches between photos from a network's dense descriptors, in pixels of the photos. Torch ends here."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from flarecli.geometry.projection import map_pixels
from flarecli.inference.predict import Predicted, Window
from flarecli.model.matching import match_views
from flarecli.scene.matches import DenseMatches

_MATCH_STEPS = ((3, 1), (5, 2))
_MANY_STEP = 3
# Up to 3 photos every cell is looked for, up to 5 every second row and column, beyond that every third: the pairs make
# up for it, and time stays bounded.


def dense_matches(predicted: Predicted) -> tuple[DenseMatches, ...]:
    """Matches of all ordered pairs that share a window; none where the network has no descriptors.

    A pair that shares several windows is matched in the first one.
    """
    out: dict[tuple[int, int], DenseMatches] = {}
    for window in predicted.windows:
        if window.prediction.descriptors is None:
            continue
        step = next((step for most, step in _MATCH_STEPS if len(window.photos) <= most), _MANY_STEP)
        for first, second in permutations(range(len(window.photos)), 2):
            pair = window.photos[first], window.photos[second]
            if pair not in out:
                out[pair] = _match(predicted, window, first, second, step)
    return tuple(out.values())


def _match(predicted: Predicted, window: Window, first: int, second: int, step: int) -> DenseMatches:
    portrait = predicted.prepared.views.portrait[list(window.photos)]
    found = match_views(window.prediction, portrait, first, second, step)
    photo_from_prepared = np.linalg.inv(predicted.prepared.prepared_from_photo)
    a, b = window.photos[first], window.photos[second]
    assert window.prediction.descriptors is not None  # the caller looked
    return DenseMatches(
        a,
        b,
        found.cell.numpy(),
        map_pixels(photo_from_prepared[a], found.first.double().numpy()),
        map_pixels(photo_from_prepared[b], found.second.double().numpy()),
        1.0 / window.prediction.descriptors.shape[-1],
    )
