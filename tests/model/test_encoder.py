"""The encoder looks at every view on its own."""

from __future__ import annotations

import torch

from flarecli.model.encoder import Encoder
from tests.model.tiny import CONFIG


def test_views_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    encoder, pixels = Encoder(CONFIG).eval(), torch.randn(2, 3, 3, 64, 128)
    with torch.no_grad():
        all_views = encoder(pixels, [False, True, False])
        one_view = encoder(pixels[:1, 1:2], [True])
    torch.testing.assert_close(all_views.tokens[:1, 1:2], one_view.tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(all_views.coarse[:1, 1:2], one_view.coarse, atol=1e-5, rtol=1e-5)
    assert torch.equal(all_views.grid.positions[1], one_view.grid.positions[0])


def test_taps_are_the_inputs_of_blocks() -> None:
    torch.manual_seed(0)
    encoder, pixels = Encoder(CONFIG).eval(), torch.randn(1, 2, 3, 64, 128)
    with torch.no_grad():
        encoded = encoder(pixels, [False, False])
    embedded = encoder.patch_embed(pixels[0]).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoded.taps[0][0], embedded)
    assert [tuple(tap.shape) for tap in encoded.taps] == [(1, 2, 32, 32)] * 3
    assert encoded.coarse.shape == (1, 2, 2, 32)
    assert encoded.coarse_grid.positions[0].tolist() == [[0, 0], [0, 1]]
