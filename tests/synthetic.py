"""Small exact scenes: cameras on an arc around a textured sphere before a tilted, textured wall.

Everything is analytic: depth by ray casting, tracks by projection with an occlusion test, images by casting the rays of
every pixel. World = frame of camera 0 (OpenCV axes), unit arbitrary; the sphere's centre is about 4 units away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flarecli.geometry.projection import ideal_pixels, intrinsics, normalise, pixel_grid, project, unproject_depth
from flarecli.geometry.transforms import rigid
from flarecli.scene.cameras import Cameras
from flarecli.scene.gaussians import SH_C0, Gaussians
from flarecli.scene.reconstruction import DepthMap, PhotoVerdict, PointCloud, Reconstruction, Tracks

SPHERE_CENTER = np.array([0.1, -0.05, 4.0])
SPHERE_RADIUS = 0.9
WALL_POINT = np.array([0.0, 0.0, 6.0])
WALL_NORMAL = np.array([0.15, -0.3, -1.0]) / np.linalg.norm([0.15, -0.3, -1.0])


@dataclass(frozen=True)
class SyntheticScene:
    """An exact reconstruction and its photos (uint8 H W 3, with the lens distortion of its cameras)."""

    reconstruction: Reconstruction
    images: list[np.ndarray]

    def write_images(self, folder: Path) -> list[Path]:
        """Write the photos as PNG under their names in the reconstruction; returns the paths."""
        paths = [folder / name for name in self.reconstruction.image_names]
        for path, image in zip(paths, self.images, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        return paths


def cast_rays(origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Distance along each direction (N 3) to the nearest surface in multiples of the direction; inf if none."""
    toward = origin - SPHERE_CENTER
    a = np.sum(directions**2, -1)
    b = directions @ toward
    discriminant = b**2 - a * (toward @ toward - SPHERE_RADIUS**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        sphere = (-b - np.sqrt(discriminant)) / a
        wall = ((WALL_POINT - origin) @ WALL_NORMAL) / (directions @ WALL_NORMAL)
    sphere = np.where((discriminant > 0) & (sphere > 0), sphere, np.inf)
    return np.minimum(sphere, np.where(wall > 0, wall, np.inf))


def texture(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """Colour in [0, 1] of world points (N 3): blobs of several sizes, different in every place."""
    rng = np.random.default_rng(seed)
    at = points.astype(np.float32)
    colour = np.full((*points.shape[:-1], 3), 0.5, np.float32)
    for frequency, strength in ((2.0, 0.18), (6.0, 0.18), (14.0, 0.16)):
        for _ in range(4):
            wave, bend = rng.normal(size=(2, 3)).astype(np.float32) * np.float32(frequency)
            phase = at @ wave + 1.5 * np.sin(at @ (0.37 * bend) + rng.uniform(0, 6))
            tint = strength * rng.uniform(0.3, 1, 3) * rng.choice([-1, 1], 3)
            colour += np.sin(phase)[..., None] * tint.astype(np.float32)
    return np.clip(colour, 0, 1)


def _arc_cameras(num_views: int, size_hw: tuple[int, int], arc_deg: float, k1: float) -> Cameras:
    """Cameras on an arc around the sphere, camera 0 at the origin with its axes along the world's."""
    c2w = [np.eye(4)]
    for i in range(1, num_views):
        angle, lift = np.radians(arc_deg) * i / (num_views - 1), np.radians(4 * np.sin(2.1 * i))
        turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
        tilt = np.array([[1, 0, 0], [0, np.cos(lift), -np.sin(lift)], [0, np.sin(lift), np.cos(lift)]])
        center = SPHERE_CENTER - (1 + 0.05 * np.sin(3.0 * i)) * (turn @ tilt @ SPHERE_CENTER)
        forward = (SPHERE_CENTER - center) / np.linalg.norm(SPHERE_CENTER - center)
        right = np.cross([0.08 * np.sin(i), 1.0, 0.0], forward)
        right /= np.linalg.norm(right)
        c2w.append(rigid(np.stack([right, np.cross(forward, right), forward], 1), center))
    height, width = size_hw
    K = np.stack([intrinsics(1.1 * max(size_hw), size_hw)] * num_views)
    K[:, 0, 2] += 0.004 * width
    return Cameras(np.stack(c2w), K, np.tile([height, width], (num_views, 1)), np.full(num_views, k1))


def _pixel_depths(c2w: np.ndarray, K: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Exact z-depths of the surfaces seen at ideal pixels (N 2)."""
    rays = np.concatenate([normalise(K, pixels), np.ones((len(pixels), 1))], 1)
    return cast_rays(c2w[:3, 3], rays @ c2w[:3, :3].T)


def _world_points(c2w: np.ndarray, K: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Surface points (N 3) seen at ideal pixels (N 2)."""
    rays = np.concatenate([normalise(K, pixels), np.ones((len(pixels), 1))], 1)
    return rays * _pixel_depths(c2w, K, pixels)[:, None] @ c2w[:3, :3].T + c2w[:3, 3]


def _render(cameras: Cameras, view: int, seed: int) -> np.ndarray:
    """The photo of one camera, 2 x 2 rays per pixel, as its lens shows it."""
    height, width = cameras.size_hw[view]
    assert cameras.k1 is not None
    K, k1 = cameras.K[view], float(cameras.k1[view])
    fine = pixel_grid(2 * height, 2 * width).reshape(-1, 2) / 2
    colour = texture(_world_points(cameras.c2w[view], K, ideal_pixels(K, k1, fine)), seed)
    colour = colour.reshape(height, 2, width, 2, 3).mean((1, 3))
    return np.round(255 * colour).astype(np.uint8)


def _depth_map(cameras: Cameras, view: int, depth_scale: float) -> DepthMap:
    """Exact depth on a grid of the photo's size times depth_scale; confidence 1.5 at the sphere's rim, else 5."""
    height, width = np.maximum(np.round(cameras.size_hw[view] * depth_scale), 2).astype(int)
    scale = np.array([width, height]) / cameras.size_hw[view][::-1]
    K = np.diag([*scale, 1.0]) @ cameras.K[view]
    depth = _pixel_depths(cameras.c2w[view], K, pixel_grid(height, width).reshape(-1, 2)).reshape(height, width)
    rim = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        step = np.abs(np.diff(depth, axis=axis)) > 0.15
        rim |= np.insert(step, 0, False, axis) | np.insert(step, step.shape[axis], False, axis)
    return DepthMap(depth, np.where(rim, 1.5, 5.0), K)


def _tracks(cameras: Cameras, num_points: int, seed: int, noise_px: float) -> Tracks:
    """Surface points with their projections into every photo that sees them; at least two each."""
    rng = np.random.default_rng(seed)
    num_views = len(cameras)
    starts = [
        _world_points(c2w, K, rng.uniform(2, size_hw[::-1] - 2, (2 * num_points // num_views + 1, 2)))
        for c2w, K, size_hw in zip(cameras.c2w, cameras.K, cameras.size_hw, strict=True)
    ]
    xyz = rng.permutation(np.concatenate(starts))
    pixels, seen = np.zeros((num_views, len(xyz), 2)), np.zeros((num_views, len(xyz)), bool)
    for view in range(num_views):
        pixel, depth = project(xyz, cameras.w2c[view], cameras.K[view])
        inside = (
            (depth > 0) & (np.nan_to_num(pixel, nan=-1) > 1).all(1) & (pixel < cameras.size_hw[view][::-1] - 1).all(1)
        )
        surface = np.full(len(xyz), np.nan)
        surface[inside] = _pixel_depths(cameras.c2w[view], cameras.K[view], pixel[inside])
        pixels[view], seen[view] = pixel, inside & (np.abs(surface / depth - 1) < 1e-6)
    keep = np.flatnonzero(seen.sum(0) >= 2)[:num_points]
    xyz, pixels, seen = xyz[keep], pixels[:, keep], seen[:, keep]
    point_index, view_index = np.nonzero(seen.T)
    noise = rng.normal(scale=noise_px, size=(len(point_index), 2)) if noise_px else np.zeros((len(point_index), 2))
    error = np.bincount(point_index, np.linalg.norm(noise, axis=1), len(xyz)) / np.bincount(
        point_index, minlength=len(xyz)
    )
    rgb = np.round(255 * texture(xyz, seed)).astype(np.uint8)
    return Tracks(xyz, rgb, error, point_index, view_index, pixels[view_index, point_index] + noise)


def _dense_points(cameras: Cameras, depth_maps: list[DepthMap], seed: int) -> PointCloud:
    """One point per pixel of every depth map."""
    xyz, confidence, view_index, pixel = [], [], [], []
    for view, depth_map in enumerate(depth_maps):
        cam = unproject_depth(depth_map.depth.astype(np.float64), depth_map.K).reshape(-1, 3)
        xyz.append(cam @ cameras.c2w[view, :3, :3].T + cameras.centers[view])
        confidence.append(depth_map.confidence.ravel())
        view_index.append(np.full(len(cam), view))
        size = np.array(depth_map.depth.shape)
        pixel.append(pixel_grid(*size).reshape(-1, 2) * (cameras.size_hw[view] / size)[::-1])
    points = np.concatenate(xyz)
    rgb = np.round(255 * texture(points, seed)).astype(np.uint8)
    return PointCloud(points, rgb, np.concatenate(confidence), np.concatenate(view_index), np.concatenate(pixel))


def make_gaussians(num: int = 50, sh_degree: int = 1, seed: int = 0) -> Gaussians:
    """Random but valid Gaussians with anisotropic scales and all coefficients filled."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(num, 4))
    sh = 0.2 * rng.normal(size=(num, (sh_degree + 1) ** 2, 3)) / SH_C0
    return Gaussians(
        rng.normal(size=(num, 3)) + SPHERE_CENTER,
        np.exp(rng.uniform(-5, -1, (num, 3))),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        rng.uniform(0.01, 0.99, num),
        sh,
    )


def make_scene(
    num_views: int = 4,
    size_hw: tuple[int, int] = (96, 128),
    seed: int = 0,
    *,
    num_tracks: int = 200,
    arc_deg: float = 30.0,
    depth_scale: float = 0.5,
    k1: float = 0.0,
    noise_px: float = 0.0,
    with_images: bool = True,
) -> SyntheticScene:
    """An exact scene; the same arguments give the same scene.

    Args:
        num_views: photos, at least 2.
        size_hw: their size.
        seed: of texture, tracks and noise.
        num_tracks: sparse points at most.
        arc_deg: angle between the first and the last camera as the sphere sees them.
        depth_scale: depth maps have this fraction of the photo's size.
        k1: lens distortion of the photos; depth maps, tracks and points stay in ideal pixels.
        noise_px: standard deviation of Gaussian noise on the tracks' pixels, per axis.
        with_images: render the photos; without, ``images`` is empty.
    """
    cameras = _arc_cameras(num_views, size_hw, arc_deg, k1)
    depth_maps = [_depth_map(cameras, view, depth_scale) for view in range(num_views)]
    tracks = _tracks(cameras, num_tracks, seed, noise_px)
    names = tuple(f"photo_{view:02d}.png" for view in range(num_views))
    counts = np.bincount(tracks.view_index, minlength=num_views)
    reconstruction = Reconstruction(
        image_names=names,
        cameras=cameras,
        points=_dense_points(cameras, depth_maps, seed),
        tracks=tracks,
        depth_maps=tuple(depth_maps),
        verdicts=tuple(
            PhotoVerdict(name, "verified", inliers=int(n), reprojection_px=float(noise_px))
            for name, n in zip(names, counts, strict=True)
        ),
        confidence=1.0,
        provenance={"model": "synthetic", "seed": seed},
    )
    views = range(num_views) if with_images else ()
    return SyntheticScene(reconstruction, [_render(cameras, view, seed) for view in views])
