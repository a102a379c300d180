"""Cameras from one prediction: focal length, pose and scale of every view, read from its point maps.

The published program trusts either the pose head or PnP alone, and its pose scale and point scale differ. Here both
propose, all in the unit of the global point map, and the one whose camera projects that point map best onto its own
pixels is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import poselib
from jaxtyping import Float

from flarecli.geometry.projection import focal_from_pointmap, intrinsics, map_intrinsics, pixel_grid
from flarecli.geometry.transforms import exact_rigid, invert_rigid, rigid, umeyama
from flarecli.inference.predict import Window
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.views import GaussianMaps

_MAX_PIXELS = 3000
_MAX_POINTS = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One view of a window, upright, in the unit and frame of the window's global point map.

    Attributes:
        photo: index of the photo.
        c2w: pose in the frame of the window's reference.
        focal_px: focal length in prepared pixels.
        points: global point map.
        depth: z-depth from the camera-centric map, scaled to the global one.
        confidence: of the global map.
        pose_from: "head", "pnp" or "procrustes".
        proposals: the poses by these names that ``c2w`` was chosen from; they stay in the frame of the window's
            reference when the view is moved.
        gaussians: one per pixel in row-major order, in the camera's own frame, or None where the network has none.
        on_rays: instead of those, upright Gaussians that wait for the depth of their pixels.
    """

    photo: int
    c2w: Float[np.ndarray, "4 4"]
    focal_px: float
    points: Float[np.ndarray, "H W 3"]
    depth: Float[np.ndarray, "H W"]
    confidence: Float[np.ndarray, "H W"]
    pose_from: str
    proposals: Mapping[str, np.ndarray]
    gaussians: Gaussians | None = None
    on_rays: GaussianMaps | None = None


def read_window(
    window: Window, portrait: np.ndarray, prepared_from_photo: np.ndarray, K_photo: np.ndarray, known: np.ndarray
) -> list[View]:
    """Views of a window.

    Args:
        window: a prediction.
        portrait: which photos are stored transposed.
        prepared_from_photo: pixel map of every photo.
        K_photo: prior intrinsics of every photo.
        known: photos whose intrinsics are known exactly.
    """
    prediction = window.prediction
    local, points = prediction.points_local.numpy(), prediction.points_global.numpy()
    weight, weight_local = prediction.confidence_global.numpy(), prediction.confidence_local.numpy()
    head = exact_rigid(prediction.refined_c2w.numpy())
    views = []
    for row, photo in enumerate(window.photos):
        turn = bool(portrait[photo])
        maps = [_upright(values[row], turn) for values in (local, points, weight, weight_local)]
        K = map_intrinsics(K_photo[photo], prepared_from_photo[photo])
        head_focal = None if prediction.focal is None else float(prediction.focal[row]) * max(local.shape[1:3])
        view = _read_view(photo, maps, head, row, K if known[photo] else None, head_focal)
        if prediction.gaussians is not None:
            parts = prediction.gaussians.map(lambda each, row=row: each[row])
            upright = parts.map(lambda each: each.transpose(0, 1)) if turn else parts
            own = {"on_rays": upright} if parts.on_rays else {"gaussians": _in_camera(view, upright)}
            view = replace(view, **own)
        views.append(view)
    return views


def _in_camera(view: View, maps: GaussianMaps) -> Gaussians:
    """Upright Gaussians of one view, moved from the window's frame into that of the view's camera."""
    quats_wxyz = maps.quats_wxyz.reshape(-1, 4).numpy().astype(np.float64)
    length = np.linalg.norm(quats_wxyz, axis=1, keepdims=True)
    # A raw quaternion of zeros says nothing; any orientation does for it.
    quats_wxyz = np.where(length > 0.5, quats_wxyz, np.array([1.0, 0.0, 0.0, 0.0]))
    from_camera = view.points.reshape(-1, 3) - view.c2w[:3, 3]
    gaussians = Gaussians(
        np.nan_to_num(from_camera, nan=0.0, posinf=0.0, neginf=0.0),
        np.maximum(maps.scales.reshape(-1, 3).numpy(), 1e-12),
        quats_wxyz,
        maps.opacities.reshape(-1).numpy(),
        maps.sh.flatten(0, 1).numpy(),
    )
    return gaussians.moved(rigid(view.c2w[:3, :3].T, np.zeros(3)))


def with_pose(view: View, c2w: Float[np.ndarray, "4 4"]) -> View:
    """The view with its camera elsewhere; its points and Gaussians stay where they are.

    Args:
        view: any.
        c2w: the new pose, in the world of the old one.
    """
    depth = ((view.points - c2w[:3, 3]) @ c2w[:3, :3])[..., 2]
    gaussians = None if view.gaussians is None else view.gaussians.moved(invert_rigid(c2w) @ view.c2w)
    return replace(view, c2w=c2w, depth=np.maximum(np.nan_to_num(depth, posinf=0.0), 0.0), gaussians=gaussians)


