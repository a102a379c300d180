"""Cameras from matches that are only as accurate as dense descriptors."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from flarecli.geometry.projection import project
from flarecli.images.loading import load_photos
from flarecli.refine.dense import dense_graph, scaled, solve_from_matches
from flarecli.scene.matches import DenseMatches
from flarecli.scene.priors import Priors
from tests.synthetic import SyntheticScene, make_scene

from .exact import pose_errors
from .test_run import predicted, priors_of

CELL = 1 / 80


@pytest.fixture(scope="module")
def scene() -> SyntheticScene:
    return make_scene(4, (240, 320), num_tracks=400, depth_scale=0.25)


@pytest.fixture
def photos(scene, tmp_path):
    scene.write_images(tmp_path / "photos")
    return load_photos([tmp_path / "photos"]).photos


def dense(scene: SyntheticScene, noise_cells: float = 0.2, wrong: float = 0.2, count: int = 4) -> list[DenseMatches]:
    """Matches of all ordered pairs from true tracks, off by some of a cell, a share of them anywhere."""
    tracks, rng, out = scene.reconstruction.tracks, np.random.default_rng(0), []
    for a, b in permutations(range(count), 2):
        in_a, in_b = ({p: i for i, p in enumerate(tracks.point_index) if tracks.view_index[i] == v} for v in (a, b))
        both = [point for point in in_a if point in in_b]
        there = tracks.pixel[[in_b[point] for point in both]]
        there = there + noise_cells * CELL * 320 * rng.normal(size=there.shape)
        bad = rng.random(len(both)) < wrong
        there[bad] = rng.random((int(bad.sum()), 2)) * [320, 240]
        out.append(DenseMatches(a, b, np.array(both), tracks.pixel[[in_a[p] for p in both]], there, CELL))
    return out


def solve(scene: SyntheticScene, photos, priors: Priors, matches: list[DenseMatches]):
    return solve_from_matches(predicted(scene, 40.0), matches, photos, priors, threads=1, seed=0)


def test_coarse_matches_turn_wrong_cameras_into_useful_ones(scene, photos):
    truth = scene.reconstruction
    before, _ = pose_errors(predicted(scene, 40.0).cameras.c2w, truth.cameras.c2w)
    found = solve(scene, photos, priors_of(truth.cameras), dense(scene))
    angle, offset = pose_errors(found.cameras.c2w, truth.cameras.c2w)
    assert before > 20
    assert angle < 2 and offset < 0.1
    assert np.array_equal(found.cameras.K, truth.cameras.K)  # known ones stay to the last bit
    assert {verdict.status for verdict in found.verdicts} == {"network-only"}
    assert all(verdict.inliers > 20 for verdict in found.verdicts)


def test_points_are_in_photo_pixels_with_true_errors(scene, photos):
    found = solve(scene, photos, priors_of(scene.reconstruction.cameras), dense(scene))
    tracks, cameras = found.tracks, found.cameras
    error = np.zeros(len(tracks.point_index))
    for view in range(len(cameras)):
        mine = tracks.view_index == view
        pixel, _ = project(tracks.xyz[tracks.point_index[mine]], cameras.w2c[view], cameras.K[view])
        error[mine] = np.linalg.norm(pixel - tracks.pixel[mine], axis=1)
    mean = np.bincount(tracks.point_index, error) / np.bincount(tracks.point_index)
    assert len(tracks) > 100
    assert np.abs(mean - tracks.error_px).max() < 1e-6
    assert np.median(mean) < CELL * 320
    assert np.bincount(tracks.point_index).max() >= 3


def test_depth_follows_the_points(scene, photos):
    truth = scene.reconstruction
    found = solve(scene, photos, priors_of(truth.cameras), dense(scene))
    scale = np.linalg.norm(found.cameras.centers[1] - found.cameras.centers[0])
    scale /= np.linalg.norm(truth.cameras.centers[1] - truth.cameras.centers[0])
    for got, wanted in zip(found.depth_maps, truth.depth_maps, strict=True):
        assert got is not None and wanted is not None
        both = (got.depth > 0) & (wanted.depth > 0)
        assert abs(np.median(got.depth[both] / wanted.depth[both]) / scale - 1) < 0.1


def test_an_unknown_focal_length_is_drawn_to_the_truth(scene, photos):
    truth = scene.reconstruction.cameras
    priors = priors_of(truth, sigma=0.35)
    K = np.array(priors.K)
    K[:, 0, 0] *= 1.35
    K[:, 1, 1] *= 1.35
    found = solve(scene, photos, replace(priors, K=K), dense(scene, noise_cells=0.05, wrong=0.0))
    assert np.abs(found.cameras.K[:, 0, 0] / truth.K[:, 0, 0] - 1).max() < 0.15


def test_two_photos_are_solved_too(scene, tmp_path):
    scene.write_images(tmp_path / "photos")
    photos = load_photos([tmp_path / "photos"]).photos[:2]
    truth = scene.reconstruction.cameras.subset([0, 1])
    whole = predicted(scene, 40.0)
    pair = replace(
        whole,
        image_names=whole.image_names[:2],
        cameras=whole.cameras.subset([0, 1]),
        depth_maps=whole.depth_maps[:2],
        verdicts=whole.verdicts[:2],
        points=replace(
            whole.points, **{n: getattr(whole.points, n)[:0] for n in type(whole.points).__dataclass_fields__}
        ),
    )
    found = solve_from_matches(pair, dense(scene, count=2), photos, priors_of(truth), threads=1, seed=0)
    relative = [np.linalg.inv(c2w[0]) @ c2w[1] for c2w in (found.cameras.c2w, truth.c2w)]
    turn = relative[0][:3, :3].T @ relative[1][:3, :3]
    cosine = np.dot(*(each[:3, 3] / np.linalg.norm(each[:3, 3]) for each in relative))
    assert np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) < 4
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) < 12


def test_missing_matches_change_nothing(scene, photos):
    initial, truth = predicted(scene), scene.reconstruction.cameras
    assert solve_from_matches(initial, [], photos, priors_of(truth), threads=1, seed=0) is initial


def test_known_poses_stay_and_matches_bring_the_depth_to_their_unit(scene, photos):
    truth = scene.reconstruction
    known = priors_of(truth.cameras, c2w=np.array(truth.cameras.c2w))
    initial = replace(predicted(scene), cameras=truth.cameras)
    maps = [replace(each, depth=2.5 * each.depth) for each in truth.depth_maps if each is not None]
    found = solve_from_matches(replace(initial, depth_maps=tuple(maps)), dense(scene), photos, known, threads=1, seed=0)
    assert np.array_equal(found.cameras.c2w, truth.cameras.c2w)
    for got, wanted in zip(found.depth_maps, truth.depth_maps, strict=True):
        assert got is not None and wanted is not None
        both = (got.depth > 0) & (wanted.depth > 0)
        assert abs(np.median(got.depth[both] / wanted.depth[both]) - 1) < 0.05


def test_a_cell_is_one_keypoint_in_all_its_pairs():
    def one(a: int, b: int, cells: list[int]) -> DenseMatches:
        xy = np.stack([np.array(cells, float), np.zeros(len(cells))], 1)
        return DenseMatches(a, b, np.array(cells), xy, xy + 0.5, CELL)

    graph = dense_graph([one(0, 1, [3, 5]), one(0, 2, [5, 8]), one(2, 0, [1])], 3, np.array([2.0, 1.0, 1.0]), 0.01)
    assert [len(each.xy) for each in graph.features] == [4, 2, 3]
    assert graph.features[0].xy.tolist() == [[1.5, 0], [2.5, 0], [4, 0], [0.75, 0.25]]
    assert graph.matches[0, 1].tolist() == [[0, 0], [1, 1]]
    assert graph.matches[0, 2].tolist() == [[1, 0], [2, 1], [3, 2]]


def test_scaling_lenses_keeps_rays(scene):
    from .exact import lenses_of

    lenses = lenses_of(scene.reconstruction.cameras)
    small = scaled(lenses, np.array([4.0]))
    pixels = np.array([[10.0, 20.0], [300.0, 200.0]])
    assert np.allclose(small.rays(0, pixels / 4), lenses.rays(0, pixels))
    assert small.size_hw.tolist() == [[60, 80]]
