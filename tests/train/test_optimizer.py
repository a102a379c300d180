import pytest
import torch

from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.train.optimizer import Muon, build_optimizers, learning_rate_factor, orthogonalise


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 40), (2, 40, 16)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_directions(shape):
    matrices = torch.randn(shape)
    result = orthogonalise(matrices)
    values, before = torch.linalg.svdvals(result), torch.linalg.svdvals(matrices)
    assert values.max() < 1.4
    assert values.median() > 0.6
    # Only directions that were almost absent may stay weak after five iterations.
    assert values[before > 0.05 * before.amax(-1, keepdim=True)].min() > 0.4
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    cosine = (result * (u @ v)).flatten(1).sum(1) / (result.flatten(1).norm(dim=1) * (u @ v).flatten(1).norm(dim=1))
    assert cosine.min() > 0.93


def test_packed_projections_are_three_matrices():
    """One part with a tiny gradient moves as far as the others."""
    weight = torch.nn.Parameter(torch.zeros(24, 8))
    weight.grad = torch.randn(24, 8)
    weight.grad[:8] *= 1e-4
    Muon([weight], lr=0.1).step()
    parts = weight.detach().view(3, 8, 8).flatten(1).norm(dim=1)
    assert parts.max() / parts.min() < 1.5


def test_muon_solves_a_linear_problem():
    target = torch.randn(6, 10)
    weight = torch.nn.Parameter(torch.zeros(6, 10))
    optimizer = Muon([weight], lr=0.05, weight_decay=0.0)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        weight.grad = weight.detach() - target
        optimizer.step()
    assert (weight - target).norm() / target.norm() < 0.05


def test_every_parameter_has_exactly_one_optimizer():
    network = FlareSmall(SIZES["tiny"])
    optimizers = build_optimizers(network, 1e-3, 1e-2, 0.03)
    seen = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(seen) == sorted(id(p) for p in network.parameters())
    for group in optimizers[1].param_groups:
        assert all(p.ndim == 2 for p in group["params"])
    decayed = {id(p) for g in optimizers[0].param_groups if g["weight_decay"] > 0 for p in g["params"]}
    assert all(id(p) not in decayed for p in network.parameters() if p.ndim < 2)


def test_schedule_warms_up_stays_and_falls():
    assert learning_rate_factor(0, 0.0, 100, 0.2) == pytest.approx(0.01)
    assert learning_rate_factor(500, 0.5, 100, 0.2) == 1.0
    assert learning_rate_factor(500, 0.8, 100, 0.2) == pytest.approx(1.0)
    assert learning_rate_factor(500, 0.9, 100, 0.2) == pytest.approx(0.51)
    assert learning_rate_factor(500, 1.0, 100, 0.2) == pytest.approx(0.02)
    assert learning_rate_factor(500, 1.2, 100, 0.2) == pytest.approx(0.02)
    assert learning_rate_factor(500, 1.0, 100, 0.0) == 1.0
