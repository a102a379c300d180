from dataclasses import dataclass, fields
from typing import cast

import numpy as np
import pytest
import torch

from flarecli.errors import InputError
from flarecli.train.cameras import RigRules
from flarecli.train.data import (
    STORED_VIEWS,
    LiveSource,
    MixedSource,
    ShardPlan,
    ShardSource,
    clear_shards,
    mirror,
    pack_arrays,
    prerender,
    random_views,
    unpack_arrays,
    vary,
)
from flarecli.train.generator import Batch
from flarecli.train.primitives import Draw
from flarecli.train.renderer import RenderSize

PLAN = ShardPlan(2, 6, ((16, 24), (16, 16)), seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, textures):
    path = tmp_path_factory.mktemp("shards")
    prerender(textures, path, PLAN)
    return path


def test_shards_alternate_canvases_and_are_not_rendered_twice(folder, textures):
    shapes = [np.load(p / "depth.npy").shape for p in sorted(folder.iterdir())]
    assert shapes == [(6, 4, 16, 24), (6, 4, 16, 16)]
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.npy")}
    calls = []
    prerender(textures, folder, PLAN, lambda *c: calls.append(c))
    assert calls == []
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*.npy")}


def test_source_gives_what_was_rendered(folder):
    source = ShardSource.open(folder)
    batch = source.next(Draw.seeded(1), 5, 3)
    assert batch.rgb.shape[:3] == (5, 3, 3)
    again = ShardSource.open(folder).next(Draw.seeded(1), 5, 3)
    assert torch.equal(batch.rgb, again.rgb)
    stored = np.load(source.shards[0] / "c2w.npy")
    others = np.load(source.shards[1] / "c2w.npy")
    known = {m.tobytes() for m in np.concatenate([stored, others]).reshape(-1, 4, 4)}
    assert all(m.tobytes() in known for m in batch.c2w.numpy().reshape(-1, 4, 4))


def test_fixed_batches_never_change(folder):
    first, second = (ShardSource.open(folder).fixed(8, 2) for _ in range(2))
    assert [len(b.kind) for b in first] == [6, 2]
    assert all(torch.equal(a.rgb, b.rgb) for a, b in zip(first, second, strict=True))


def test_packing_keeps_colours_and_depth_within_rounding(generator):
    batch = generator.batch(3, RigRules(2), RenderSize(16, 24, samples=1))
    back = unpack_arrays(pack_arrays(batch))
    assert (back.rgb - batch.rgb).abs().max() <= 1.6 / 255
    solid = batch.depth > 0
    assert torch.equal(back.depth > 0, solid)
    torch.testing.assert_close(back.depth[solid], batch.depth[solid], rtol=1e-3, atol=0)
    assert torch.equal(back.c2w, batch.c2w)


def test_pairs_are_drawn_among_views_that_overlap():
    overlap = torch.eye(4).repeat(64, 1, 1)
    overlap[:, 0, 2] = overlap[:, 2, 0] = overlap[:, 1, 3] = overlap[:, 3, 1] = 0.5
    index = random_views(Draw.seeded(0), overlap, 2)
    assert {tuple(sorted(pair)) for pair in index.tolist()} == {(0, 2), (1, 3)}
    assert {pair[0] for pair in index.tolist()} == {0, 1, 2, 3}
    more = random_views(Draw.seeded(0), overlap, 4)
    assert all(sorted(row) == [0, 1, 2, 3] for row in more.tolist())


def test_missing_shards_and_too_many_views_are_named(tmp_path, folder):
    with pytest.raises(InputError, match="no training shards"):
        ShardSource.open(tmp_path)
    with pytest.raises(InputError, match="4 views"):
        ShardSource.open(folder).next(Draw.seeded(0), 2, 5)


def test_live_source_renders_the_canvases(generator):
    source = LiveSource(generator, ((16, 24), (16, 16)))
    shapes = {source.next(Draw.seeded(s), 2, 2).depth.shape for s in range(8)}
    assert shapes == {(2, 2, 16, 24), (2, 2, 16, 16)}


@dataclass
class _Counting:
    """Says how often it was asked."""

    asked: int = 0

    def next(self, draw: Draw, scenes: int, views: int) -> Batch:
        self.asked += 1
        draw.uniform(scenes, views)
        return cast(Batch, None)


def test_a_mixed_source_asks_the_other_one_for_its_share_of_batches_that_it_can_give():
    main, other, draw = _Counting(), _Counting(), Draw.seeded(3)
    source = MixedSource(main, other, 0.25)
    for _ in range(400):
        source.next(draw, 2, STORED_VIEWS)
    assert main.asked + other.asked == 400 and 70 < other.asked < 130
    before = other.asked
    for _ in range(40):
        source.next(draw, 2, STORED_VIEWS + 1)
    assert other.asked == before


def test_variation_changes_colours_but_not_geometry_of_unmirrored_scenes(folder):
    batch = ShardSource.open(folder).next(Draw.seeded(1), 6, 2)
    varied = vary(batch, Draw.seeded(2))
    same = [torch.equal(varied.depth[i], batch.depth[i]) for i in range(6)]
    assert 0 < sum(same) < 6
    assert all(torch.equal(varied.c2w[i], batch.c2w[i]) for i in range(6) if same[i])
    assert {f.name for f in fields(Batch)} == {f.name for f in fields(varied)}
    assert varied.rgb.max() <= 1


def test_mirroring_twice_changes_nothing_and_moves_cameras(batch):
    which = torch.arange(len(batch.kind)) % 2 == 0
    once = mirror(batch, which)
    assert torch.equal(once.rgb[~which], batch.rgb[~which])
    assert not torch.equal(once.rgb[which], batch.rgb[which])
    twice = mirror(once, which)
    assert torch.equal(twice.rgb, batch.rgb)
    torch.testing.assert_close(twice.c2w, batch.c2w)
    assert (torch.linalg.det(once.c2w[..., :3, :3]) > 0).all()


def test_only_shards_are_cleared_away(textures, tmp_path):
    clear_shards(tmp_path / "nothing")
    prerender(textures, tmp_path / "shards", ShardPlan(1, 2, ((16, 24),)))
    for foreign in ("notes.txt", "shard-00000/photo.jpg", "shard-of-glass"):
        (tmp_path / "shards" / foreign).touch()
        with pytest.raises(InputError, match=f"holds {foreign}"):
            clear_shards(tmp_path / "shards")
        (tmp_path / "shards" / foreign).unlink()
    (tmp_path / "link").symlink_to(tmp_path / "shards")
    with pytest.raises(InputError, match="is no folder"):
        clear_shards(tmp_path / "link")
    assert len(list((tmp_path / "shards").iterdir())) == 1
    clear_shards(tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
