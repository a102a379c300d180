"""The whole solver on features alone: right from matches, safe where they say nothing."""

from dataclasses import replace

import numpy as np
import pycolmap
import pytest
from scipy.spatial.transform import Rotation

from flarecli.geometry.transforms import Sim3
from flarecli.refine import solve as solving
from flarecli.refine import ways
from flarecli.refine.candidate import Candidate, pair_inliers, support
from flarecli.refine.database import write_database
from flarecli.refine.solve import solve
from flarecli.refine.ways import SolveOptions

from .exact import Exact, descriptors, exact, features_of, pose_errors, shaken

ALL_PAIRS = [(a, b) for a in range(4) for b in range(a + 1, 4)]


@pytest.fixture(scope="module")
def scene() -> Exact:
    return exact(4)


def network(scene: Exact, degrees: float = 20.0) -> Candidate:
    return replace(scene.truth, origin="network", c2w=shaken(scene.truth.c2w, degrees, 0.3))


def test_cameras_wrong_by_twenty_degrees_become_right(scene):
    solution = solve(scene.graph.features, scene.lenses, ALL_PAIRS, [lambda: network(scene)], SolveOptions(threads=1))
    assert solution.verified.all() and solution.adjusted is not None
    angle, offset = pose_errors(solution.candidate.c2w, scene.truth.c2w)
    assert angle < 0.05 and offset < 0.01
    assert max(solution.scores.values()) > 100


def test_a_photo_without_matches_keeps_the_networks_camera_in_the_common_world(scene):
    xy = np.random.default_rng(5).uniform(10, 400, (150, 2))
    features = [*scene.graph.features[:3], features_of(xy, descriptors(150, 77))]
    theirs = replace(scene.truth, origin="network")
    solution = solve(features, scene.lenses, ALL_PAIRS, [lambda: theirs], SolveOptions(threads=1))
    assert solution.verified.tolist() == [True, True, True, False]
    assert solution.candidate.posed.all()
    angle, offset = pose_errors(solution.candidate.c2w, scene.truth.c2w)
    assert angle < 0.1 and offset < 0.02  # the network was right here, so its camera must land in the right place


def test_without_any_match_the_network_stands(scene):
    features = [
        features_of(np.random.default_rng(i).uniform(10, 400, (60, 2)), descriptors(60, 50 + i)) for i in range(4)
    ]
    theirs = network(scene)
    solution = solve(features, scene.lenses, ALL_PAIRS, [lambda: theirs], SolveOptions(threads=1))
    assert not solution.verified.any() and solution.adjusted is None and not solution.convincing
    np.testing.assert_allclose(solution.candidate.c2w, theirs.c2w, atol=1e-12)
    empty = [features_of(np.zeros((0, 2)), np.zeros((0, 128), np.uint8)) for _ in range(4)]
    nothing = solve(empty, scene.lenses, ALL_PAIRS, [], SolveOptions(threads=1))
    assert not nothing.candidate.posed.any() and not nothing.verified.any()


def test_given_poses_are_never_moved(scene):
    given = replace(network(scene, 0.05), c2w=shaken(scene.truth.c2w, 0.05, 0.001), origin="given")
    options = SolveOptions(fixed_poses=True, threads=1)
    solution = solve(scene.graph.features, scene.lenses, ALL_PAIRS, [lambda: given], options)
    np.testing.assert_allclose(solution.candidate.c2w, given.c2w, atol=1e-9)
    assert solution.verified.all()
    wrong = network(scene)
    solution = solve(scene.graph.features, scene.lenses, ALL_PAIRS, [lambda: wrong], options)
    np.testing.assert_allclose(solution.candidate.c2w, wrong.c2w, atol=1e-9)
    assert not solution.verified.all()


def test_ba_only_adjusts_what_the_network_gave(scene):
    near = network(scene, 0.1)
    near = replace(near, c2w=shaken(scene.truth.c2w, 0.1, 0.003))
    options = SolveOptions(mode="ba", threads=1)
    solution = solve(scene.graph.features, scene.lenses, ALL_PAIRS, [lambda: near], options)
    assert set(solution.scores) == {"network"} and solution.verified.all()
    assert pose_errors(solution.candidate.c2w, scene.truth.c2w)[0] < 0.05
    far = solve(scene.graph.features, scene.lenses, ALL_PAIRS, [lambda: network(scene)], options)
    assert set(far.scores) == {"network"} and not far.verified.all()


def test_photos_of_one_viewpoint_are_not_verified(scene):
    """The same features four times: rotation is certain, positions are not."""
    features = [scene.graph.features[0]] * 4
    solution = solve(features, scene.lenses, ALL_PAIRS, [lambda: network(scene)], SolveOptions(threads=1))
    assert not solution.verified.any()
    assert np.isfinite(solution.candidate.c2w).all()


@pytest.mark.parametrize("damage", [0.0, 40.0])
def test_adjustment_that_loses_support_is_taken_back(scene, tmp_path, monkeypatch, damage):
    database = tmp_path / "features.db"
    write_database(database, scene.graph.features, scene.lenses, trust_focal=True)
    solver = solving._Solver(scene.graph, scene.lenses, database, tmp_path, SolveOptions(threads=1))
    before = support(pair_inliers(scene.graph, scene.truth), 4).sum()
    honest = solving.adjust

    def spoiled(*arguments, **options):
        adjusted = honest(*arguments, **options)
        assert adjusted is not None
        c2w = shaken(adjusted.candidate.c2w, damage, 0.0)
        return replace(adjusted, candidate=replace(adjusted.candidate, c2w=c2w))

    monkeypatch.setattr(solving, "adjust", spoiled)
    score, candidate, adjusted = solver._judge(scene.truth)
    assert score >= 0.98 * before
    assert support(pair_inliers(scene.graph, candidate), 4).sum() >= 0.98 * before
    assert (adjusted is None) == (damage > 0)
    if damage:
        assert candidate is scene.truth


