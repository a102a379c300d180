"""Camera paths for films through a reconstructed scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, Slerp

from flarecli.geometry.transforms import invert_rigid, rigid
from flarecli.scene.reconstruction import Reconstruction

PathKind = Literal["orbit", "between", "spiral"]
_FULL_CIRCLE_DEG, _MIN_SWING_DEG, _MARGIN = 270.0, 30.0, 1.1
_SPIRAL_TURNS, _SPIRAL_RADIUS = 2, 0.12


@dataclass(frozen=True, slots=True, eq=False)
class CameraPath:
    """F cameras of one picture size: world-to-camera matrices and intrinsics in pixels."""

    w2c: Float[np.ndarray, "F 4 4"]
    K: Float[np.ndarray, "F 3 3"]
    size_hw: tuple[int, int]


def make_path(kind: PathKind, reconstruction: Reconstruction, frames: int, size_hw: tuple[int, int]) -> CameraPath:
    """A path around or through the cameras of a scene.

    ``orbit`` goes around what the cameras look at: a full circle where they surround it, else to and fro over the arc
    that they cover, so that the film shows what was photographed. ``between`` passes through the cameras in their
    order. ``spiral`` winds around the mean camera, as wide as an eighth of the distance to what it looks at.

    Args:
        kind: one of the three.
        reconstruction: its cameras and depth maps.
        frames: how many, at least 1.
        size_hw: of the pictures.
    """
    makers = {"orbit": _orbit, "between": _between, "spiral": _spiral}
    c2w = makers[kind](reconstruction, frames)
    cameras = reconstruction.cameras
    focal = float(np.median(cameras.focal_px / cameras.size_hw.max(1))) * max(size_hw)
    K = np.array([[focal, 0, size_hw[1] / 2], [0, focal, size_hw[0] / 2], [0, 0, 1.0]])
    return CameraPath(invert_rigid(c2w), np.tile(K, (frames, 1, 1)), size_hw)


def _focus(reconstruction: Reconstruction) -> tuple[np.ndarray, float]:
    """What the cameras look at, and the median distance to it."""
    cameras = reconstruction.cameras
    depth = np.full(len(cameras), np.nan)
    for view, depth_map in enumerate(reconstruction.depth_maps):
        if depth_map is not None and (depth_map.depth > 0).any():
            depth[view] = np.median(depth_map.depth[depth_map.depth > 0])
    if not np.isfinite(depth).any():
        depth[:] = 1.0
    depth = np.where(np.isfinite(depth), depth, np.nanmedian(depth))
    focus = np.median(cameras.centers + depth[:, None] * cameras.c2w[:, :3, 2], axis=0)
    return focus, float(np.median(np.linalg.norm(cameras.centers - focus, axis=1)))


def _look_at(center: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    forward = (target - center) / max(float(np.linalg.norm(target - center)), 1e-12)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(forward, np.eye(3)[np.argmin(np.abs(forward))])
    right /= np.linalg.norm(right)
    return rigid(np.stack([right, np.cross(forward, right), forward], 1), center)


def _up(reconstruction: Reconstruction) -> np.ndarray:
    up = -reconstruction.cameras.c2w[:, :3, 1].mean(0)
    return up / max(float(np.linalg.norm(up)), 1e-12)


def _around(reconstruction: Reconstruction, focus: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A basis (two directions across the up direction) and the angles of the cameras in it, about their mean."""
    up = _up(reconstruction)
    to_camera = reconstruction.cameras.centers - focus
    flat = to_camera - np.outer(to_camera @ up, up)
    mean = flat.mean(0)
    if np.linalg.norm(mean) < 1e-9 * max(float(np.linalg.norm(flat)), 1e-30):
        mean = flat[0]
    first = mean / max(float(np.linalg.norm(mean)), 1e-30)
    second = np.cross(up, first)
    return first, second, np.degrees(np.arctan2(flat @ second, flat @ first))


def _orbit(reconstruction: Reconstruction, frames: int) -> np.ndarray:
    focus, distance = _focus(reconstruction)
    up = _up(reconstruction)
    first, second, angles = _around(reconstruction, focus)
    height = float(np.median((reconstruction.cameras.centers - focus) @ up))
    radius = np.sqrt(max(distance**2 - height**2, (0.2 * distance) ** 2))
    t = np.arange(frames) / frames
    # The largest gap between neighbouring cameras tells whether they surround the scene.
    gap = np.diff(np.sort(np.concatenate([angles, [angles.min() + 360]]))).max()
    if 360 - gap >= _FULL_CIRCLE_DEG:
        degrees = 360 * t
    else:
        middle, half = (angles.max() + angles.min()) / 2, (angles.max() - angles.min()) / 2
        degrees = middle + max(_MARGIN * half, _MIN_SWING_DEG / 2) * np.sin(2 * np.pi * t)
    turn = np.radians(degrees)[:, None]
    centers = focus + radius * (np.cos(turn) * first + np.sin(turn) * second) + height * up
    return np.stack([_look_at(center, focus, up) for center in centers])


def _between(reconstruction: Reconstruction, frames: int) -> np.ndarray:
    c2w = reconstruction.cameras.c2w
    if len(c2w) == 1:
        return np.repeat(c2w, frames, 0)
    keys = np.arange(len(c2w), dtype=float)
    t = np.linspace(0, keys[-1], frames)
    centers = CubicSpline(keys, c2w[:, :3, 3], bc_type="natural")(t)
    return rigid(Slerp(keys, Rotation.from_matrix(c2w[:, :3, :3]))(t).as_matrix(), centers)


def _spiral(reconstruction: Reconstruction, frames: int) -> np.ndarray:
    focus, distance = _focus(reconstruction)
    up = _up(reconstruction)
    center = np.median(reconstruction.cameras.centers, axis=0)
    start = _look_at(center, focus, up)
    t = 2 * np.pi * np.arange(frames) / frames
    radius = _SPIRAL_RADIUS * distance
    turn = _SPIRAL_TURNS * t
    local = radius * np.stack([np.cos(turn), -0.6 * np.sin(turn), 0.8 * np.sin(t)], 1)
    centers = center + local @ start[:3, :3].T
    return np.stack([_look_at(each, focus, up) for each in centers])
