import math

import torch
from torch.nn import functional

from flarecli.train.cameras import look_at


def test_look_at_points_the_optical_axis_and_keeps_the_horizon():
    centre, target = torch.tensor([[1.0, 2.0, 1.5]]), torch.tensor([[4.0, -2.0, 1.5]])
    rotation = look_at(centre, target, torch.zeros(1))[0]
    torch.testing.assert_close(rotation[:, 2], functional.normalize(target - centre)[0])
    assert abs(rotation[2, 0]) < 1e-3
    assert rotation[2, 1] < -0.99  # down in the image is down in the world
    tilted = look_at(centre, target, torch.tensor([math.pi / 2]))[0]
    torch.testing.assert_close(tilted[:, 0], rotation[:, 1], atol=1e-6, rtol=0)
