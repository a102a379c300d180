"""Real photos with known cameras as training scenes: COLMAP models, transforms.json, and scenes of flarecli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from flarecli.errors import InputError
from flarecli.export.archive import ARCHIVE_NAME, load_scene
from flarecli.export.colmap_raw import find_model
from flarecli.export.colmap_read import read_colmap
from flarecli.export.transforms_json import load_transforms, read_transforms
from flarecli.geometry.projection import map_pixels, photo_pixels, pixel_grid
from flarecli.images.preparing import choose_canvas
from flarecli.scene.cameras import Cameras
from flarecli.scene.reconstruction import DepthMap, Tracks
from flarecli.train.data import STORED_VIEWS, clear_shards, pack_arrays
from flarecli.train.generator import Batch
from flarecli.train.sampling import known_depth, measured_alone, sample_colours, sparse_depth

_MIN_OVERLAP = 0.15
_ROUNDS = 4
_SHARD_SCENES = 64
_REAL = 9  # kind of these scenes; the procedural ones count from 0


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """Photos with cameras, and depth where something is known about it.

    Attributes:
        photos: files, upright.
        cameras: of the same photos.
        tracks: sparse points, or None.
        numbers: of the photos in ``tracks``.
        depth_maps: depth per photo that more than the network vouches for, 0 elsewhere; empty or with None where there
            is none.
    """

    photos: tuple[Path, ...]
    cameras: Cameras
    tracks: Tracks | None
    numbers: tuple[int, ...]
    depth_maps: tuple[DepthMap | None, ...] = ()


def read_capture(path: Path) -> Capture:
    """Read a scene folder of flarecli, a COLMAP project or model with ``images`` near it, or a transforms.json.

    Raises:
        InputError: nothing of this kind is there, it is damaged, its photos are missing, or it has fewer than two.
    """
    if (path / ARCHIVE_NAME).is_file():
        capture = _verified(path)
    elif path.suffix == ".json" or (path / "transforms.json").is_file():
        file = path if path.suffix == ".json" else path / "transforms.json"
        _, cameras = read_transforms(file)
        files = tuple(file.parent / frame["file_path"] for frame in load_transforms(file)["frames"])
        capture = Capture(files, cameras, None, tuple(range(len(files))))
    else:
        model = read_colmap(path)
        folder, _ = find_model(path)
        homes = [each / "images" for each in (folder, *folder.parents[:3]) if (each / "images").is_dir()]
        if not homes:
            raise InputError(f"{path} has no folder images with its photos", "put it beside the folder sparse")
        files = tuple(homes[0] / name for name in model.names)
        capture = Capture(files, model.cameras, model.tracks, tuple(range(len(files))))
    missing = [file for file in capture.photos if not file.is_file()]
    if missing:
        raise InputError(f"{path}: the photo {missing[0]} is missing", "put the photos where their cameras name them")
    if len(capture.photos) < 2:
        raise InputError(f"{path} has fewer than two photos with good cameras", "give a scene with more of them")
    return capture


def _verified(path: Path) -> Capture:
    """The photos of a scene folder that matches bear out, with the depth that they measured."""
    scene = load_scene(path)
    keep = np.flatnonzero(scene.verified).tolist()
    files = tuple(path / "images" / scene.image_names[index] for index in keep)
    # The copies in a scene folder are free of the distortion that the archive remembers.
    cameras = Cameras(scene.cameras.c2w[keep], scene.cameras.K[keep], scene.cameras.size_hw[keep])
    depth_maps = tuple(measured_alone(scene.depth_maps[index]) for index in keep)
    return Capture(files, cameras, scene.tracks if len(scene.tracks) else None, tuple(keep), depth_maps)


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """One photo as the network sees it: principal point in the middle, no distortion, landscape storage."""

    rgb: Float[np.ndarray, "H W 3"]
    depth: Float[np.ndarray, "H W"]
    focal: float
    portrait: bool


def capture_shards(
    captures: Sequence[Capture], folder: Path, long_side: int, *, multiple: int = 8, seed: int = 0
) -> int:
    """Write training shards, replacing earlier ones; every photo starts a few sets of overlapping views.

    Args:
        captures: at least one.
        folder: where :class:`flarecli.train.data.ShardSource` will look.
        long_side: width of the stored views in pixels.
        multiple: both sides are multiples of it.
        seed: of the choice of views.

    Returns:
        Number of scenes written.

    Raises:
        InputError: a photo can't be read, no two photos overlap, or the folder holds something else than shards.
    """
    clear_shards(folder)
    folder.mkdir(parents=True)
    rng, total, number = np.random.default_rng(seed), 0, 0
    for capture in captures:
        sizes = [(int(h), int(w)) for h, w in capture.cameras.size_hw]
        canvas = choose_canvas(sizes, long_side, multiple)
        views = [_view(capture, index, canvas) for index in range(len(capture.photos))]
        overlap = _overlaps(capture, views)
        sets = [chosen for _ in range(_ROUNDS) for chosen in _sets(overlap, rng)]
        for start in range(0, len(sets), _SHARD_SCENES):
            batch = _batch(capture, views, overlap, np.array(sets[start : start + _SHARD_SCENES]))
            target = folder / f"shard-{number:05d}"
            target.mkdir()
            for name, array in pack_arrays(batch).items():
                np.save(target / f"{name}.npy", array)
            number, total = number + 1, total + len(batch.kind)
    if not total:
        raise InputError("no two photos of these scenes overlap", "give scenes whose photos share what they see")
    return total


def _view(capture: Capture, index: int, canvas: tuple[int, int]) -> _View:
    K = capture.cameras.K[index]
    k1 = 0.0 if capture.cameras.k1 is None else float(capture.cameras.k1[index])
    height, width = (int(side) for side in capture.cameras.size_hw[index])
    portrait = height > width
    rows, columns = canvas[::-1] if portrait else canvas
    half = min(K[0, 2], width - K[0, 2]), min(K[1, 2], height - K[1, 2]) * K[0, 0] / K[1, 1]
    if min(half) <= 1:
        raise InputError(f"{capture.photos[index]}: its principal point is not inside of the photo", "check its camera")
    scale = max(columns / 2 / half[0], rows / 2 / half[1])
    across, down = scale, scale * K[0, 0] / K[1, 1]
    view_from_photo = np.array(
        [[across, 0, columns / 2 - across * K[0, 2]], [0, down, rows / 2 - down * K[1, 2]], [0, 0, 1.0]]
    )
    seen = photo_pixels(K, k1, map_pixels(np.linalg.inv(view_from_photo), pixel_grid(rows, columns)))
    rgb = _sample(capture.photos[index], (height, width), scale, seen)
    depth = np.zeros((rows, columns))
    if capture.tracks is not None:
        number, w2c = capture.numbers[index], capture.cameras.w2c[index]
        depth = sparse_depth(capture.tracks, number, w2c, view_from_photo, (rows, columns))
    depth = known_depth(capture.depth_maps[index] if capture.depth_maps else None, depth, K, view_from_photo)
    focal = float(scale * K[0, 0] / canvas[1])
    if portrait:
        rgb, depth = rgb.transpose(1, 0, 2), depth.T
    return _View(rgb, depth, focal, portrait)


def _sample(path: Path, size_hw: tuple[int, int], scale: float, pixels: np.ndarray) -> np.ndarray:
    """Colours of a photo at pixels of its full size, bilinear, after shrinking it to about the size of the view."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise InputError(f"can't read the photo {path}: {error}", "convert it to JPEG or PNG") from error
    if picture.size != size_hw[::-1]:
        raise InputError(
            f"{path} has {picture.width}x{picture.height} pixels, its camera {size_hw[1]}x{size_hw[0]}",
            "give the photos that the cameras were made with",
        )
    if scale < 1:
        small = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(small, Image.Resampling.LANCZOS)
    source = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    return sample_colours(source, pixels / np.array(size_hw[::-1])).permute(1, 2, 0).numpy()


