import torch

from flarecli.train.anchors import anchor
from flarecli.train.primitives import Draw
from flarecli.train.scenes import FACADE, OBJECTS, ROOM, STREET, STUDIO, sample_scenes


def test_first_cameras_suit_the_kind_of_scene(textures):
    draw = Draw.seeded(3)
    scenes = sample_scenes(draw, 200, textures)
    place, target = anchor(draw, scenes, torch.full((200,), 0.8))
    room, street, facade = ((scenes.kind == kind) for kind in (ROOM, STREET, FACADE))
    for point in (place[room], target[room]):
        assert (point[:, 2] > 0).all()
    assert (place[room, :2].abs() < scenes.extent[room, :2]).all()
    assert (target[street, 1] > place[street, 1]).all()  # along the street
    assert (place[facade, 1] < 0).all() and (target[facade, 1] == 0).all()  # a wall at y = 0, seen from before it
    studio, height = scenes.kind == STUDIO, scenes.extent[:, 0]
    assert studio.any() and ((target - place)[studio].norm(dim=1) > 1.7 * height[studio]).all()
    assert ((target[studio, 2] > 0.4 * height[studio]) & (target[studio, 2] < height[studio])).all()


def test_a_long_lens_stands_farther_away(textures):
    scenes = sample_scenes(Draw.seeded(3), 200, textures)
    distance = []
    for focal in (0.8, 1.6):
        place, target = anchor(Draw.seeded(9), scenes, torch.full((200,), focal))
        distance.append((place - target).norm(dim=1)[scenes.kind == OBJECTS])
    torch.testing.assert_close(distance[1], 2 * distance[0])
