import math

import torch
from torch.nn import functional

from flarecli.train import scenes as kinds
from flarecli.train.cameras import RigRules, _middle_depth, look_at, sample_rigs
from flarecli.train.primitives import Draw
from flarecli.train.scenes import sample_scenes


def test_look_at_points_the_optical_axis_and_keeps_the_horizon():
    centre, target = torch.tensor([[1.0, 2.0, 1.5]]), torch.tensor([[4.0, -2.0, 1.5]])
    rotation = look_at(centre, target, torch.zeros(1))[0]
    torch.testing.assert_close(rotation[:, 2], functional.normalize(target - centre)[0])
    assert abs(rotation[2, 0]) < 1e-3
    assert rotation[2, 1] < -0.99  # down in the image is down in the world
    tilted = look_at(centre, target, torch.tensor([math.pi / 2]))[0]
    torch.testing.assert_close(tilted[:, 0], rotation[:, 1], atol=1e-6, rtol=0)


def test_the_depth_of_a_view_is_that_of_what_it_shows():
    depth = torch.tensor([[[[math.inf, math.inf, 2.0, math.inf, 4.0, math.inf, 3.0]]]])
    assert _middle_depth(depth).item() == 3.0
    assert _middle_depth(torch.full((1, 1, 2, 2), math.inf)).isnan().all()


def test_objects_in_a_studio_are_circled_with_long_lenses(textures, monkeypatch):
    monkeypatch.setattr(kinds, "WEIGHTS", (0.0,) * 6 + (1.0,))
    scenes = sample_scenes(Draw.seeded(5), 60, textures)
    rig, complete = sample_rigs(Draw.seeded(6), scenes, RigRules(3), textures, 4 / 3)
    assert complete.float().mean() > 0.3
    assert rig.focal.min() >= 0.7 * 0.85 and rig.focal.max() > 2.5
    middle = torch.stack([torch.zeros(60), torch.zeros(60), 0.7 * scenes.extent[:, 0]], -1)[:, None]
    ahead = torch.einsum("bvji,bvj->bvi", rig.rotation, middle - rig.centre)
    assert (ahead[complete][..., 2] > 0).all()
    beside = (ahead[..., :2] / ahead[..., 2:] * rig.focal[..., None]).norm(dim=-1)
    assert float((beside[complete] < 0.5).float().mean()) > 0.8  # in the picture, as a rule
