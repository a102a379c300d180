"""Focal lengths from matches alone."""

from dataclasses import replace

import numpy as np
import pytest

from flarecli.refine.calibrate import calibrate
from flarecli.refine.solve import solve
from flarecli.refine.ways import SolveOptions

from .exact import exact, pose_errors


@pytest.fixture(scope="module")
def scene():
    return exact(4, sigma=0.35, noise_px=0.2)


@pytest.fixture
def guessed(scene):
    """Lenses with a fifth too short a focal length."""
    K = scene.lenses.K.copy()
    K[:, [0, 1], [0, 1]] *= 0.8
    return replace(scene.lenses, K=K)


def test_an_unknown_focal_length_is_found_from_the_matches(scene, guessed):
    true = scene.lenses.K[0, 0, 0]
    assert calibrate(scene.graph, guessed, 0).K[0, 0, 0] == pytest.approx(true, rel=0.08)
    pairs = list(scene.graph.matches)
    solution = solve(scene.graph.features, guessed, pairs, [], SolveOptions(threads=1))
    assert solution.candidate.lenses.K[0, 0, 0] == pytest.approx(true, rel=0.02)
    assert pose_errors(solution.candidate.c2w, scene.truth.c2w)[0] < 0.5


def test_threads_do_not_change_the_answer(scene, guessed):
    one, three = (calibrate(scene.graph, guessed, 0, threads) for threads in (1, 3))
    np.testing.assert_array_equal(one.K, three.K)
    np.testing.assert_array_equal(one.sigma, three.sigma)


def test_a_known_focal_length_stays(scene, guessed):
    known = replace(guessed, sigma=np.zeros(1))
    assert calibrate(scene.graph, known, 0) is known