def test_the_same_seed_gives_the_same_cameras(scene):
    once, twice = (
        solve(scene.graph.features, scene.lenses, ALL_PAIRS, [lambda: network(scene)], SolveOptions(threads=1, seed=3))
        for _ in range(2)
    )
    np.testing.assert_array_equal(once.candidate.c2w, twice.candidate.c2w)


def test_a_second_way_is_tried_though_the_first_convinces(scene, monkeypatch):
    options = SolveOptions(threads=1)
    solution = solve(scene.graph.features, scene.lenses, ALL_PAIRS, [lambda: network(scene)], options)
    assert solution.convincing and set(solution.scores) == {"incremental", "chain"}

    def convinced_of_too_little(*_):
        posed = np.array([True, True, True, False])
        yield replace(scene.truth, origin="few", posed=posed)
        yield replace(scene.truth, origin="all")

    monkeypatch.setattr(solving, "candidates", convinced_of_too_little)
    monkeypatch.setattr(solving._Solver, "_convincing", lambda *_: True)
    monkeypatch.setattr(solving._Solver, "_completed", lambda self, entry, poses: entry)
    solution = solve(scene.graph.features, scene.lenses, ALL_PAIRS, [], options)
    assert solution.candidate.origin == "all" and solution.candidate.posed.all()


def test_of_like_cameras_those_of_the_earlier_way_are_taken(scene):
    tried = [(origin, replace(scene.truth, origin=str(origin)), None) for origin in (90.0, 96.0, 100.0)]
    assert solving._first_of_the_best(tried)[0] == 96
    assert solving._first_of_the_best(tried[:2])[0] == 96
    assert solving._first_of_the_best([(-10.0, *tried[0][1:]), (-10.2, *tried[1][1:])])[0] == -10


@pytest.mark.parametrize("others", [[], [1.0]])
def test_a_focal_length_below_zero_is_never_an_answer(scene, monkeypatch, others):
    def mirrored(*_):
        for factor in (-1.0, *others):
            K = scene.truth.lenses.K @ np.diag([factor, factor, 1.0])
            yield replace(scene.truth, origin=f"focal {factor}", lenses=replace(scene.truth.lenses, K=K))

    monkeypatch.setattr(solving, "candidates", mirrored)
    solution = solve(scene.graph.features, scene.lenses, ALL_PAIRS, [], SolveOptions(mode="ba", threads=1))
    assert set(solution.scores) == {f"focal {factor}" for factor in others}
    assert solution.verified.all() == bool(others)
    assert (solution.candidate.lenses.K[:, 0, 0] > 0).all()


def test_a_lens_that_cannot_be_is_never_an_answer(scene, monkeypatch):
    def bent(*_):
        for k1 in (22.0, -1.5):
            yield replace(scene.truth, origin=str(k1), lenses=replace(scene.truth.lenses, k1=np.array([k1])))

    monkeypatch.setattr(solving, "candidates", bent)
    solution = solve(scene.graph.features, scene.lenses, ALL_PAIRS, [], SolveOptions(mode="ba", threads=1))
    assert solution.scores == {} and not solution.verified.any()


def test_nothing_is_verified_without_sparse_points(scene, monkeypatch):
    monkeypatch.setattr(solving, "adjust", lambda *_: None)
    theirs = replace(scene.truth, origin="network")
    solution = solve(scene.graph.features, scene.lenses, ALL_PAIRS, [lambda: theirs], SolveOptions(threads=1))
    assert solution.support.min() > 100 and not solution.verified.any() and not solution.convincing


def test_islands_without_a_match_between_them_are_not_one_verified_scene():
    """Each half is right in itself; only the network says how they lie to each other, and it is wrong."""
    scene = exact(6)
    c2w = scene.truth.c2w.copy()
    c2w[3:] = Sim3(1.6, Rotation.from_rotvec([0.0, 0.2, 0.1]).as_matrix(), np.array([0.3, 0.1, 0.0])).apply_to_c2w(
        c2w[3:]
    )
    theirs = replace(scene.truth, origin="network", c2w=c2w)
    halves = [(a, b) for a, b in scene.graph.matches if (a < 3) == (b < 3)]
    solution = solve(scene.graph.features, scene.lenses, halves, [lambda: theirs], SolveOptions(threads=1))
    assert solution.candidate.posed.all() and not solution.convincing
    assert solution.verified.tolist() in ([True] * 3 + [False] * 3, [False] * 3 + [True] * 3)


def test_every_mapper_reads_pairs_verified_from_the_matches(scene, monkeypatch):
    seen = {}
    for name in ("incremental_candidates", "global_candidates"):

        def spy(database, *arguments, mapper=getattr(ways, name), called=name, **options):
            handle = pycolmap.Database.open(database)
            geometry = handle.read_two_view_geometry(1, 2)
            handle.close()
            seen.setdefault(called, []).append(geometry.E is not None and bool(np.any(geometry.E)))
            return mapper(database, *arguments, **options)

        monkeypatch.setattr(ways, name, spy)
    solve(scene.graph.features, scene.lenses, ALL_PAIRS, [], SolveOptions(threads=1, thorough=True))
    assert seen["incremental_candidates"][0] and seen["global_candidates"] == [True]


def test_two_photos_are_enough():
    scene = exact(2, arc_deg=12, num_tracks=200)
    solution = solve(scene.graph.features, scene.lenses, [(0, 1)], [lambda: network(scene)], SolveOptions(threads=1))
    assert solution.verified.all()
    angle, _ = pose_errors(solution.candidate.c2w, scene.truth.c2w)
    assert angle < 0.1
