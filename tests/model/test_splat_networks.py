"""NoPoSplat and SPFSplat at toy size: who reads whom, what the answer depends on, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from flarecli.model.config_splat import SplatConfig
from flarecli.model.noposplat import NoPoSplat
from flarecli.model.spfsplat import SpfSplat
from flarecli.model.splat_trunk import each_reads_all_others, targets_stay_unseen, token_positions
from tests.model.tiny import SPLAT_CONFIG as TINY

POOLED = replace(TINY, pose="pooled")
BLIND = replace(TINY, pose="pooled", intrinsics="none")
TOKEN = replace(TINY, pose="token", intrinsics="decoder")


def made(network_class: type[nn.Module], config: SplatConfig) -> nn.Module:
    torch.manual_seed(1)
    return network_class(config).eval()


def views(count: int, height: int = 48, width: int = 64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    K = torch.tensor([[0.9, 0.0, 0.5], [0.0, 1.2, 0.5], [0.0, 0.0, 1.0]]).repeat(1, count, 1, 1)
    return torch.rand(1, count, 3, height, width), K


def far(first: Tensor, second: Tensor) -> bool:
    return float((first - second).abs().max()) > 1e-5


@pytest.mark.parametrize("count", [2, 3])
def test_one_gaussian_per_pixel(count: int) -> None:
    with torch.no_grad():
        output = made(NoPoSplat, TINY)(*views(count))
    assert output.points.shape == (1, count, 48, 64, 3)
    assert output.gaussians.shape == (1, count, 83, 48, 64)


def test_source_views_are_exchangeable_and_the_first_is_not() -> None:
    network, (rgb, K) = made(NoPoSplat, TINY), views(3)
    with torch.no_grad():
        output, swapped, turned = network(rgb, K), network(rgb[:, [0, 2, 1]], K), network(rgb[:, [1, 0, 2]], K)
    torch.testing.assert_close(output.points, swapped.points[:, [0, 2, 1]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.gaussians, swapped.gaussians[:, [0, 2, 1]], atol=1e-5, rtol=1e-4)
    assert far(output.points, turned.points[:, [1, 0, 2]])


@pytest.mark.parametrize(("network_class", "config"), [(NoPoSplat, TINY), (SpfSplat, POOLED), (SpfSplat, TOKEN)])
def test_intrinsics_are_read_and_needed(network_class: type[nn.Module], config: SplatConfig) -> None:
    network, (rgb, K) = made(network_class, config), views(2)
    with torch.no_grad():
        first, second = network(rgb, K), network(rgb, K * 1.5)
    points = [getattr(output, "splats", output).points for output in (first, second)]
    assert far(*points)
    with pytest.raises(ValueError, match="needs the intrinsics"):
        network(rgb, None)


def test_a_network_without_intrinsics_estimates_a_focal_length() -> None:
    network, (rgb, K) = made(SpfSplat, BLIND), views(2)
    with torch.no_grad():
        output, told = network(rgb, None), network(rgb, K)
    assert output.focal_px is not None and bool((output.focal_px > 0).all())
    assert torch.equal(output.splats.points, told.splats.points)


@pytest.mark.parametrize("config", [POOLED, TOKEN])
def test_targets_get_poses_and_leave_the_gaussians_alone(config: SplatConfig) -> None:
    network, (rgb, K) = made(SpfSplat, config), views(4)
    with torch.no_grad():
        alone, more = network(rgb[:, :2], K[:, :2]), network(rgb, K, num_targets=2)
    torch.testing.assert_close(more.splats.points, alone.splats.points, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(more.splats.gaussians, alone.splats.gaussians, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(more.c2w, alone.c2w, atol=1e-5, rtol=1e-4)
    assert alone.c2w_with_targets is None
    assert more.c2w_with_targets is not None and more.c2w_with_targets.shape == (1, 4, 4, 4)
    torch.testing.assert_close(more.c2w_with_targets[0, 0], torch.eye(4), atol=1e-6, rtol=0)


def test_the_first_version_puts_the_last_context_one_unit_away() -> None:
    network, (rgb, K) = made(SpfSplat, POOLED), views(3)
    with torch.no_grad():
        c2w = network(rgb, K).c2w[0]
    assert float(c2w[2, :3, 3].norm()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(c2w[0], torch.eye(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("network_class", "config", "message"), [(NoPoSplat, TINY, "two views"), (SpfSplat, POOLED, "two context views")]
)
def test_views_that_they_cannot_take_are_refused(
    network_class: type[nn.Module], config: SplatConfig, message: str
) -> None:
    network = made(network_class, config)
    with pytest.raises(ValueError, match=message):
        network(*views(1))
    with pytest.raises(ValueError, match="multiples of 16"):
        network(*views(2, 40, 64))


def test_extra_tokens_lie_below_the_first_column() -> None:
    assert token_positions((2, 3), 2, torch.device("cpu"))[-3:].tolist() == [[1, 2], [2, 0], [3, 0]]


def test_who_reads_whom() -> None:
    assert each_reads_all_others(3) == [[1, 2], [0, 2], [0, 1]]
    assert targets_stay_unseen(2, 4) == [[1], [0], [0, 1, 3], [0, 1, 2]]


def test_hooks_must_run_from_the_encoder_to_the_last_layer() -> None:
    with pytest.raises(ValueError, match="last decoder layer last"):
        SplatConfig(dpt_hooks=(0, 6, 9, 11))
