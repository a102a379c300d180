"""Dense matches in pixels of the photos."""

from dataclasses import replace

import numpy as np
import torch

from flarecli.images.preparing import Prepared
from flarecli.inference.correspondences import dense_matches
from flarecli.inference.predict import Predicted, Window
from flarecli.scene.views import Prediction, Views

SCALE = 0.25  # prepared pixels per photo pixel


def _prediction(descriptors: torch.Tensor | None, views: int) -> Prediction:
    points, eye = torch.zeros(views, 24, 32, 3), torch.eye(4).expand(views, 4, 4)
    return Prediction(eye, eye, None, points, points[..., 0], points, points[..., 0], descriptors)


def _predicted(windows: list[tuple[int, ...]], portrait: list[bool]) -> Predicted:
    """Photos whose cell n carries the n-th unit vector, in storage order: every cell matches itself."""
    descriptors = torch.eye(12 * 16).T.reshape(12 * 16, 12, 16)
    maps = np.tile(np.diag([SCALE, SCALE, 1.0]), (len(portrait), 1, 1))
    maps[1, 0, 2] = -3.0  # the second photo is cropped on the left
    prepared = Prepared(Views(torch.zeros(len(portrait), 3, 24, 32), torch.tensor(portrait)), maps)
    parts = [
        Window(photos, _prediction(descriptors.expand(len(photos), -1, -1, -1), len(photos))) for photos in windows
    ]
    return Predicted(tuple(parts), prepared)


def test_cells_become_photo_pixels():
    found = {(m.first, m.second): m for m in dense_matches(_predicted([(0, 1)], [False, False]))}
    assert set(found) == {(0, 1), (1, 0)}
    match = found[0, 1]
    assert match.cell_size == 1 / 16
    row, column = 5, 7
    index = int(np.flatnonzero(match.cell == row * 16 + column)[0])
    assert np.allclose(match.xy_first[index], np.array([column + 0.5, row + 0.5]) * 2 / SCALE)
    assert np.allclose(match.xy_second[index], (np.array([column + 0.5, row + 0.5]) * 2 + [3, 0]) / SCALE)


def test_portrait_photos_are_turned_upright():
    (match, _) = dense_matches(_predicted([(0, 1)], [True, False]))
    index = int(np.flatnonzero(match.cell == 5 * 16 + 7)[0])
    assert np.allclose(match.xy_first[index], np.array([5.5, 7.5]) * 2 / SCALE)


def test_every_ordered_pair_of_a_window_is_matched_once():
    found = dense_matches(_predicted([(0, 1, 2), (1, 2, 3)], [False] * 4))
    pairs = [(m.first, m.second) for m in found]
    assert len(pairs) == len(set(pairs)) == 10
    assert (0, 3) not in pairs and (3, 1) in pairs


def test_many_photos_are_matched_on_fewer_cells():
    few, many = (
        dense_matches(_predicted([(0, 1)], [False] * 2)),
        dense_matches(_predicted([tuple(range(8))], [False] * 8)),
    )
    assert len(few[0]) == 192
    assert 0 < len(many[0]) < 40


def test_networks_without_descriptors_have_no_matches():
    predicted = _predicted([(0, 1)], [False] * 2)
    bare = replace(predicted.windows[0].prediction, descriptors=None)
    assert dense_matches(replace(predicted, windows=(Window((0, 1), bare),))) == ()
