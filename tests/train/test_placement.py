import torch

from flarecli.train.placement import LOOSE, LOOSE_COUNT, enlarge, stack
from flarecli.train.primitives import BOX, SHEET, Draw, random_primitives


def test_stacked_objects_stand_on_a_box_and_not_past_its_edge():
    draw = Draw.seeded(1)
    prims = random_primitives(draw, 30, 6)
    before = prims.centre[:, LOOSE].clone()
    stack(draw, prims)
    centre, half = prims.centre[:, LOOSE], prims.half[:, LOOSE]
    moved = (centre != before).any(-1)
    first = LOOSE_COUNT // 2
    assert not moved[:, :first].any() and moved[:, first:].float().mean() > 0.1
    assert not moved[prims.kind[:, LOOSE] == SHEET].any()
    bottom, top = centre[..., 2] - half[..., 2], (centre + half)[:, :first, 2]
    box = prims.kind[:, LOOSE][:, :first] == BOX
    offset = (centre[:, :, None, :2] - centre[:, None, :first, :2]).abs()
    over = (offset <= 0.5 * half[:, None, :first, :2] + 1e-5).all(-1)
    level = (bottom[..., None] - top[:, None]).abs() < 1e-5
    assert (over & level & box[:, None]).any(-1)[moved].all()


def test_enlarged_objects_still_stand_on_the_ground():
    prims = random_primitives(Draw.seeded(1), 20, 6)
    solid = prims.kind[:, LOOSE] != SHEET
    sizes = prims.half[:, LOOSE].clone()
    enlarge(prims, 1.7)
    torch.testing.assert_close(prims.half[:, LOOSE][solid], 1.7 * sizes[solid])
    bottom = (prims.centre[:, LOOSE] - prims.half[:, LOOSE])[..., 2][solid]
    torch.testing.assert_close(bottom, torch.zeros_like(bottom), atol=1e-6, rtol=0)
    assert (prims.half[:, LOOSE, 2][~solid] == 1).all()
