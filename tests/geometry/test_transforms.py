"""Rigid transforms, quaternions and similarities against scipy, group axioms, and exact recovery."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from flarecli.geometry.transforms import (
    Sim3,
    align_cameras,
    direction_angle_deg,
    invert_rigid,
    matrix_from_quats_wxyz,
    nearest_rotation,
    quats_wxyz_from_matrix,
    rigid,
    rotation_angle_deg,
    umeyama,
)

settings.register_profile("flare", deadline=None, max_examples=60)
settings.load_profile("flare")

seeds = st.integers(0, 2**32 - 1)


def random_rotations(seed: int, count: int) -> np.ndarray:
    return Rotation.random(count, random_state=seed).as_matrix()


def random_sim(seed: int) -> Sim3:
    rng = np.random.default_rng(seed)
    return Sim3(float(np.exp(rng.uniform(-3, 3))), random_rotations(seed, 1)[0], rng.normal(size=3) * 5)


def random_cameras(seed: int, count: int) -> np.ndarray:
    return rigid(random_rotations(seed, count), np.random.default_rng(seed).normal(size=(count, 3)) * 3)


def assert_same(a: Sim3, b: Sim3) -> None:
    assert a.scale == pytest.approx(b.scale, rel=1e-9)
    np.testing.assert_allclose(a.rotation, b.rotation, atol=1e-9)
    np.testing.assert_allclose(a.translation, b.translation, rtol=1e-8, atol=1e-8)


@given(seeds)
def test_the_inverse_of_a_rigid_matrix_undoes_it(seed):
    matrices = random_cameras(seed, 6).reshape(2, 3, 4, 4)
    np.testing.assert_allclose(invert_rigid(matrices) @ matrices, np.broadcast_to(np.eye(4), (2, 3, 4, 4)), atol=1e-12)
    np.testing.assert_allclose(invert_rigid(matrices), np.linalg.inv(matrices), atol=1e-10)


@given(seeds)
def test_quaternions_agree_with_scipy_in_both_directions(seed):
    rotations = random_rotations(seed, 8).reshape(2, 4, 3, 3)
    quats = quats_wxyz_from_matrix(rotations)
    assert (quats[..., 0] >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(quats, axis=-1), 1, atol=1e-12)
    theirs = Rotation.from_quat(quats.reshape(-1, 4)[:, [1, 2, 3, 0]]).as_matrix()
    np.testing.assert_allclose(theirs.reshape(2, 4, 3, 3), rotations, atol=1e-9)
    length = np.random.default_rng(seed).uniform(0.01, 100)
    np.testing.assert_allclose(matrix_from_quats_wxyz(length * quats), rotations, atol=1e-9)


@given(seeds, st.sampled_from([0.0, 1e-9, 1e-4, np.pi - 1e-9, np.pi]))
def test_quaternions_and_angles_hold_at_no_and_at_half_a_turn(seed, angle):
    axis = np.random.default_rng(seed).normal(size=3)
    rotation = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    np.testing.assert_allclose(matrix_from_quats_wxyz(quats_wxyz_from_matrix(rotation)), rotation, atol=1e-8)
    assert rotation_angle_deg(np.eye(3), rotation) == pytest.approx(np.degrees(angle), abs=1e-6)


def test_half_turns_about_the_axes_are_exact():
    for axis in range(3):
        rotation = -np.eye(3)
        rotation[axis, axis] = 1
        quat = quats_wxyz_from_matrix(rotation)
        np.testing.assert_allclose(np.abs(quat), np.eye(4)[axis + 1], atol=1e-15)


@given(seeds)
def test_the_nearest_rotation_is_proper_and_keeps_rotations(seed):
    rng = np.random.default_rng(seed)
    rotation = random_rotations(seed, 1)[0]
    np.testing.assert_allclose(nearest_rotation(rotation), rotation, atol=1e-12)
    near = nearest_rotation(rotation + 0.02 * rng.normal(size=(3, 3)))
    assert rotation_angle_deg(near, rotation) < 8
    out = nearest_rotation(rng.normal(size=(5, 3, 3)))
    np.testing.assert_allclose(np.linalg.det(out), 1, atol=1e-9)
    np.testing.assert_allclose(out @ out.swapaxes(-1, -2), np.broadcast_to(np.eye(3), (5, 3, 3)), atol=1e-12)


def test_angles_between_directions():
    assert direction_angle_deg(np.array([1.0, 0, 0]), np.array([0, 2.0, 0])) == pytest.approx(90)
    assert direction_angle_deg(np.array([1.0, 0, 0]), np.array([-3.0, 0, 0])) == pytest.approx(180)
    assert direction_angle_deg(np.array([1.0, 0, 0]), np.array([1.0, 1e-9, 0])) == pytest.approx(np.degrees(1e-9))
    assert direction_angle_deg(np.zeros(3), np.array([1.0, 0, 0])) == 90


@given(seeds, seeds, seeds)
def test_similarities_form_a_group_that_acts_on_points(a, b, c):
    f, g, h = random_sim(a), random_sim(b), random_sim(c)
    points = np.random.default_rng(a).normal(size=(5, 3))
    np.testing.assert_allclose(f.compose(g).apply(points), f.apply(g.apply(points)), rtol=1e-9, atol=1e-8)
    assert_same(f.compose(g).compose(h), f.compose(g.compose(h)))
    assert_same(f.compose(Sim3.identity()), f)
    assert_same(Sim3.identity().compose(f), f)
    assert_same(f.inverse().compose(f), Sim3.identity())
    assert_same(f.compose(f.inverse()), Sim3.identity())


@given(seeds)
def test_moving_cameras_and_points_together_changes_no_view(seed):
    sim, c2w = random_sim(seed), random_cameras(seed, 3)
    points = np.random.default_rng(seed + 1).normal(size=(3, 7, 3))
    moved = sim.apply_to_c2w(c2w)
    before = np.einsum("vij,vnj->vni", invert_rigid(c2w)[:, :3, :3], points - c2w[:, None, :3, 3])
    after = np.einsum("vij,vnj->vni", invert_rigid(moved)[:, :3, :3], sim.apply(points) - moved[:, None, :3, 3])
    np.testing.assert_allclose(after, sim.scale * before, rtol=1e-9, atol=1e-8)


@given(seeds, st.integers(3, 12))
def test_umeyama_recovers_the_similarity(seed, count):
    sim = random_sim(seed)
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3))
    assert_same(umeyama(points, sim.apply(points)), sim)
    flat = points * [1, 1, 0]  # a plane must not come back mirrored
    found = umeyama(flat, sim.apply(flat))
    np.testing.assert_allclose(found.apply(flat), sim.apply(flat), rtol=1e-7, atol=1e-7)
    assert np.linalg.det(found.rotation) == pytest.approx(1)


def test_umeyama_listens_to_weights():
    sim = random_sim(3)
    points = np.random.default_rng(3).normal(size=(20, 3))
    target = sim.apply(points)
    target[:5] += 10
    weights = np.r_[np.zeros(5), np.linspace(1, 4, 15)]
    assert_same(umeyama(points, target, weights), sim)
    assert not np.allclose(umeyama(points, target).translation, sim.translation, atol=0.1)


@pytest.mark.parametrize(
    "points", [np.eye(3)[:2], np.ones((4, 3)), np.outer(np.arange(5.0), [1, 2, 3])], ids=["two", "same", "line"]
)
def test_umeyama_refuses_points_that_leave_it_open(points):
    with pytest.raises(ValueError):
        umeyama(points, points)


@given(seeds, st.integers(2, 8))
def test_aligned_cameras_recover_the_similarity(seed, count):
    sim, cameras = random_sim(seed), random_cameras(seed, count)
    assert_same(align_cameras(cameras, sim.apply_to_c2w(cameras)), sim)


@given(seeds)
def test_cameras_on_one_line_align_exactly(seed):
    sim, cameras = random_sim(seed), random_cameras(seed, 5)
    cameras[:, :3, 3] = np.outer(np.arange(5.0), [1, -2, 0.5]) + 3
    assert_same(align_cameras(cameras, sim.apply_to_c2w(cameras)), sim)


def test_a_single_camera_aligns_without_scale():
    source, target = random_cameras(1, 1), random_cameras(2, 1)
    sim = align_cameras(source, target)
    assert sim.scale == 1
    np.testing.assert_allclose(sim.apply_to_c2w(source), target, atol=1e-12)


def test_coincident_centres_have_no_scale_on_either_side():
    spread, same = random_cameras(1, 3), random_cameras(1, 3)
    same[:, :3, 3] = [1, 2, 3]
    for source, target in ((same, spread), (spread, same), (same, same)):
        with pytest.raises(ValueError, match="centre"):
            align_cameras(source, target)
    with pytest.raises(ValueError, match="same cameras"):
        align_cameras(spread, spread[:2])
