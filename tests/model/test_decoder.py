"""The decoder stages and the parts they share."""

from __future__ import annotations

import pytest
import torch

from flarecli.model.decoder import CameraExchange, GlobalStage, Injection, LocalStage, PoseStage
from flarecli.model.encoder import Encoded, Encoder
from tests.model.tiny import CONFIG


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def encode(num_views: int = 3) -> Encoded:
    with torch.no_grad():
        return Encoder(CONFIG)(torch.randn(1, num_views, 3, 64, 128), [False] * num_views)


def test_exchange_stays_within_a_view() -> None:
    exchange = CameraExchange(CONFIG)
    cameras, tokens = torch.randn(1, 3, 32), torch.randn(1, 3, 5, 32)
    changed = tokens.clone()
    changed[:, 2] += torch.randn(5, 32)
    before, after = exchange(cameras, tokens), exchange(cameras, changed)
    torch.testing.assert_close(before[0][:, :2], after[0][:, :2])
    torch.testing.assert_close(before[1][:, :2], after[1][:, :2])
    assert not torch.allclose(before[0][:, 2], after[0][:, 2], atol=1e-4)


def test_exchange_without_projection_leaves_image_tokens() -> None:
    tokens = torch.randn(1, 2, 5, 32)
    cameras, same = CameraExchange(CONFIG, updates_tokens=False)(torch.randn(1, 2, 32), tokens)
    assert same is tokens
    assert cameras.shape == (1, 2, 32)


def test_injection_adds_normalised_features() -> None:
    injection, tokens, features = Injection(CONFIG), torch.randn(1, 2, 5, 32), torch.randn(1, 2, 5, 32)
    added = injection(tokens, features) - tokens
    torch.testing.assert_close(injection(tokens, 10 * features) - tokens, added, atol=1e-4, rtol=1e-3)


def test_pose_stage_treats_the_reference_view_apart() -> None:
    stage, encoded = PoseStage(CONFIG).eval(), encode()
    with torch.no_grad():
        cameras = stage(encoded)
        encoded.coarse.copy_(encoded.coarse[:, [1, 0, 2]])
        swapped = stage(encoded)
        encoded.coarse.copy_(encoded.coarse[:, [0, 2, 1]])
        sources_swapped = stage(encoded)
    assert not torch.allclose(cameras[:, [1, 0, 2]], swapped, atol=1e-3)
    torch.testing.assert_close(swapped[:, [0, 2, 1]], sources_swapped, atol=1e-5, rtol=1e-4)


def test_local_stage_returns_every_layer_and_normalises_the_last() -> None:
    stage, encoded = LocalStage(CONFIG), encode()
    outputs, cameras = stage(encoded, torch.randn(1, 3, 32))
    assert [tuple(output.shape) for output in outputs] == [(1, 3, 32, 32)] * CONFIG.dec_depth
    torch.testing.assert_close(outputs[-1].mean(-1), torch.zeros(1, 3, 32), atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras.mean(-1), torch.zeros(1, 3), atol=1e-5, rtol=0)


def test_local_stage_modulates_cameras_not_images() -> None:
    stage, encoded = LocalStage(CONFIG), encode()
    for name, parameter in stage.named_parameters():
        if name.endswith(".embed.weight"):  # image tokens no longer read the camera tokens
            torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        (tokens, cameras), (other_tokens, other_cameras) = (stage(encoded, torch.randn(1, 3, 32)) for _ in range(2))
    torch.testing.assert_close(tokens[-1], other_tokens[-1])
    assert not torch.allclose(cameras, other_cameras, atol=1e-3)


def test_global_stage_reads_the_memory_of_its_own_layer() -> None:
    stage, encoded = GlobalStage(CONFIG), encode()
    local, poses = [torch.randn(1, 3, 32, 32) for _ in range(3)], torch.randn(1, 3, 32)
    with torch.no_grad():
        before = stage(encoded, local, poses)
        local[1] = torch.randn(1, 3, 32, 32)
        after = stage(encoded, local, poses)
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-3)
