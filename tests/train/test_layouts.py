import torch

from flarecli.train import layouts
from flarecli.train.placement import LOOSE, WALLS
from flarecli.train.primitives import ABSENT, SHEET, Draw, Primitives, random_primitives
from flarecli.train.studio import studio

BATCH = 40


def _random() -> tuple[Draw, Primitives]:
    draw = Draw.seeded(4)
    return draw, random_primitives(draw, BATCH, 6)


def test_pictures_hang_on_the_walls_of_rooms():
    draw, prims = _random()
    extent = layouts.room(draw, prims)
    plan, normal = prims.centre[:, WALLS, :2], prims.rotation[:, WALLS, :2, 0].abs()
    on_x = normal[..., 0] > 0.5
    away = torch.where(on_x, plan[..., 0], plan[..., 1]).abs()
    wall = torch.where(on_x, extent[:, :1], extent[:, 1:2])
    torch.testing.assert_close(away, wall)
    along = torch.where(on_x, plan[..., 1], plan[..., 0]).abs()
    assert (along < torch.where(on_x, extent[:, 1:2], extent[:, :1])).all()


def test_buildings_leave_the_street_free():
    draw, prims = _random()
    layouts.street(draw, prims)
    face = prims.centre[:, WALLS, 0].abs() - prims.half[:, WALLS, 0]
    assert face.min() >= 3.5
    bottom = prims.centre[:, WALLS, 2] - prims.half[:, WALLS, 2]
    torch.testing.assert_close(bottom, torch.zeros_like(bottom), atol=1e-5, rtol=0)


def test_a_facade_has_its_front_at_y_zero_and_things_before_it():
    draw, prims = _random()
    height = layouts.facade(draw, prims)[:, 0]
    wall = WALLS.start
    torch.testing.assert_close(prims.centre[:, wall, 1] - prims.half[:, wall, 1], torch.zeros(BATCH))
    torch.testing.assert_close(prims.centre[:, wall, 2] + prims.half[:, wall, 2], 2 * height)
    assert (prims.centre[:, LOOSE, 1] <= 0).all()


def test_hills_rise_from_the_ground():
    draw, prims = _random()
    layouts.terrain(draw, prims)
    assert (prims.centre[:, WALLS, 2] == 0).all()
    assert (prims.centre[:, 0, 2] + prims.half[:, 0, 2] == 0).all()


def test_scatter_fills_a_ball_evenly():
    draw, prims = _random()
    layouts.scatter(draw, prims)
    radius = prims.centre[:, 2:].norm(dim=-1) / 1.3
    assert radius.max() <= 1
    assert abs(float((radius**3).mean()) - 0.5) < 0.03  # the cube of the radius is uniform in a ball
    assert set(prims.kind[:, 0].unique().tolist()) == {0, 1}


def test_clusters_spread_with_their_radius_and_keep_far_walls_far():
    draw, prims = _random()
    radius = layouts.objects(draw, prims)[:, 0]
    spread = prims.centre[:, LOOSE, :2].std(dim=1).mean(1)
    assert float(torch.corrcoef(torch.stack([radius, spread]))[0, 1]) > 0.7
    assert (prims.centre[:, WALLS, :2].norm(dim=-1) >= 2.5 - 1e-5).all()
    assert (prims.kind[:, WALLS] == ABSENT).any()
    assert (prims.half[:, LOOSE][prims.kind[:, LOOSE] == SHEET][:, 2] > 0).all()


def test_an_object_in_a_studio_stands_on_its_ground_in_one_piece():
    draw, prims = _random()
    radius = studio(draw, prims)[:, 0]
    body = prims.half[:, WALLS.start]
    assert ((body <= 0.8 * radius[:, None]) & (body >= 0.3 * radius[:, None])).all()
    torch.testing.assert_close(prims.centre[:, WALLS.start, 2], body[:, 2])
    assert (prims.kind[:, WALLS][:, 1:] == ABSENT).all() and (prims.kind[:, LOOSE] != SHEET).all()
    away = (prims.centre[:, LOOSE] - prims.centre[:, WALLS.start, None]) / body[:, None]
    assert (away[..., :2].norm(dim=-1) <= 1.3 + 1e-5).all()
    assert (prims.centre[:, LOOSE, 2] >= prims.half[:, LOOSE, 2] - 1e-6).all()
    assert set(prims.kind[:, 0].unique().tolist()) == {0, 1}


def test_most_parts_of_an_object_in_a_studio_are_of_two_materials():
    draw, prims = _random()
    before = [len(row.unique()) for row in prims.textures[:, LOOSE, 0]]
    studio(draw, prims)
    after = [len(row.unique()) for row in prims.textures[:, LOOSE, 0]]
    assert sum(after) < 0.8 * sum(before)
    share = torch.stack([(row == row[:, None]).float().mean(1).max() for row in prims.textures[:, LOOSE, 0]])
    assert float((share > 0.55).float().mean()) > 0.5
