"""The dense head: resolution, orientation, chunks and activations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from flarecli.model.dpt import DptHead, Fusion, activate, dense_pointmaps
from tests.model.tiny import CONFIG


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def hooked_tokens(batch: int, views: int, length: int) -> list[torch.Tensor]:
    return [torch.randn(batch, views, length, 32) for _ in range(4)]


@pytest.mark.parametrize("grid_hw", [(4, 8), (3, 5)])
def test_every_token_becomes_a_square_of_pixels(grid_hw: tuple[int, int]) -> None:
    tokens = [part[0] for part in hooked_tokens(1, 2, grid_hw[0] * grid_hw[1])]
    assert DptHead(CONFIG)(tokens, grid_hw).shape == (2, 4, 16 * grid_hw[0], 16 * grid_hw[1])


def test_convolution_before_upsampling_is_the_same_as_after() -> None:
    fusion, x = Fusion(6, has_skip=False), torch.randn(1, 6, 5, 7)
    upsampled = functional.interpolate(fusion.unit(x), scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(fusion(x), fusion.out(upsampled), atol=1e-6, rtol=1e-5)


def test_activation_keeps_directions_and_grows_exponentially() -> None:
    raw = torch.tensor([3.0, 0.0, 4.0, -2.0]).view(1, 4, 1, 1)
    points, confidence = activate(raw)
    torch.testing.assert_close(points[0, 0, 0], math.expm1(5.0) * torch.tensor([0.6, 0.0, 0.8]))
    assert confidence.item() == pytest.approx(1 + math.exp(-2.0))
    assert torch.equal(activate(torch.zeros(1, 4, 1, 1))[0], torch.zeros(1, 1, 1, 3))


def test_chunks_change_nothing() -> None:
    head = DptHead(CONFIG).eval()
    tokens, portrait = hooked_tokens(2, 5, 32), [False, True, False, True, True]
    with torch.no_grad():
        head.config = replace(CONFIG, views_per_chunk=1)
        one = dense_pointmaps(head, tokens, (4, 8), portrait)
        head.config = replace(CONFIG, views_per_chunk=100)
        all_views = dense_pointmaps(head, tokens, (4, 8), portrait)
    for first, second in zip(one, all_views, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_portrait_views_are_computed_upright_and_stored_transposed() -> None:
    head, tokens = DptHead(CONFIG).eval(), hooked_tokens(1, 2, 32)
    with torch.no_grad():
        points, confidence = dense_pointmaps(head, tokens, (4, 8), [False, True])
        upright_points, upright_confidence = activate(head([part[0, 1:] for part in tokens], (8, 4)))
    assert points.shape == (1, 2, 64, 128, 3)
    torch.testing.assert_close(points[0, 1], upright_points[0].transpose(0, 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(confidence[0, 1], upright_confidence[0].transpose(0, 1), atol=1e-5, rtol=1e-5)
