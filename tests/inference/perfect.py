"""Photos of a synthetic scene and the prediction a perfect network would make of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from flarecli.geometry.projection import intrinsics, map_intrinsics, normalise, pixel_grid
from flarecli.geometry.transforms import invert_rigid
from flarecli.images.loading import Photo, load_photos
from flarecli.images.preparing import Prepared, prepare
from flarecli.inference.predict import Predicted, Window
from flarecli.scene.cameras import Cameras
from flarecli.scene.priors import Priors
from flarecli.scene.views import Prediction
from tests.synthetic import cast_rays, make_scene

CANVAS = (48, 64)


def cameras_of(sizes_hw: Sequence[tuple[int, int]], focal_over_long: float = 1.1) -> Cameras:
    """Cameras on an arc with photos of these sizes; camera 0 is the world."""
    scene = make_scene(len(sizes_hw), (32, 40), depth_scale=0.1, num_tracks=10, with_images=False)
    K = np.stack([intrinsics(focal_over_long * max(size), size) for size in sizes_hw])
    return Cameras(scene.reconstruction.cameras.c2w, K, np.array(sizes_hw))


def photos_of(folder: Path, sizes_hw: Sequence[tuple[int, int]]) -> tuple[Photo, ...]:
    """Photos with some content; their geometry comes from the prediction alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (height, width) in enumerate(sizes_hw):
        rgb = np.random.default_rng(index).integers(0, 255, (height, width, 3)).astype(np.uint8)
        Image.fromarray(rgb).save(folder / f"{index:02d}.png")
    return load_photos([folder]).photos


def window_of(
    prepared: Prepared, cameras: Cameras, chosen: Sequence[int], *, unit_global: float = 2.0, unit_local: float = 0.3
) -> Window:
    """Exact point maps in units of their own, in landscape storage; the pose head is exact in a third unit."""
    to_reference = invert_rigid(cameras.c2w[chosen[0]])
    local, world, head = [], [], []
    for photo in chosen:
        portrait = bool(prepared.views.portrait[photo])
        height, width = CANVAS[::-1] if portrait else CANVAS
        K = map_intrinsics(cameras.K[photo], prepared.prepared_from_photo[photo])
        plane = normalise(K, pixel_grid(height, width).reshape(-1, 2))
        rays = np.column_stack([plane, np.ones(len(plane))])
        c2w = cameras.c2w[photo]
        depth = cast_rays(c2w[:3, 3], rays @ c2w[:3, :3].T)
        cam = rays * depth[:, None]
        inside = to_reference @ c2w
        points = cam @ inside[:3, :3].T + inside[:3, 3]
        maps = [each.reshape(height, width, 3) for each in (cam * unit_local, points * unit_global)]
        local.append(maps[0].swapaxes(0, 1) if portrait else maps[0])
        world.append(maps[1].swapaxes(0, 1) if portrait else maps[1])
        inside = inside.copy()
        inside[:3, 3] *= 0.7
        head.append(inside)
    ones = np.full((len(chosen), *CANVAS), 5.0)
    prediction = Prediction(
        coarse_c2w=torch.tensor(np.stack(head)),
        refined_c2w=torch.tensor(np.stack(head)),
        focal=None,
        points_local=torch.tensor(np.stack(local)).float(),
        confidence_local=torch.tensor(ones).float(),
        points_global=torch.tensor(np.stack(world)).float(),
        confidence_global=torch.tensor(ones).float(),
    )
    return Window(tuple(chosen), prediction)


def predicted_of(
    photos: Sequence[Photo], cameras: Cameras, windows: Sequence[Sequence[int]], units: Sequence[float] | None = None
) -> Predicted:
    """Windows of a perfect network, each in a unit of its own."""
    prepared = prepare(photos, CANVAS)
    units = units or [2.0] * len(windows)
    return Predicted(
        tuple(window_of(prepared, cameras, w, unit_global=u) for w, u in zip(windows, units, strict=True)), prepared
    )


def priors_of(cameras: Cameras, *, sigma: float = 0.35, c2w: np.ndarray | None = None, shared: bool = False) -> Priors:
    """Priors that know nothing but the sizes (wrong focal length), or everything with sigma 0."""
    count = len(cameras)
    K = np.array(cameras.K)
    if sigma > 0:
        K[:, [0, 1], [0, 1]] *= 0.7
    group = np.zeros(count) if shared else np.arange(count)
    return Priors(group, cameras.size_hw, K, np.full(count, sigma), np.zeros(count), c2w)
