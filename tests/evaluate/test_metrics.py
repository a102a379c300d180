"""Metrics: closed forms, invariances, and agreement with the independent program beside the checkout."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flarecli.evaluate.metrics import (
    auc,
    depth_metrics,
    focal_error,
    missing_pose,
    pair_errors,
    point_distances,
    pose_metrics,
    trajectory_error,
)
from flarecli.geometry.transforms import Sim3, invert_rigid, rigid

BENCH = Path(__file__).parents[2].parent / "shared" / "bench"


def rotation(axis, degrees):
    axis = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def cameras(num, seed=0):
    rng = np.random.default_rng(seed)
    rotations = np.stack([rotation(rng.normal(size=3), rng.uniform(0, 60)) for _ in range(num)])
    return rigid(rotations, rng.normal(size=(num, 3)))


def disturbed(w2c, seed, missing=0):
    rng = np.random.default_rng(seed)
    out = w2c.copy()
    for matrix in out:
        matrix[:3, :3] = rotation(rng.normal(size=3), rng.gamma(1, 6)) @ matrix[:3, :3]
        matrix[:3, 3] += rng.normal(size=3) * rng.gamma(1, 0.1)
    for index in rng.permutation(len(out))[:missing]:
        out[index] = missing_pose()
    return out


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 7), st.integers(0, 10_000), st.floats(0.01, 100))
def test_similarity_of_the_world_changes_nothing(num, seed, scale):
    truth = cameras(num, seed)
    rng = np.random.default_rng(seed + 1)
    sim = Sim3(scale, rotation(rng.normal(size=3), 140), rng.normal(size=3) * 10)
    moved = invert_rigid(sim.apply_to_c2w(invert_rigid(truth)))
    numbers = pose_metrics(moved, truth)
    assert numbers["AUC@3"] == numbers["RRA@5"] == numbers["RTA@5"] == 100
    assert numbers["rotation_median_deg"] < 1e-6
    assert numbers["translation_median_deg"] < 1e-5
    assert numbers["ate_relative"] < 1e-9


def test_known_rotation_error_falls_into_its_bin():
    truth = rigid(np.stack([np.eye(3)] * 2), [[0, 0, 0], [1.0, 0, 0]])
    found = truth.copy()
    found[1, :3, :3] = rotation([0, 0, 1], 7.5)
    rotation_deg, direction_deg = pair_errors(found, truth)
    assert rotation_deg[0] == pytest.approx(7.5)
    assert direction_deg[0] == pytest.approx(0)
    numbers = pose_metrics(found, truth)
    # Bin 7 of the histogram: the curve is 0 below and 1 in the T - 7 bins from there.
    assert (numbers["AUC@3"], numbers["AUC@5"]) == (0, 0)
    assert numbers["AUC@10"] == pytest.approx(30)
    assert numbers["AUC@30"] == pytest.approx(100 * 23 / 30)
    assert (numbers["RRA@5"], numbers["RRA@15"]) == (0, 100)


def test_direction_is_signed():
    truth = rigid(np.stack([np.eye(3)] * 2), [[0, 0, 0], [1.0, 0, 0]])
    found = truth.copy()
    found[1, 0, 3] = -2
    assert pair_errors(found, truth)[1][0] == pytest.approx(180)


def test_a_missing_camera_fails_all_its_pairs():
    truth = cameras(5)
    found = truth.copy()
    found[2] = missing_pose()
    rotation_deg, direction_deg = pair_errors(found, truth)
    assert (rotation_deg == 180).sum() == (direction_deg == 180).sum() == 4
    numbers = pose_metrics(found, truth)
    assert numbers["registered"] == 4
    assert numbers["AUC@30"] == pytest.approx(60)  # 6 of 10 pairs


def test_no_motion_fails_where_the_reference_moves():
    truth = cameras(3)
    found = truth.copy()
    found[:, :3, 3] = 0
    assert (pair_errors(found, truth)[1] == 180).all()


def test_photos_from_one_place_are_judged_by_rotation_alone():
    truth = cameras(4)
    truth[1, :3, 3] = truth[1, :3, :3] @ truth[0, :3, :3].T @ truth[0, :3, 3]
    found = truth.copy()
    found[1, :3, 3] += [0.3, 0, 0]
    assert pair_errors(found, truth)[1][0] == pytest.approx(0, abs=1e-6)


def test_trajectory_error_of_centres_on_one_line_is_defined():
    centers = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [4, 0, 0]])
    truth = rigid(np.stack([np.eye(3)] * 4), -centers)
    assert trajectory_error(truth, truth)["ate"] == pytest.approx(0, abs=1e-12)
    assert np.isnan(trajectory_error(truth[:2], truth[:2])["ate"])


def test_trajectory_error_of_a_known_displacement():
    centers = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    truth = rigid(np.stack([np.eye(3)] * 4), -centers)
    lift = np.array([[0, 0, 0.1], [0, 0, 0.1], [0, 0, -0.1], [0, 0, -0.1]])
    # Moving the centres by +z, +z, -z, -z can't be undone by a similarity; its rotation is symmetric, so none helps.
    found = rigid(np.stack([np.eye(3)] * 4), -(centers + lift))
    expected = 0.1 / np.sqrt(1 + 0.1**2)  # part of it is taken by the scale 1 / (1 + 0.1^2)
    assert trajectory_error(found, truth)["ate"] == pytest.approx(expected, rel=1e-6)


def test_focal_error_skips_missing_photos():
    truth = np.stack([np.diag([100.0, 100, 1])] * 3)
    found = truth.copy()
    found[0] = np.nan
    found[1, 0, 0] = 121  # sqrt(121 * 100) = 110
    assert focal_error(found, truth) == pytest.approx(5)  # median of 10 and 0
    assert np.isnan(focal_error(np.full((3, 3, 3), np.nan), truth))


def test_depth_is_compared_up_to_scale_unless_one_is_given():
    reference = np.array([[1.0, 2, 4], [0, 8, 3]])
    found = reference * 0.25
    found[1, 0] = 7  # where the reference has none
    assert depth_metrics(found, reference)["abs_rel"] == pytest.approx(0)
    given_scale = depth_metrics(found, reference, scale=2.0)
    assert given_scale["abs_rel"] == pytest.approx(0.5)
    assert given_scale["pixels"] == 5
    assert depth_metrics(np.zeros((2, 2)), np.ones((2, 2)))["pixels"] == 0


def test_point_distances_of_a_shifted_grid():
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3)
    numbers = point_distances((grid + np.array([0.1, 0, 0])) / 2, grid, Sim3(2.0, np.eye(3), np.zeros(3)))
    assert numbers["accuracy"] == pytest.approx(0.1)
    assert numbers["completion_median"] == pytest.approx(0.1)


def test_no_pairs_have_no_score():
    assert np.isnan(auc(np.zeros(0), 30))
    assert np.isnan(pose_metrics(cameras(1), cameras(1))["RRA@5"])


@pytest.fixture(scope="module")
def independent():
    path = BENCH / "eval" / "metrics.py"
    if not path.exists():
        pytest.skip("the reference material is not beside the checkout")
    spec = importlib.util.spec_from_file_location("independent_metrics", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = {
    "n": "photos",
    "pairs": "pairs",
    "registered": "registered",
    "rot_med": "rotation_median_deg",
    "trans_med": "translation_median_deg",
    "ate": "ate",
    "ate_rel": "ate_relative",
} | {f"{kind}@{t}": f"{kind}@{t}" for kind in ("RRA", "RTA") for t in (5, 15, 30)}


def compare_poses(independent, found, truth):
    def as_pair(m):
        return None if np.isnan(m).any() else (m[:3, :3], m[:3, 3])

    theirs_found, theirs_truth = [as_pair(m) for m in found], [as_pair(m) for m in truth]
    theirs = independent.pose_metrics(theirs_found, theirs_truth)
    ours = pose_metrics(found, truth)
    for their_name, our_name in NAMES.items():
        assert ours[our_name] == pytest.approx(theirs[their_name], abs=1e-9, nan_ok=True), our_name
    r, t = independent.pair_errors(theirs_found, theirs_truth)
    for threshold in (3, 5, 10, 30):
        assert ours[f"AUC@{threshold}"] == pytest.approx(independent.auc(r, t, threshold), abs=1e-9)
    np.testing.assert_allclose(pair_errors(found, truth), (r, t), atol=1e-9)


@pytest.mark.shared
@pytest.mark.parametrize("num", [2, 3, 6, 11])
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_agrees_with_the_independent_program_on_random_cameras(independent, num, missing):
    for seed in range(5):
        truth = cameras(num, seed)
        compare_poses(independent, disturbed(truth, seed, missing), truth)


@pytest.mark.shared
@pytest.mark.parametrize("scene", ["apple", "fountain-P11", "kitti-a", "maryrose"])
def test_agrees_with_the_independent_program_on_real_cameras(independent, scene):
    images = json.loads((BENCH / "dev" / scene / "cameras.json").read_text())["images"]
    truth = np.tile(np.eye(4), (len(images), 1, 1))
    truth[:, :3, :3], truth[:, :3, 3] = [i["R"] for i in images], [i["t"] for i in images]
    compare_poses(independent, disturbed(truth, 1, missing=2), truth)
    on_a_line = truth.copy()
    on_a_line[:, :3, 3] = np.einsum("vij,vj->vi", -truth[:, :3, :3], np.arange(len(truth))[:, None] * [0.5, 0.2, 0])
    compare_poses(independent, on_a_line, truth)
    K = np.array([i["K"] for i in images])
    wrong = K * np.linspace(0.8, 1.2, len(K))[:, None, None]
    assert focal_error(wrong, K) == pytest.approx(independent.focal_error(list(wrong), list(K)), abs=1e-9)


@pytest.mark.shared
def test_agrees_with_the_independent_program_on_depth_and_points(independent):
    rng = np.random.default_rng(0)
    reference = rng.uniform(0, 5, (40, 50))
    reference[rng.random(reference.shape) < 0.2] = 0
    found = reference * rng.normal(2, 0.3, reference.shape)
    theirs, ours = independent.depth_metrics(found, reference), depth_metrics(found, reference)
    for their_name, our_name in {"abs_rel": "abs_rel", "rmse": "rmse", "d125": "within_25", "valid": "pixels"}.items():
        assert ours[our_name] == pytest.approx(theirs[their_name], abs=1e-9)
    a, b = rng.normal(size=(300, 3)), rng.normal(size=(200, 3))
    sim = Sim3(1.7, rotation([1, 2, 3], 30), np.array([0.1, 0.2, 0.3]))
    theirs = independent.chamfer(a, b, sim=(sim.scale, sim.rotation, sim.translation))
    ours = point_distances(a, b, sim)
    pairs = {"acc": "accuracy", "acc_med": "accuracy_median", "comp": "completion", "comp_med": "completion_median"}
    for their_name, our_name in pairs.items():
        assert ours[our_name] == pytest.approx(theirs[their_name], abs=1e-9)
