"""Bundle adjustment on exact matches brings perturbed cameras back and leaves alone what must stay."""

from dataclasses import replace

import numpy as np
import pytest

from flarecli.geometry.transforms import invert_rigid, rotation_angle_deg
from flarecli.refine.bundle import MIN_OBSERVATIONS, BundleOptions, adjust, reprojection_px, tracks_from_model
from flarecli.refine.candidate import MatchGraph
from flarecli.refine.database import write_database

from .exact import Exact, exact, pose_errors, shaken

OPTIONS = BundleOptions(refine_focal=False, refine_distortion=False, fixed_poses=False, threads=1)


def run(scene: Exact, candidate, tmp_path, options=OPTIONS, graph: MatchGraph | None = None):
    graph = graph or scene.graph
    database = tmp_path / "features.db"
    write_database(database, graph.features, candidate.lenses, trust_focal=True)
    return adjust(graph, candidate, database, tmp_path, options)


@pytest.fixture(scope="module")
def scene() -> Exact:
    return exact(4)


def test_perturbed_cameras_come_back(scene, tmp_path):
    start = replace(scene.truth, c2w=shaken(scene.truth.c2w, 0.15, 0.005))
    before, _ = pose_errors(start.c2w, scene.truth.c2w)
    adjusted = run(scene, start, tmp_path)
    assert adjusted is not None
    angle, offset = pose_errors(adjusted.candidate.c2w, scene.truth.c2w)
    assert before > 0.1 and angle < 0.05 and offset < 0.01
    assert adjusted.error_px < 0.1 and (adjusted.observations > 50).all()
    np.testing.assert_array_equal(adjusted.candidate.lenses.K, scene.lenses.K)
    # the world is still that of the candidate that went in
    assert rotation_angle_deg(adjusted.candidate.c2w[:, :3, :3], start.c2w[:, :3, :3]).max() < 0.4
    assert np.abs(adjusted.candidate.c2w[:, :3, 3] - start.c2w[:, :3, 3]).max() < 0.05
    assert np.nanmax(reprojection_px(adjusted.model, 4)) < 0.1


def test_an_unknown_focal_length_is_found(tmp_path):
    scene = exact(4, sigma=0.3)
    K = scene.lenses.K.copy()
    K[:, [0, 1], [0, 1]] *= 1.01
    start = replace(scene.truth, lenses=replace(scene.lenses, K=K))
    adjusted = run(scene, start, tmp_path, replace(OPTIONS, refine_focal=True))
    assert adjusted is not None
    np.testing.assert_allclose(adjusted.candidate.lenses.K[0, 0, 0], scene.lenses.K[0, 0, 0], rtol=2e-3)
    held = run(scene, start, tmp_path, OPTIONS)
    assert held is not None and held.candidate.lenses.K[0, 0, 0] == pytest.approx(K[0, 0, 0])


def test_known_intrinsics_stay_even_when_others_may_move(scene, tmp_path):
    K = scene.lenses.K.copy()
    K[:, [0, 1], [0, 1]] *= 1.005
    start = replace(scene.truth, lenses=replace(scene.lenses, K=K, sigma=np.zeros(1)))
    adjusted = run(scene, start, tmp_path, replace(OPTIONS, refine_focal=True, refine_distortion=True))
    assert adjusted is not None
    np.testing.assert_array_equal(adjusted.candidate.lenses.K, K)
    assert adjusted.candidate.lenses.k1[0] == 0


def test_fixed_poses_stay_to_the_last_digit(scene, tmp_path):
    start = replace(scene.truth, c2w=shaken(scene.truth.c2w, 0.05, 0.001))
    adjusted = run(scene, start, tmp_path, replace(OPTIONS, fixed_poses=True))
    assert adjusted is not None
    np.testing.assert_allclose(adjusted.candidate.c2w, start.c2w, atol=1e-9)


def test_a_weak_photo_stays_out_and_keeps_its_place_among_the_others(scene, tmp_path):
    few = MIN_OBSERVATIONS - 2
    matches = {pair: index[:few] if 3 in pair else index for pair, index in scene.graph.matches.items()}
    graph = MatchGraph(
        scene.graph.features, {pair: index for pair, index in matches.items() if pair in {(0, 3)} or 3 not in pair}
    )
    start = replace(scene.truth, c2w=shaken(scene.truth.c2w, 0.1, 0.003))
    adjusted = run(scene, start, tmp_path, graph=graph)
    assert adjusted is not None
    assert adjusted.candidate.posed.all() and adjusted.observations[3] == 0
    assert pose_errors(adjusted.candidate.c2w[:3], scene.truth.c2w[:3])[0] < 0.05
    np.testing.assert_allclose(adjusted.candidate.c2w[3], start.c2w[3], atol=1e-9)


def test_nothing_to_triangulate_is_none(scene, tmp_path):
    wrong = np.array(scene.truth.c2w)
    wrong[1:, :3, :3] = wrong[1:, :3, :3] @ np.diag([-1.0, -1, 1])
    wrong[1:, :3, 3] = np.random.default_rng(0).normal(size=(3, 3))
    assert run(scene, replace(scene.truth, c2w=wrong), tmp_path) is None


def test_tracks_are_in_ideal_pixels_under_distortion(tmp_path):
    scene = exact(4, k1=-0.08)
    adjusted = run(scene, scene.truth, tmp_path)
    assert adjusted is not None
    rgb = {view: np.full((480, 640, 3), 40 * view + 10, np.uint8) for view in range(4)}
    tracks = tracks_from_model(adjusted.model, adjusted.candidate, rgb.__getitem__)
    assert len(tracks) > 200 and tracks.error_px.max() < 0.2
    # every observation is the distortion-free projection of a true track
    w2c, K = invert_rigid(scene.truth.c2w), scene.lenses.K[0]
    camera = np.einsum("oij,oj->oi", w2c[tracks.view_index, :3, :3], tracks.xyz[tracks.point_index])
    camera += w2c[tracks.view_index, :3, 3]
    projected = camera[:, :2] / camera[:, 2:] * K[[0, 1], [0, 1]] + K[:2, 2]
    assert np.linalg.norm(projected - tracks.pixel, axis=1).max() < 0.3
    for view in range(4):
        true = scene.tracks.pixel[scene.tracks.view_index == view]
        mine = tracks.pixel[tracks.view_index == view]
        assert np.linalg.norm(mine[:, None] - true[None], axis=2).min(1).max() < 1e-3
    first = np.unique(tracks.point_index, return_index=True)[1]
    np.testing.assert_array_equal(tracks.rgb[:, 0], 40 * tracks.view_index[first] + 10)
