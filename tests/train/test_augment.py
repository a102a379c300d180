import torch

from flarecli.train.augment import augment, dct_matrix
from flarecli.train.primitives import Draw


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