def _upright(values: np.ndarray, portrait: bool) -> np.ndarray:
    return np.swapaxes(values, 0, 1) if portrait else values


def _read_view(
    photo: int,
    maps: list[np.ndarray],
    head: np.ndarray,
    row: int,
    K_known: np.ndarray | None,
    head_focal: float | None,
) -> View:
    local, points, weight, weight_local = (np.asarray(values, np.float64) for values in maps)
    size_hw = points.shape[0], points.shape[1]
    if K_known is not None:
        K = K_known
    else:
        centre = (size_hw[1] / 2, size_hw[0] / 2)
        try:
            focal = focal_from_pointmap(local, centre, weight_local - 1 + 1e-3)
        except ValueError:
            focal = head_focal or 0.9 * max(size_hw)
        if head_focal is not None:
            focal = float(np.sqrt(max(focal, 1e-6) * head_focal))
        K = intrinsics(float(np.clip(focal, 0.3 * max(size_hw), 6 * max(size_hw))), size_hw)
    chosen = np.random.default_rng(0).permutation(points[..., 0].size)[:_MAX_PIXELS]
    pixel, xyz = pixel_grid(*size_hw).reshape(-1, 2)[chosen], points.reshape(-1, 3)[chosen]
    near, trust = local.reshape(-1, 3)[chosen], weight.reshape(-1)[chosen]
    good = np.isfinite(xyz).all(1) & np.isfinite(near).all(1) & (near[:, 2] > 0)
    candidates = _pose_candidates(head, row, K, (pixel[good], xyz[good], near[good], trust[good]))
    scores = {name: _misfit(pose, K, pixel[good], xyz[good]) for name, pose in candidates.items()}
    best = min(scores, key=lambda name: scores[name])
    c2w = candidates[best]
    z_global = (xyz[good] - c2w[:3, 3]) @ c2w[:3, 2]
    ratio = z_global / np.maximum(near[good][:, 2], 1e-9)
    scale = float(np.median(ratio[ratio > 0])) if (ratio > 0).any() else 1.0
    depth = np.where(local[..., 2] > 0, local[..., 2] * scale, 0.0)
    focal = float(np.sqrt(K[0, 0] * K[1, 1]))
    return View(photo, c2w, focal, points, np.nan_to_num(depth, posinf=0.0), weight, best, candidates)


def _pose_candidates(
    head: np.ndarray, row: int, K: np.ndarray, sample: tuple[np.ndarray, ...]
) -> dict[str, np.ndarray]:
    pixel, xyz, near, trust = sample
    out = {}
    relative = invert_rigid(head[0]) @ head[row]
    out["head"] = _scaled_head(relative, xyz, near)
    if len(xyz) >= 50:
        camera = {"model": "PINHOLE", "width": int(2 * K[0, 2]), "height": int(2 * K[1, 2])}
        camera["params"] = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
        threshold = 0.02 * 2 * float(K[:2, 2].max())
        pose, _ = poselib.estimate_absolute_pose(
            pixel, xyz, camera, {"max_reproj_error": threshold, "max_iterations": 1000, "seed": 0}, {}
        )
        if np.isfinite(pose.R).all() and np.isfinite(pose.t).all():
            out["pnp"] = invert_rigid(rigid(np.asarray(pose.R), np.asarray(pose.t)))
        try:
            sim = umeyama(near, xyz, np.maximum(trust - 1, 1e-3))
            out["procrustes"] = rigid(sim.rotation, sim.translation)
        except ValueError:
            pass  # a degenerate point map has no orientation; the other two still propose
    return out


def _scaled_head(relative: np.ndarray, xyz: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The pose head's camera with its translation in the unit of the point map: xyz = a R near + b t, for a, b."""
    if len(xyz) < 10 or not np.linalg.norm(relative[:3, 3]) > 1e-9:
        return relative
    turned = near @ relative[:3, :3].T
    basis = np.stack([turned, np.broadcast_to(relative[:3, 3], turned.shape)], -1).reshape(-1, 2)
    solution = np.linalg.lstsq(basis, xyz.reshape(-1), rcond=None)[0]
    out = relative.copy()
    out[:3, 3] *= max(float(solution[1]), 1e-6)
    return out


def _misfit(c2w: np.ndarray, K: np.ndarray, pixel: np.ndarray, xyz: np.ndarray) -> float:
    """Mean reprojection error, truncated at a tenth of the image; points behind the camera count in full."""
    limit = 0.2 * float(K[:2, 2].max())
    camera = (xyz - c2w[:3, 3]) @ c2w[:3, :3]
    depth = np.maximum(camera[:, 2], 1e-9)
    error = np.linalg.norm(camera[:, :2] / depth[:, None] * K[[0, 1], [0, 1]] + K[:2, 2] - pixel, axis=1)
    return float(np.where(camera[:, 2] > 0, np.minimum(error, limit), limit).mean()) if len(pixel) else limit
