import torch

from flarecli.train.storage import project_to_storage, storage_rays


def test_projection_inverts_rays():
    focal, portrait = torch.tensor([0.6, 1.4]), torch.tensor([False, True])
    rays = storage_rays(6, 10, focal, portrait)
    location, depth = project_to_storage(3 * rays, focal[:, None, None], portrait[:, None, None], (6, 10))
    column, row = torch.meshgrid(torch.arange(10) + 0.5, torch.arange(6) + 0.5, indexing="xy")
    torch.testing.assert_close(location, torch.stack([column, row], -1).expand(2, -1, -1, -1), atol=1e-4, rtol=0)
    assert torch.allclose(depth, torch.tensor(3.0))
    assert rays[1, 0, 9, 1] > 0 > rays[1, 0, 9, 0]  # the last storage column is the bottom of a portrait photo
