import math

import pytest
import torch

from flarecli.train.primitives import Draw, random_rotations, rotation_from_vector


def test_rotation_helpers_give_proper_rotations():
    r = random_rotations(Draw.seeded(0), 50)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(50))
    vector = torch.tensor([0.0, 0.0, math.pi / 2])
    torch.testing.assert_close(rotation_from_vector(vector) @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))


def test_random_rotations_are_uniform():
    count = 20_000
    r = random_rotations(Draw.seeded(3), 100, 200).flatten(0, 1)
    torch.testing.assert_close(r @ r.transpose(-1, -2), torch.eye(3).expand_as(r), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(count))
    assert r.mean(0).abs().max() < 4 * math.sqrt(1 / 3 / count)  # entries have mean 0 and variance 1/3
    # The angle of a uniform rotation is below t with probability (t - sin t) / pi.
    angle = torch.acos(((r.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).double().clamp(-1, 1)).sort().values
    expected = (angle - angle.sin()) / math.pi
    assert (expected - torch.linspace(0, 1, count)).abs().max() < 1.95 / math.sqrt(count)  # Kolmogorov-Smirnov, 0.1 %


def test_random_rotations_depend_on_the_seed_alone():
    first, again, other = (random_rotations(Draw.seeded(seed), 5) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_random_rotations_need_no_solver(monkeypatch):
    """On CUDA solvers for small matrices are called matrix by matrix."""
    for name in ("qr", "det", "svd"):
        monkeypatch.setattr(torch.linalg, name, lambda *_: pytest.fail("a solver was called"))
    assert random_rotations(Draw.seeded(0), 4, 5).shape == (4, 5, 3, 3)