def _overlaps(capture: Capture, views: Sequence[_View]) -> np.ndarray:
    """Share of common points, the smaller of both directions; without points, how far the views look alike."""
    count, c2w, w2c = len(views), capture.cameras.c2w, capture.cameras.w2c
    share = np.eye(count)
    for a in range(count):
        world = _world_points(views[a], c2w[a])
        for b in range(count):
            if a == b:
                continue
            if len(world) == 0:
                cosine = float(c2w[a, :3, 2] @ c2w[b, :3, 2])
                share[a, b] = max(0.0, 1 - np.degrees(np.arccos(np.clip(cosine, -1, 1))) / 60)
                continue
            local = world @ w2c[b, :3, :3].T + w2c[b, :3, 3]
            height, width = views[b].depth.shape
            half = (np.array([height, width]) if views[b].portrait else np.array([width, height])) / (2 * width)
            plane = local[:, :2] / np.maximum(local[:, 2:], 1e-9) * views[b].focal
            share[a, b] = ((local[:, 2] > 0) & (np.abs(plane) < half).all(1)).mean()
    return np.minimum(share, share.T)


def _world_points(view: _View, c2w: np.ndarray) -> np.ndarray:
    solid = view.depth > 0
    height, width = view.depth.shape
    plane = (pixel_grid(height, width)[solid] - np.array([width / 2, height / 2])) / (view.focal * width)
    plane = plane[:, ::-1] if view.portrait else plane
    local = np.column_stack([plane, np.ones(len(plane))]) * view.depth[solid][:, None]
    return local @ c2w[:3, :3].T + c2w[:3, 3]


def _sets(overlap: np.ndarray, rng: np.random.Generator) -> list[list[int]]:
    """One set of views per photo: itself and others that share enough with it; a few photos repeat some views."""
    sets = []
    for first in range(len(overlap)):
        others = np.flatnonzero((overlap[first] > _MIN_OVERLAP) & (np.arange(len(overlap)) != first))
        if len(others) == 0:
            continue
        chosen = rng.choice(others, STORED_VIEWS - 1, replace=len(others) < STORED_VIEWS - 1)
        sets.append([first, *chosen.tolist()])
    return sets


def _batch(capture: Capture, views: Sequence[_View], overlap: np.ndarray, sets: np.ndarray) -> Batch:
    c2w = capture.cameras.c2w[sets].astype(np.float32)
    depth = np.stack([[views[i].depth for i in row] for row in sets]).astype(np.float32)
    known = depth[depth > 0]
    unit = float(np.median(known)) if len(known) else 1.0
    c2w[..., :3, 3] /= unit  # half floats, which shards store depth in, want numbers of order one
    rgb = np.stack([[views[i].rgb for i in row] for row in sets]).transpose(0, 1, 4, 2, 3)
    shared = overlap[sets[:, :, None], sets[:, None, :]]
    repeated = (sets[:, :, None] == sets[:, None, :]) & ~np.eye(sets.shape[1], dtype=bool)
    return Batch(
        torch.from_numpy(np.ascontiguousarray(rgb, np.float32)),
        torch.from_numpy(depth / unit),
        torch.from_numpy(c2w),
        torch.tensor([[views[i].focal for i in row] for row in sets]),
        torch.tensor([[views[i].portrait for i in row] for row in sets]),
        torch.from_numpy(np.where(repeated, 0.0, shared).astype(np.float32)),
        torch.full((len(sets),), _REAL),
    )
