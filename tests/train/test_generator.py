import math

import pytest
import torch
from torch.nn import functional

from flarecli.train.augment import augment, dct_matrix
from flarecli.train.cameras import RigRules, look_at
from flarecli.train.data import mirror
from flarecli.train.generator import Batch, Generator
from flarecli.train.losses import ordered_pairs
from flarecli.train.primitives import Draw, random_rotations, rotation_from_vector
from flarecli.train.renderer import RenderSize
from flarecli.train.storage import project_to_storage, storage_rays
from flarecli.train.targets import centre_pixels, find_matches, make_targets

SCENES, VIEWS = 24, 3


@pytest.fixture(scope="module")
def batch(textures) -> Batch:
    return Generator(textures, Draw.seeded(5)).batch(SCENES, RigRules(VIEWS), RenderSize(48, 64, samples=2))


@pytest.fixture(params=["plain", "mirrored"])
def variant(batch, request) -> Batch:
    return batch if request.param == "plain" else mirror(batch, torch.ones(SCENES, dtype=torch.bool))


def test_shapes_orientations_and_overlaps(batch):
    assert batch.rgb.shape == (SCENES, VIEWS, 3, 48, 64)
    assert batch.portrait.any()
    assert not batch.portrait.all()
    assert (batch.depth >= 0).all()
    off = batch.overlap[:, 1:, 0]
    assert off.min() > 0.05
    assert off.max() < 0.99
    rotation = batch.c2w[..., :3, :3]
    torch.testing.assert_close(
        rotation @ rotation.transpose(-1, -2), torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0
    )
    assert (torch.linalg.det(rotation) > 0).all()
    degrees = 2 * torch.rad2deg(torch.atan(0.5 / batch.focal))
    assert degrees.min() > 18
    assert degrees.max() < 100


def test_views_agree_about_colours_where_geometry_says_they_meet(variant):
    targets = make_targets(variant)
    source, target = ordered_pairs(SCENES, VIEWS, torch.device("cpu"))
    pixels = centre_pixels(48, 64, 2, torch.device("cpu")).expand(SCENES, source.shape[1], -1)
    matches = find_matches(targets, source, target, pixels, 1)
    assert 0.25 < matches.visible.float().mean() < 0.9
    rows = torch.arange(SCENES)[:, None]
    here = variant.rgb[rows, source].flatten(3).gather(3, pixels[:, :, None].expand(-1, -1, 3, -1))
    there = variant.rgb[rows, target].flatten(3) @ matches.weights.transpose(-1, -2)
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


def test_projection_inverts_rays():
    focal, portrait = torch.tensor([0.6, 1.4]), torch.tensor([False, True])
    rays = storage_rays(6, 10, focal, portrait)
    location, depth = project_to_storage(3 * rays, focal[:, None, None], portrait[:, None, None], (6, 10))
    column, row = torch.meshgrid(torch.arange(10) + 0.5, torch.arange(6) + 0.5, indexing="xy")
    torch.testing.assert_close(location, torch.stack([column, row], -1).expand(2, -1, -1, -1), atol=1e-4, rtol=0)
    assert torch.allclose(depth, torch.tensor(3.0))
    assert rays[1, 0, 9, 1] > 0 > rays[1, 0, 9, 0]  # the last storage column is the bottom of a portrait photo


def test_mirroring_twice_changes_nothing_and_moves_cameras(batch):
    which = torch.arange(SCENES) % 2 == 0
    once = mirror(batch, which)
    assert torch.equal(once.rgb[~which], batch.rgb[~which])
    assert not torch.equal(once.rgb[which], batch.rgb[which])
    twice = mirror(once, which)
    assert torch.equal(twice.rgb, batch.rgb)
    torch.testing.assert_close(twice.c2w, batch.c2w)
    assert (torch.linalg.det(once.c2w[..., :3, :3]) > 0).all()


def test_same_seed_same_batch(textures):
    size = RenderSize(16, 24, samples=1)
    first, second = (Generator(textures, Draw.seeded(9)).batch(4, RigRules(2), size) for _ in range(2))
    assert torch.equal(first.rgb, second.rgb)
    assert torch.equal(first.c2w, second.c2w)
    other = Generator(textures, Draw.seeded(10)).batch(4, RigRules(2), size)
    assert not torch.equal(first.rgb, other.rgb)


def test_look_at_points_the_optical_axis_and_keeps_the_horizon():
    centre, target = torch.tensor([[1.0, 2.0, 1.5]]), torch.tensor([[4.0, -2.0, 1.5]])
    rotation = look_at(centre, target, torch.zeros(1))[0]
    torch.testing.assert_close(rotation[:, 2], functional.normalize(target - centre)[0])
    assert abs(rotation[2, 0]) < 1e-3
    assert rotation[2, 1] < -0.99  # down in the image is down in the world
    tilted = look_at(centre, target, torch.tensor([math.pi / 2]))[0]
    torch.testing.assert_close(tilted[:, 0], rotation[:, 1], atol=1e-6, rtol=0)


def test_rotation_helpers_give_proper_rotations():
    r = random_rotations(Draw.seeded(0), 50)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(50))
    vector = torch.tensor([0.0, 0.0, math.pi / 2])
    torch.testing.assert_close(rotation_from_vector(vector) @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))


def test_augmentation_stays_in_range_and_keeps_structure(batch):
    mild = augment(batch.rgb, Draw.seeded(0), strength=0.0)
    strong = augment(batch.rgb, Draw.seeded(0), strength=1.0)
    for x in (mild, strong):
        assert x.min() >= 0
        assert x.max() <= 1
    assert torch.equal(strong, augment(batch.rgb, Draw.seeded(0), strength=1.0))
    grey = [x.mean(2).flatten(2) for x in (mild, strong)]
    a, b = ((g - g.mean(-1, keepdim=True)) for g in grey)
    correlation = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + 1e-6)
    assert correlation.median() > 0.9
    assert (mild - strong).abs().mean() > 0.02


def test_cosine_transform_is_orthonormal():
    dct = dct_matrix(torch.device("cpu"))
    torch.testing.assert_close(dct @ dct.T, torch.eye(8), atol=1e-6, rtol=0)
