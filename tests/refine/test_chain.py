"""Cameras from pairwise poses: exact pairs give the exact scene, in any order, with one scale."""

from dataclasses import replace

import numpy as np
import pytest

from flarecli.refine.candidate import Candidate, MatchGraph, pair_inliers, support
from flarecli.refine.chain import chain_candidate, grow, relative_poses

from .exact import Exact, exact, pose_errors


@pytest.fixture(scope="module")
def scene() -> Exact:
    return exact(4)


def permuted(scene: Exact, order: list[int]) -> MatchGraph:
    """The same photos in another order: new photo i is old photo order[i]."""
    place = {old: new for new, old in enumerate(order)}
    matches = {}
    for (a, b), index in scene.graph.matches.items():
        x, y = place[a], place[b]
        matches[min(x, y), max(x, y)] = index if x < y else index[:, ::-1]
    return MatchGraph([scene.graph.features[old] for old in order], matches)


def test_exact_pairs_give_exact_cameras(scene):
    poses = relative_poses(scene.graph, scene.lenses, seed=0)
    assert set(poses) == set(scene.graph.matches)
    found = chain_candidate(scene.graph, poses, scene.lenses)
    assert found is not None and found.posed.all() and found.origin == "chain"
    angle, offset = pose_errors(found.c2w, scene.truth.c2w)
    assert angle < 0.05 and offset < 0.01


def test_the_scale_of_each_step_comes_from_shared_points(scene):
    """Only the chain 0-1-2-3 is known; every step's unit baseline must become its true length."""
    poses = relative_poses(scene.graph, scene.lenses, seed=0)
    chain = {pair: poses[pair] for pair in ((0, 1), (1, 2), (2, 3))}
    found = chain_candidate(scene.graph, chain, scene.lenses)
    assert found is not None and found.posed.all()
    steps = np.linalg.norm(np.diff(found.c2w[:, :3, 3], axis=0), axis=1)
    truth = np.linalg.norm(np.diff(scene.truth.c2w[:, :3, 3], axis=0), axis=1)
    np.testing.assert_allclose(steps / steps[0], truth / truth[0], rtol=0.01)


def test_the_order_of_the_photos_does_not_matter(scene):
    order = [2, 0, 3, 1]
    graph = permuted(scene, order)
    poses = relative_poses(graph, scene.lenses, seed=0)
    found = chain_candidate(graph, poses, scene.lenses)
    assert found is not None and found.posed.all()
    angle, offset = pose_errors(found.c2w, scene.truth.c2w[order])
    assert angle < 0.05 and offset < 0.01


def test_known_depths_fix_the_scale_of_a_new_step(scene):
    poses = relative_poses(scene.graph, scene.lenses, seed=0)
    posed = np.array([True, False, False, False])
    start = Candidate("start", np.array(scene.truth.c2w), posed, scene.lenses)
    w2c, tracks = scene.cameras.w2c[0], scene.tracks
    seen = tracks.view_index == 0
    z = tracks.xyz[tracks.point_index[seen]] @ w2c[2, :3] + w2c[2, 3]
    distance = np.linalg.norm(scene.graph.features[0].xy[:, None] - tracks.pixel[seen][None], axis=2)
    depths = {0: {i: float(z[j]) for i, j in enumerate(distance.argmin(1))}}
    grown = grow(scene.graph, {(0, 1): poses[0, 1]}, start, depths)
    assert grown.posed.tolist() == [True, True, False, False]
    np.testing.assert_allclose(grown.c2w[1], scene.truth.c2w[1], atol=0.01)


def test_the_largest_group_wins_and_others_stay_out(scene):
    poses = relative_poses(scene.graph, scene.lenses, seed=0)
    found = chain_candidate(scene.graph, {pair: poses[pair] for pair in ((0, 1), (0, 2))}, scene.lenses)
    assert found is not None and found.posed.tolist() == [True, True, True, False]
    assert chain_candidate(scene.graph, {}, scene.lenses) is None


def test_pairs_with_little_support_are_no_pairs(scene):
    few = MatchGraph(scene.graph.features, {pair: index[:10] for pair, index in scene.graph.matches.items()})
    assert relative_poses(few, scene.lenses, seed=0) == {}


def test_the_truth_is_supported_by_all_matches_and_a_wrong_camera_is_not(scene):
    inliers = pair_inliers(scene.graph, scene.truth)
    assert all(good.all() for good in inliers.values())
    full = support(inliers, 4)
    turned = np.array(scene.truth.c2w)
    turned[3, :3, :3] = turned[3, :3, :3] @ np.diag([-1.0, -1, 1])
    worse = support(pair_inliers(scene.graph, replace(scene.truth, c2w=turned)), 4)
    assert worse[3] < 0.3 * full[3] and (worse[:3] < full[:3]).all()
    missing = replace(scene.truth, posed=np.array([True, True, True, False]))
    assert all(3 not in pair for pair in pair_inliers(scene.graph, missing))
    same = np.array(scene.truth.c2w)
    same[1] = same[0]
    assert (0, 1) not in pair_inliers(scene.graph, replace(scene.truth, c2w=same))
