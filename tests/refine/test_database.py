"""The temporary database: what goes in, what matching finds, and that names can't upset it."""

from dataclasses import replace

import numpy as np
import pycolmap
import pytest

from flarecli.refine.candidate import MatchGraph
from flarecli.refine.database import image_name, match_pairs, update_cameras, verify_pairs, write_database

from .exact import descriptors, exact, features_of


@pytest.fixture
def database(tmp_path):
    return tmp_path / "features.db"


def test_cameras_photos_and_features_are_stored(database):
    scene = exact(3, num_tracks=60)
    write_database(database, scene.graph.features, scene.lenses, trust_focal=True)
    write_database(database, scene.graph.features, scene.lenses, trust_focal=True)  # replaces
    opened = pycolmap.Database.open(database)
    try:
        assert [image.name for image in opened.read_all_images()] == [image_name(i) for i in range(3)]
        cameras = opened.read_all_cameras()
        assert len(cameras) == 1 and cameras[0].has_prior_focal_length
        np.testing.assert_allclose(cameras[0].calibration_matrix(), scene.lenses.K[0])
        for index, features in enumerate(scene.graph.features):
            stored = np.array(opened.read_keypoints(index + 1))
            np.testing.assert_allclose(stored[:, :2], features.xy, atol=1e-4)
    finally:
        opened.close()


def test_matching_finds_the_true_matches_and_no_others(database):
    scene = exact(3, num_tracks=120)
    noise = descriptors(40, 99)
    features = []
    for i, found in enumerate(scene.graph.features):
        assert found.descriptors is not None
        xy = np.vstack([found.xy, np.random.default_rng(i).uniform(0, 400, (10, 2))])
        features.append(features_of(xy, np.vstack([np.asarray(found.descriptors.data), noise[10 * i : 10 * i + 10]])))
    write_database(database, features, scene.lenses, trust_focal=False)
    found = match_pairs(database, [(0, 1), (0, 2)], threads=1)
    assert set(found) == {(0, 1), (0, 2)}
    for pair, matches in found.items():
        true = {tuple(match) for match in scene.graph.matches[pair].tolist()}
        mine = {tuple(match) for match in matches.tolist()}
        assert len(mine & true) >= 0.97 * len(true)
        assert len(mine - true) <= 1


def test_photos_without_anything_in_common_have_no_matches(database):
    xy = np.random.default_rng(0).uniform(10, 400, (30, 2))
    features = [features_of(xy, descriptors(30, seed)) for seed in (1, 2)]
    features.append(features_of(np.zeros((0, 2)), np.zeros((0, 128), np.uint8)))
    write_database(database, features, exact(3, num_tracks=30).lenses, trust_focal=False)
    found = match_pairs(database, [(0, 1), (0, 2), (1, 2)], threads=1)
    assert sum(map(len, found.values())) <= 2 and (0, 2) not in found


def test_verified_pairs_follow_the_cameras(database):
    scene = exact(2, num_tracks=120)
    write_database(database, scene.graph.features, scene.lenses, trust_focal=False)
    matches = match_pairs(database, [(0, 1)], threads=1)
    assert isinstance(MatchGraph(scene.graph.features, matches).pixels((0, 1))[0], np.ndarray)
    verify_pairs(database, threads=1, seed=0)

    def inliers() -> int:
        opened = pycolmap.Database.open(database)
        try:
            return sum(len(geometry.inlier_matches) for geometry in opened.read_two_view_geometries()[1])
        finally:
            opened.close()

    assert inliers() >= 0.9 * len(matches[0, 1])
    wider = scene.lenses.K.copy()
    wider[:, 0, 0] = wider[:, 1, 1] = 999
    update_cameras(database, replace(scene.lenses, K=wider), trust_focal=True)
    assert inliers() == 0
    opened = pycolmap.Database.open(database)
    try:
        assert opened.read_camera(1).focal_length == 999
    finally:
        opened.close()
