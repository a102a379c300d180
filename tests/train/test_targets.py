import pytest
import torch
from torch.nn import functional

from flarecli.train.data import mirror
from flarecli.train.generator import Batch
from flarecli.train.losses import ordered_pairs
from flarecli.train.storage import storage_rays
from flarecli.train.targets import centre_pixels, find_matches, make_targets

SCENES, VIEWS = 24, 3


@pytest.fixture(params=["plain", "mirrored"])
def variant(batch, request) -> Batch:
    return batch if request.param == "plain" else mirror(batch, torch.ones(SCENES, dtype=torch.bool))


def test_views_agree_about_colours_where_geometry_says_they_meet(variant):
    targets = make_targets(variant)
    source, target = ordered_pairs(SCENES, VIEWS, torch.device("cpu"))
    pixels = centre_pixels(48, 64, 2, torch.device("cpu")).expand(SCENES, source.shape[1], -1)
    matches = find_matches(targets, source, target, pixels, 1)
    assert 0.25 < matches.visible.float().mean() < 0.9
    rows = torch.arange(SCENES)[:, None]
    here = variant.rgb[rows, source].flatten(3).gather(3, pixels[:, :, None].expand(-1, -1, 3, -1))
    colours = variant.rgb[rows, target].flatten(3)
    around = colours.gather(3, matches.cells.flatten(2)[:, :, None].expand(-1, -1, 3, -1)).unflatten(3, (-1, 4))
    there = (around * matches.weights[:, :, None]).sum(-1)
    error = (here - there).abs().mean(2)
    unrelated = (here - here.roll(101, -1)).abs().mean(2)
    assert error[matches.visible].median() < 0.15 * unrelated.median()
    for tall in (False, True):
        kind = matches.visible & (variant.portrait[rows, source] == tall)[..., None]
        assert error[kind].median() < 0.15 * unrelated.median()


def test_matches_satisfy_the_epipolar_constraint(variant):
    targets = make_targets(variant)
    source = torch.zeros(SCENES, 1, dtype=torch.long)
    pixels = centre_pixels(48, 64, 4, torch.device("cpu")).expand(SCENES, 1, -1)
    matches = find_matches(targets, source, source + 1, pixels, 1)
    rays = storage_rays(48, 64, variant.focal, variant.portrait)
    first = rays[:, 0].flatten(1, 2).gather(1, pixels[:, 0, :, None].expand(-1, -1, 3))
    stored = (matches.location[:, 0] - torch.tensor([32.0, 24.0])) / (variant.focal[:, 1] * 64)[:, None, None]
    plane = torch.where(variant.portrait[:, 1, None, None], stored.flip(-1), stored)
    second = functional.pad(plane, (0, 1), value=1.0)
    relative = torch.linalg.inv(variant.c2w[:, 0]) @ variant.c2w[:, 1]
    turned = torch.einsum("bij,bnj->bni", relative[:, :3, :3], second)
    normal = torch.cross(relative[:, None, :3, 3].expand_as(turned), turned, dim=-1)
    sine = (functional.normalize(normal, dim=-1) * functional.normalize(first, dim=-1)).sum(-1)
    assert sine[matches.visible[:, 0]].abs().max() < 5e-3
