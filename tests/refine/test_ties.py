"""Only what common points hold together is one scene."""

import numpy as np

from flarecli.refine.ties import MIN_SHARED, tied_photos


def sightings(count: int, *groups: tuple[int, tuple[int, ...]]) -> np.ndarray:
    """So many points seen by exactly these photos, for every group."""
    rows = []
    for points, photos in groups:
        row = np.zeros(count, bool)
        row[list(photos)] = True
        rows += [row] * points
    return np.array(rows).reshape(-1, count)


def test_two_photos_are_tied_by_their_points():
    assert tied_photos(sightings(2, (MIN_SHARED, (0, 1)))).all()
    assert not tied_photos(sightings(2, (MIN_SHARED - 1, (0, 1)))).any()
    assert not tied_photos(sightings(3)).any()


def test_islands_are_not_one_scene():
    seen = sightings(7, (20, (0, 1, 2)), (30, (3, 4, 5, 6)))
    assert tied_photos(seen).tolist() == [False, False, False, True, True, True, True]


def test_a_chain_of_pairs_without_common_points_has_no_common_scale():
    chain = sightings(3, (40, (0, 1)), (60, (1, 2)))
    assert tied_photos(chain).tolist() == [False, True, True]
    assert tied_photos(np.concatenate([chain, sightings(3, (MIN_SHARED, (0, 1, 2)))])).all()


def test_a_late_photo_is_tied_through_those_that_came_before():
    seen = sightings(4, (30, (0, 1)), (8, (0, 1, 2)), (9, (1, 2, 3)))
    assert tied_photos(seen).all()
