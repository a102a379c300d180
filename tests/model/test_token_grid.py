"""Positions and orientations of tokens."""

from __future__ import annotations

import torch
from torch import nn

from flarecli.model.layers import grid_positions, rotary
from flarecli.model.token_grid import TokenGrid, apply_upright, embed_patches, orientation_groups


def test_portrait_views_count_rows_of_the_upright_photo() -> None:
    grid = TokenGrid.of((2, 3), [False, True], torch.device("cpu"))
    assert not grid.uniform
    assert grid.positions[0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert grid.positions[1].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]


def test_tables_of_mixed_views_repeat_for_each_scene() -> None:
    grid = TokenGrid.of((2, 3), [False, True], torch.device("cpu"))
    rope = grid.each_view(2, 8, 100.0)
    assert rope.cos.shape == (4, 1, 6, 8)
    assert torch.equal(rope.cos[:2], rope.cos[2:])
    assert not torch.equal(rope.cos[0], rope.cos[1])


def test_tables_of_uniform_views_are_shared() -> None:
    assert TokenGrid.of((2, 3), [True, True], torch.device("cpu")).each_view(5, 8, 100.0).cos.shape[0] == 1


def test_joint_tables_start_anew_in_every_view() -> None:
    grid = TokenGrid.of((2, 3), [False, False, False], torch.device("cpu"))
    one = rotary(grid_positions(2, 3)[None], 8)
    assert torch.equal(grid.joint(slice(1, None), 8, 100.0).cos, torch.cat([one.cos, one.cos], dim=2))


def test_groups_name_the_views_of_each_orientation() -> None:
    assert orientation_groups([True, False, True]) == [(False, [1]), (True, [0, 2])]
    assert orientation_groups([True, True]) == [(True, [0, 1])]


def test_patches_of_portrait_views_are_embedded_upright() -> None:
    torch.manual_seed(0)
    conv, upright = nn.Conv2d(3, 4, 2, stride=2), torch.randn(3, 6, 4)
    landscape = torch.randn(3, 4, 6)
    maps = torch.stack([upright.transpose(1, 2), landscape, upright.transpose(1, 2)])[None]
    tokens = embed_patches(conv, maps, [True, False, True])
    expected = conv(upright[None]).flatten(2).transpose(1, 2)[0]
    torch.testing.assert_close(tokens[0, 0], expected)
    torch.testing.assert_close(tokens[0, 2], expected)
    torch.testing.assert_close(tokens[0, 1], conv(landscape[None]).flatten(2).transpose(1, 2)[0])


def test_an_image_network_sees_every_view_upright() -> None:
    conv = torch.nn.Conv2d(2, 3, 3, padding=1)
    maps = torch.randn(2, 3, 2, 6, 8)
    stored = maps.clone()
    # The middle view is a portrait one: what is stored is its transpose.
    portrait = [False, True, False]
    out = apply_upright(conv, stored, portrait)
    assert out.shape == (2, 3, 3, 6, 8)
    torch.testing.assert_close(out[:, 0], conv(maps[:, 0]))
    torch.testing.assert_close(out[:, 1].transpose(-1, -2), conv(maps[:, 1].transpose(-1, -2)))
    torch.testing.assert_close(out[:, 2], conv(maps[:, 2]))
