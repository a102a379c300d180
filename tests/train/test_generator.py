import torch

from flarecli.train.cameras import RigRules
from flarecli.train.generator import Generator
from flarecli.train.primitives import Draw
from flarecli.train.renderer import RenderSize

SCENES, VIEWS = 24, 3


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
    assert degrees.min() > 13
    assert degrees.max() < 100


def test_same_seed_same_batch(textures):
    size = RenderSize(16, 24, samples=1)
    first, second = (Generator(textures, Draw.seeded(9)).batch(4, RigRules(2), size) for _ in range(2))
    assert torch.equal(first.rgb, second.rgb)
    assert torch.equal(first.c2w, second.c2w)
    other = Generator(textures, Draw.seeded(10)).batch(4, RigRules(2), size)
    assert not torch.equal(first.rgb, other.rgb)
