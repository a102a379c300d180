"""Depth maps of verified photos from each other: stereo where photos agree, the network's depth elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from flarecli.geometry.projection import map_intrinsics, photo_pixels, pixel_grid, unproject_depth, values_at
from flarecli.images.loading import Photo
from flarecli.refine.stereo import Picture, Sweep, sweep
from flarecli.scene.cameras import Cameras
from flarecli.scene.reconstruction import DepthMap, Tracks

_MIN_SHARED = 8  # sparse points that two photos must share to serve each other
_GOOD_ANGLE_DEG = (2.0, 35.0)
_MIN_USE = 0.01  # mean use of the shared points: photos from one place measure no depth
_RANGE_MARGIN = 1.3
_AGREE_PX, _AGREE_DEPTH = 1.5, 0.02
_REACH = 0.05  # of the diagonal: how far stereo depth speaks for the network's around it
_STEREO_CONFIDENCE = 9.0  # a perfect match is this much above the least confidence, which is 1


@dataclass(frozen=True, slots=True)
class StereoOptions:
    """How fine to look.

    Attributes:
        long_side: of the depth maps, in pixels.
        sources: photos that each photo is compared with.
        threads: photos worked on at once.
    """

    long_side: int
    sources: int
    threads: int


def stereo_depth(
    photos: Sequence[Photo],
    cameras: Cameras,
    tracks: Tracks,
    depth_maps: Sequence[DepthMap | None],
    verified: Bool[np.ndarray, "V"],
    options: StereoOptions,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> tuple[DepthMap | None, ...]:
    """Depth maps of the whole photos. Where two photos see a pixel alike, its depth is measured.

    Depth counts as measured when the maps of other photos confirm it (of two others where three or more were compared).
    All other pixels keep the network's depth, drawn to the measured depth around, with a confidence below 2. Photos
    that are not verified, or share too few sparse points with others, keep their map.

    Args:
        photos: all photos.
        cameras: their refined cameras.
        tracks: sparse points in the same world.
        depth_maps: depth known so far, on the scale of the cameras.
        verified: photos whose cameras are to be trusted.
        options: how fine to look.
        on_progress: told ("stereo", done, total).
    """
    assert cameras.k1 is not None
    partners = choose_partners(cameras, tracks, verified, options.sources)
    pictures = {view: _picture(photos[view], cameras, view, options.long_side) for view in partners}
    hints = {view: _on_grid(depth_maps[view], pictures[view]) for view in partners}

    def work(view: int) -> Sweep:
        others = [pictures[other] for other in partners[view]]
        return sweep(pictures[view], others, _depth_range(view, cameras, tracks, hints[view][0]), hints[view][0])

    sweeps: dict[int, Sweep] = {}
    before = torch.get_num_threads()
    try:
        # Each photo has a thread of its own; torch adding threads to each would only make them wait for each other.
        with ThreadPoolExecutor(options.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for view, result in zip(partners, pool.map(work, partners), strict=True):
                sweeps[view] = result
                if on_progress:
                    on_progress("stereo", len(sweeps), len(partners))
    finally:
        torch.set_num_threads(before)
    out = list(depth_maps)
    for view, others in partners.items():
        agreeing = np.sum([_agrees(view, other, sweeps, pictures) for other in others], axis=0)
        measured = agreeing >= (2 if len(others) > 2 else 1)
        k1 = float(cameras.k1[view])
        out[view] = _merged(sweeps[view], measured, *hints[view], photos[view], pictures[view].K, k1)
    return tuple(out)


def choose_partners(
    cameras: Cameras, tracks: Tracks, verified: Bool[np.ndarray, "V"], number: int
) -> dict[int, list[int]]:
    """For every verified photo the best others to compare it with; photos without any are left out.

    Pairs are ranked by the sparse points that they share, each weighed by how useful its viewing angle is.
    """
    count = len(cameras)
    value, shared = np.zeros((count, count)), np.zeros((count, count), int)
    rays = cameras.centers[tracks.view_index] - tracks.xyz[tracks.point_index]
    rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
    order = np.argsort(tracks.point_index, kind="stable")
    lengths = np.bincount(tracks.point_index, minlength=len(tracks))
    starts = np.cumsum(lengths) - lengths
    low, high = _GOOD_ANGLE_DEG
    for length in np.unique(lengths).tolist():
        observations = order[starts[lengths == length][:, None] + np.arange(length)]
        views, towards = tracks.view_index[observations], rays[observations]
        angle = np.degrees(np.arccos(np.clip(towards @ towards.swapaxes(1, 2), -1, 1)))
        use = np.minimum(1, angle / low) ** 2 * np.minimum(1, high / np.maximum(angle, 1e-9)) ** 2
        pair = np.broadcast_to(views[:, :, None], use.shape), np.broadcast_to(views[:, None, :], use.shape)
        np.add.at(value, pair, use)
        np.add.at(shared, pair, 1)
    useful = value > _MIN_USE * shared
    allowed = useful & (shared >= _MIN_SHARED) & verified[:, None] & verified & ~np.eye(count, dtype=bool)
    value = np.where(allowed, value, 0)
    ranked = {view: np.argsort(-value[view], kind="stable")[:number].tolist() for view in range(count)}
    chosen = {view: [other for other in others if value[view, other] > 0] for view, others in ranked.items()}
    return {view: others for view, others in chosen.items() if others}


def _picture(photo: Photo, cameras: Cameras, view: int, long_side: int) -> Picture:
    """The photo in grey at the size of its depth map, lens distortion taken out."""
    height, width = photo.size_hw
    scale = min(1.0, long_side / max(height, width))
    small = max(1, round(height * scale)), max(1, round(width * scale))
    grey = photo.decode().rgb.convert("L").resize((small[1], small[0]), Image.Resampling.BOX)
    pixels = np.asarray(grey, np.float32)
    K = map_intrinsics(cameras.K[view], np.diag([small[1] / width, small[0] / height, 1.0]))
    k1 = 0.0 if cameras.k1 is None else float(cameras.k1[view])
    if k1 != 0:
        seen = photo_pixels(K, k1, pixel_grid(*small)) - 0.5  # array index 0 is the pixel centre 0.5
        pixels = map_coordinates(pixels, (seen[..., 1], seen[..., 0]), order=1, mode="nearest")
    return Picture(pixels, K, cameras.c2w[view])


def _on_grid(depth_map: DepthMap | None, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """Depth and confidence of a map at the pixels of a picture; depth 0 where the map does not reach."""
    shape = picture.grey.shape
    if depth_map is None:
        return np.zeros(shape), np.ones(shape)
    map_from_picture = depth_map.K @ np.linalg.inv(picture.K)
    at = pixel_grid(*shape) @ map_from_picture[:2, :2].T + map_from_picture[:2, 2]
    height, width = depth_map.depth.shape
    reached = (at > 0).all(-1) & (at[..., 0] < width) & (at[..., 1] < height)
    nearest = tuple(np.clip(at[..., axis].astype(int), 0, size - 1) for axis, size in ((1, height), (0, width)))
    reached &= depth_map.depth[nearest] > 0
    where = at[..., 1] - 0.5, at[..., 0] - 0.5
    depth = map_coordinates(depth_map.depth.astype(np.float64), where, order=1, mode="nearest")
    confidence = map_coordinates(depth_map.confidence.astype(np.float64), where, order=1, mode="nearest")
    return np.where(reached, depth, 0), np.where(reached, confidence, 1)


def _depth_range(view: int, cameras: Cameras, tracks: Tracks, hint: np.ndarray) -> tuple[float, float]:
    """Nearest and farthest depth of the sparse points of a photo, a margin around them, and of most of its hint."""
    w2c, seen = cameras.w2c[view], tracks.view_index == view
    depth = tracks.xyz[tracks.point_index[seen]] @ w2c[2, :3] + w2c[2, 3]
    near, far = np.percentile(depth[depth > 0], (1, 99))
    low, high = near / _RANGE_MARGIN, far * _RANGE_MARGIN
    if (hint > 0).any():
        hint_near, hint_far = np.percentile(hint[hint > 0], (5, 95))
        # A network that is wrong by more than a factor two says nothing about the range.
        low, high = max(min(low, hint_near), near / 2), min(max(high, hint_far), 2 * far)
    return float(low), float(high)


def _agrees(view: int, other: int, sweeps: dict[int, Sweep], pictures: dict[int, Picture]) -> Bool[np.ndarray, "H W"]:
    """Pixels whose point, seen by the other photo, has the depth that the other's own map shows there.

    Source: J. Schoenberger et al., "Pixelwise view selection for unstructured multi-view stereo", ECCV 2016, section
    on the forward-backward reprojection error.
    """
    here, there = pictures[view], pictures[other]
    points = unproject_depth(sweeps[view].depth, here.K) @ here.c2w[:3, :3].T + here.c2w[:3, 3]
    pixel, z = _seen_by(there, points)
    height, width = there.grey.shape
    inside = (z > 0) & (pixel > 0).all(-1) & (pixel[..., 0] < width) & (pixel[..., 1] < height)
    row = np.clip(np.nan_to_num(pixel[..., 1]).astype(int), 0, height - 1)
    column = np.clip(np.nan_to_num(pixel[..., 0]).astype(int), 0, width - 1)
    surface = unproject_depth(sweeps[other].depth, there.K)[row, column]
    inside &= np.abs(surface[..., 2] - z) < _AGREE_DEPTH * z
    back, _ = _seen_by(here, surface @ there.c2w[:3, :3].T + there.c2w[:3, 3])
    return inside & (np.linalg.norm(back - pixel_grid(*here.grey.shape), axis=-1) < _AGREE_PX)


def _seen_by(picture: Picture, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (H W 2) and z-depths of world points in a picture."""
    local = (points - picture.c2w[:3, 3]) @ picture.c2w[:3, :3]
    plane = local[..., :2] / np.where(local[..., 2:] > 0, local[..., 2:], np.nan)
    return plane * picture.K[[0, 1], [0, 1]] + picture.K[:2, 2], local[..., 2]


