"""Real photos as training scenes, checked on photos whose geometry is known exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flarecli.errors import InputError
from flarecli.export.archive import save_scene
from flarecli.export.colmap import write_colmap
from flarecli.export.transforms_json import write_transforms
from flarecli.train.captures import Capture, capture_shards, read_capture
from flarecli.train.data import MAX_RADIANCE, ShardSource
from flarecli.train.generator import Batch
from flarecli.train.primitives import Draw
from flarecli.train.storage import storage_rays
from flarecli.train.targets import make_targets
from tests.synthetic import SyntheticScene, cast_rays, make_scene, texture


def _scene(size_hw=(96, 128), k1: float = 0.0) -> SyntheticScene:
    return make_scene(5, size_hw, num_tracks=300, depth_scale=1.0, k1=k1)


def _folder(scene: SyntheticScene, folder, *writers):
    scene.write_images(folder / "images")
    for write in writers:
        write(scene.reconstruction, folder)
    return folder


def _batch(capture: Capture, folder, long_side: int = 64) -> Batch:
    assert capture_shards([capture], folder, long_side) == 20  # four rounds of five photos
    source = ShardSource.open(folder)
    return source.next(Draw.seeded(0), 6, 4)


def _truth(batch: Batch, scene: SyntheticScene) -> tuple[torch.Tensor, torch.Tensor]:
    """True depth and colour at the pixels of a batch, in the unit of the batch."""
    unit = np.linalg.norm(scene.reconstruction.cameras.centers, axis=1).max()
    unit /= float(batch.c2w[..., :3, 3].norm(dim=-1).max())
    rays = storage_rays(*batch.depth.shape[-2:], batch.focal, batch.portrait).double()
    origin = batch.c2w[..., :3, 3].double() * unit
    world = torch.einsum("bvij,bvhwj->bvhwi", batch.c2w[..., :3, :3].double(), rays)
    depth, colour = torch.zeros(batch.depth.shape), torch.zeros(*batch.depth.shape, 3)
    for b in range(len(batch.kind)):
        for v in range(batch.depth.shape[1]):
            found = cast_rays(origin[b, v].numpy(), world[b, v].flatten(0, 1).numpy())
            points = world[b, v].flatten(0, 1).numpy() * found[:, None] + origin[b, v].numpy()
            depth[b, v] = torch.from_numpy(found / unit).view_as(depth[b, v])
            colour[b, v] = torch.from_numpy(texture(points)).view_as(colour[b, v])
    return depth, colour


@pytest.mark.parametrize(("size_hw", "k1"), [((96, 128), 0.0), ((128, 96), 0.0), ((96, 128), -0.12)])
def test_views_show_what_their_cameras_see(tmp_path, size_hw, k1):
    scene = _scene(size_hw, k1)
    scene.write_images(tmp_path / "images")
    r = scene.reconstruction
    files = tuple(tmp_path / "images" / name for name in r.image_names)
    batch = _batch(Capture(files, r.cameras, r.tracks, tuple(range(5)), r.depth_maps), tmp_path / "shards")
    assert bool(batch.portrait.all()) == (size_hw[0] > size_hw[1])
    depth, colour = _truth(batch, scene)
    off = (batch.depth / depth - 1).abs()
    assert (off < 0.02).float().mean() > 0.95  # the rest lies at the edge of the sphere
    assert (batch.rgb.movedim(2, -1) - colour).abs().median() < 0.03
    assert batch.rgb.max() <= MAX_RADIANCE


def _measured(scene: SyntheticScene, share: float) -> SyntheticScene:
    """The scene with depth that photos measured in the left share of every map, and nonsense in the rest."""
    maps = []
    for each in scene.reconstruction.depth_maps:
        there = np.broadcast_to(np.arange(each.depth.shape[1]) < share * each.depth.shape[1], each.depth.shape)
        maps.append(replace(each, depth=np.where(there, each.depth, 50.0), measured=there))
    return replace(scene, reconstruction=replace(scene.reconstruction, depth_maps=tuple(maps)))


def test_a_scene_of_this_program_is_read_with_the_depth_that_was_measured(tmp_path):
    scene = _measured(_scene(), 0.5)
    batch = _batch(read_capture(_folder(scene, tmp_path / "scene", save_scene)), tmp_path / "shards")
    left, right = batch.depth.chunk(2, -1)
    assert (left > 0).float().mean() > 0.95
    depth, _ = _truth(batch, scene)
    solid = right > 0  # around sparse points
    assert 0.05 < solid.float().mean() < 0.9
    assert ((right / depth.chunk(2, -1)[1] - 1).abs()[solid] < 0.05).float().mean() > 0.9


def test_photos_whose_cameras_nothing_verifies_teach_nothing(tmp_path):
    scene = _measured(_scene(), 1.0)
    verdicts = tuple(
        replace(verdict, status="verified" if index in (1, 2, 4) else "network-only")
        for index, verdict in enumerate(scene.reconstruction.verdicts)
    )
    scene = replace(scene, reconstruction=replace(scene.reconstruction, verdicts=verdicts))
    capture = read_capture(_folder(scene, tmp_path / "scene", save_scene))
    assert [file.name for file in capture.photos] == [scene.reconstruction.image_names[index] for index in (1, 2, 4)]
    assert capture.numbers == (1, 2, 4)
    assert capture_shards([capture], tmp_path / "shards", 64) == 12
    batch = ShardSource.open(tmp_path / "shards").next(Draw.seeded(0), 6, 4)
    depth, _ = _truth(batch, scene)
    assert ((batch.depth / depth - 1).abs()[batch.depth > 0] < 0.05).float().mean() > 0.9
    alone = tuple(replace(verdict, status="network-only") for verdict in verdicts)
    scene = replace(scene, reconstruction=replace(scene.reconstruction, verdicts=alone))
    with pytest.raises(InputError, match="fewer than two photos with good cameras"):
        read_capture(_folder(scene, tmp_path / "unverified", save_scene))


def test_a_colmap_model_gives_depth_at_its_points(tmp_path):
    scene = _scene()
    capture = read_capture(_folder(scene, tmp_path / "project", write_colmap))
    batch = _batch(capture, tmp_path / "shards")
    solid = batch.depth > 0
    depth, _ = _truth(batch, scene)
    assert 0.05 < solid.float().mean() < 0.9
    assert ((batch.depth / depth - 1).abs()[solid] < 0.05).float().mean() > 0.9
    targets = make_targets(batch)
    assert targets.valid.any() and torch.isfinite(targets.world).all()


def test_transforms_give_poses_alone(tmp_path):
    scene = _scene()
    capture = read_capture(_folder(scene, tmp_path / "nerf", save_scene, write_transforms) / "transforms.json")
    batch = _batch(capture, tmp_path / "shards")
    assert not (batch.depth > 0).any()
    centers = scene.reconstruction.cameras.centers
    found = batch.c2w[..., :3, 3].reshape(-1, 3).numpy()
    assert all(np.linalg.norm(centers - point, axis=1).min() < 1e-4 for point in found)


def test_repeated_views_are_never_drawn_as_a_pair(tmp_path):
    scene = make_scene(2, (96, 128), num_tracks=200, depth_scale=1.0)
    capture = read_capture(_folder(scene, tmp_path / "scene", save_scene))
    assert capture_shards([capture], tmp_path / "shards", 64) == 8
    batch = ShardSource.open(tmp_path / "shards").next(Draw.seeded(1), 16, 2)
    assert (batch.c2w[:, 0] - batch.c2w[:, 1]).abs().amax((1, 2)).min() > 1e-3


def test_what_is_missing_is_named(tmp_path):
    folder = _folder(_scene(), tmp_path / "scene", save_scene)
    next((folder / "images").iterdir()).unlink()
    with pytest.raises(InputError, match="is missing"):
        read_capture(folder)
    with pytest.raises(InputError, match="no COLMAP model"):
        read_capture(tmp_path / "nothing")


def test_photos_of_another_size_than_their_cameras_are_refused(tmp_path):
    small, large = _scene(), _scene((120, 160))
    large.write_images(tmp_path / "images")
    files = tuple(tmp_path / "images" / name for name in small.reconstruction.image_names)
    with pytest.raises(InputError, match="160x120 pixels, its camera 128x96"):
        capture_shards([Capture(files, small.reconstruction.cameras, None, (0, 1))], tmp_path / "shards", 64)
