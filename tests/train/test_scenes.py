import pytest
import torch

from flarecli.train.primitives import ABSENT, BOX, ELLIPSOID, Draw
from flarecli.train.scenes import ROOM, WEIGHTS, Scenes, sample_scenes


@pytest.fixture(scope="module")
def scenes(textures) -> Scenes:
    return sample_scenes(Draw.seeded(2), 120, textures)


def test_kinds_come_in_order_and_in_their_shares(scenes):
    assert torch.equal(scenes.kind, scenes.kind.sort().values)
    share = torch.bincount(scenes.kind) / 120
    torch.testing.assert_close(share, torch.tensor(WEIGHTS), atol=0.12, rtol=0)


def test_rooms_have_a_shell_and_the_others_a_sky(scenes):
    room, prims = scenes.kind == ROOM, scenes.prims
    assert (prims.kind[room, 0] == BOX).all() and (prims.kind[room, 1] == ABSENT).all()
    torch.testing.assert_close(prims.half[room, 0], scenes.extent[room])
    assert (prims.kind[~room, 1] == ELLIPSOID).all() and (prims.dome[~room, 1] == 1).all()
    assert (prims.dome[:, 2:] == 0).all()


def test_lamps_hang_inside_rooms_and_the_sun_stands_above_the_horizon(scenes):
    room, lamp = scenes.kind == ROOM, scenes.lights[:, :3]
    extent = scenes.extent[room]
    assert (lamp[room, :2].abs() < extent[:, :2]).all()
    assert ((lamp[room, 2] > extent[:, 2]) & (lamp[room, 2] < 2 * extent[:, 2])).all()
    torch.testing.assert_close(lamp[~room].norm(dim=1), torch.full(((~room).sum(),), 45.0))
    assert (lamp[~room, 2] > 45 * 0.24).all()


def test_joining_parts_undoes_selecting_them(scenes):
    again = Scenes.join([scenes.select(torch.arange(50)), scenes.select(torch.arange(50, 120))])
    assert torch.equal(again.kind, scenes.kind) and torch.equal(again.lights, scenes.lights)
    assert torch.equal(again.extent, scenes.extent) and torch.equal(again.prims.records(), scenes.prims.records())