def _merged(
    result: Sweep, measured: np.ndarray, hint: np.ndarray, trust: np.ndarray, photo: Photo, K: np.ndarray, k1: float
) -> DepthMap:
    """Measured depth, and the network's around it; nothing where the mask of the photo says so."""
    depth, confidence = _drawn_to(hint, np.where(measured, result.depth, 0)), 2 - 1 / np.maximum(trust, 1)
    depth = np.where(measured, result.depth, depth)
    confidence = np.where(measured, 1 + _STEREO_CONFIDENCE * np.maximum(result.score, 0.1), confidence)
    mask = photo.mask()
    if mask is not None:
        scale = np.array(mask.shape[::-1]) / depth.shape[::-1]
        seen = photo_pixels(K, k1, pixel_grid(*depth.shape)) * scale
        depth = np.where(values_at(mask, seen), depth, 0)
    return DepthMap(depth, confidence, K, measured & (depth > 0))


def _drawn_to(depth: np.ndarray, anchors: np.ndarray) -> Float[np.ndarray, "H W"]:
    """A depth map times a smooth factor that brings it onto the anchors (0 = none) around each pixel."""
    both = (depth > 0) & (anchors > 0)
    if not both.any():
        return depth
    ratio = np.where(both, np.log(np.where(both, anchors, 1) / np.where(both, depth, 1)), 0)
    whole = float(np.median(ratio[both]))
    sigma = _REACH * float(np.hypot(*depth.shape))
    weight = gaussian_filter(both.astype(np.float64), sigma)
    local = gaussian_filter(np.where(both, ratio - whole, 0), sigma) / (weight + 0.05)
    return depth * np.exp(whole + local)
