import numpy as np
import pytest
import torch

from flarecli.render.quality import ssim, ssim_map, structure
from tests.model.published import SHARED


def pictures(seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(40, 52, 3, generator=generator)
    return a, (a + 0.2 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


def test_agrees_with_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.functional.image", reason="an independent implementation")
    a, b = pictures()
    channels_first = [each.permute(2, 0, 1)[None] for each in (a, b)]
    options = {"data_range": 1.0, "gaussian_kernel": True, "sigma": 1.5, "return_full_image": True}
    _, whole = metrics.structural_similarity_index_measure(*channels_first, **options)
    # It repeats the border by reflection; we leave out windows that reach over it.
    torch.testing.assert_close(ssim_map(a, b), whole[0, :, 5:-5, 5:-5].mean(0), atol=1e-5, rtol=0)


def test_equal_pictures_weights_and_gradient():
    a, b = pictures()
    assert float(ssim(a, a)) == pytest.approx(1, abs=1e-5)
    weight = torch.zeros(40, 52)
    weight[:, :20] = 1
    mixed = torch.cat([a[:, :26], b[:, 26:]], 1)
    assert float(ssim(a, mixed, weight)) > 0.99 > 0.95 > float(ssim(a, mixed))
    a = a.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ssim_map(x, b[:12, :13].double()), a[:12, :13].detach().requires_grad_())


@pytest.mark.shared
def test_recorded_structure_term():
    path = SHARED / "noposplat" / "noposplat_functions.npz"
    if not path.exists():
        pytest.skip("the recorded values are not beside the project")
    recorded = np.load(path)
    truth, close, equal = (
        torch.tensor(recorded[name]).permute(0, 2, 3, 1) for name in ("metric/gt", "metric/pred", "ssimparts/in_b2")
    )
    for other, expected in ((close, "ssimparts/ssim_bright_contrast_struct"), (equal, "ssimparts/b2")):
        found = np.mean([float(structure(a, b)) for a, b in zip(truth, other, strict=True)])
        assert found == pytest.approx(float(recorded[expected][3]), abs=1e-6)


def test_structure_ignores_the_exposure():
    a, _ = pictures()
    assert float(structure(a, 0.6 * a + 0.1)) == pytest.approx(0.98, abs=1e-4)
    assert float(structure(a, 1 - a)) < -0.9


def test_too_small():
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(torch.zeros(10, 30, 3), torch.zeros(10, 30, 3))
