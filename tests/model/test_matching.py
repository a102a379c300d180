import pytest
import torch

from flarecli.model.matching import match_views
from flarecli.scene.views import Prediction


def _prediction(descriptors: torch.Tensor | None) -> Prediction:
    points = torch.zeros(2, 24, 32, 3)
    eye = torch.eye(4).expand(2, 4, 4)
    return Prediction(eye, eye, None, points, points[..., 0], points, points[..., 0], descriptors)


def _field(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A smooth descriptor field over the plane, unit length, whose cosine falls with distance."""
    waves = [f(k * v) for v in (x, y) for k in (0.35, 0.5) for f in (torch.sin, torch.cos)]
    stacked = torch.stack(waves)
    return stacked / stacked.norm(dim=0)


@pytest.mark.parametrize("second_tall", [False, True])
def test_a_shifted_field_is_matched_to_fractions_of_a_cell(second_tall):
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    shift = (2.3, -1.6)
    moved = _field(x + shift[0], y + shift[1])
    if second_tall:  # the same numbers, but the stored columns are the rows of the photo
        up_y, up_x = torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")
        moved = _field(up_x + shift[0], up_y + shift[1]).transpose(1, 2)
    found = match_views(_prediction(torch.stack([_field(x, y), moved])), torch.tensor([False, second_tall]), 0, 1)
    assert len(found.first) > 40
    offset = (found.second - found.first) / 2  # two pixels per cell
    size = torch.tensor([12.0, 16.0] if second_tall else [16.0, 12.0])
    inner = ((found.second / 2 > 1.5) & (found.second / 2 < size - 1.5)).all(1)
    inner &= ((found.first / 2 > 3) & (found.first / 2 < torch.tensor([13.0, 9.0]))).all(1)
    assert inner.sum() > 15
    assert (offset[inner] + torch.tensor(shift)).abs().median() < 0.1
    assert (found.similarity[inner] > 0.95).all()


def test_only_mutual_neighbours_are_kept():
    descriptors = torch.zeros(2, 3, 2, 4)
    descriptors[:, 2] = 1.0
    descriptors[0, :, 0, 1] = torch.tensor([1.0, 0, 0])
    descriptors[1, :, 1, 2] = torch.tensor([1.0, 0, 0])
    found = match_views(_prediction(descriptors), torch.tensor([False, False]), 0, 1)
    strong = {tuple(p) for p in torch.cat([found.first, found.second], 1).tolist()}
    # Cells are 8 pixels wide here; the planted pair sits in columns 1 and 2.
    assert any(abs(p[0] - 12) < 1e-4 and abs(p[1] - 4) < 1e-4 and 16 <= p[2] <= 24 for p in strong)
    assert len(found.first) == 2  # all other cells are alike, so only one of them is mutual


def test_networks_without_descriptors_are_refused():
    with pytest.raises(ValueError, match="no descriptors"):
        match_views(_prediction(None), torch.tensor([False, False]), 0, 1)
