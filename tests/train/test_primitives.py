import math

import torch

from flarecli.train.primitives import Draw, random_rotations, rotation_from_vector


def test_rotation_helpers_give_proper_rotations():
    r = random_rotations(Draw.seeded(0), 50)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(50))
    vector = torch.tensor([0.0, 0.0, math.pi / 2])
    torch.testing.assert_close(rotation_from_vector(vector) @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))
