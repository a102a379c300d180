"""The basis of the harmonics, and turning colours with their scene."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flarecli.scene.harmonics import rotate_sh, sh_basis


def directions(count: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_basis_is_that_of_gsplat() -> None:
    torch = pytest.importorskip("torch")
    from gsplat.cuda._torch_impl import _spherical_harmonics

    looks, sh = directions(50), np.random.default_rng(1).normal(size=(50, 25, 3))
    theirs = _spherical_harmonics(4, torch.tensor(looks), torch.tensor(sh))
    ours = (sh_basis(looks, 4)[:, :, None] * sh).sum(1)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_turned_colours_look_the_same_along_turned_directions(degree: int) -> None:
    rotation = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    looks = directions(40)
    sh = np.random.default_rng(2).normal(size=(40, (degree + 1) ** 2, 3)).astype(np.float32)
    before = (sh_basis(looks, degree)[:, :, None] * sh).sum(1)
    after = (sh_basis(looks @ rotation.T, degree)[:, :, None] * rotate_sh(sh, rotation)).sum(1)
    np.testing.assert_allclose(after, before, atol=1e-5)
    if degree:
        assert np.abs(rotate_sh(sh, rotation) - sh).max() > 0.1


def test_turning_twice_is_turning_once_by_both() -> None:
    first, second = Rotation.from_euler("xyz", [[0.2, 0.4, -0.9], [1.0, -0.3, 0.1]])
    sh = np.random.default_rng(3).normal(size=(5, 16, 3)).astype(np.float32)
    twice = rotate_sh(rotate_sh(sh, first.as_matrix()), second.as_matrix())
    np.testing.assert_allclose(twice, rotate_sh(sh, (second * first).as_matrix()), atol=1e-5)
