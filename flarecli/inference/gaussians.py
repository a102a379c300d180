"""Predicted Gaussians from the camera that saw them into the scene, wherever its camera ended up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from flarecli.geometry.projection import denormalise, map_pixels, normalise, pixel_grid
from flarecli.inference.readout import View
from flarecli.scene.cameras import Cameras
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.harmonics import rotate_sh
from flarecli.scene.reconstruction import DepthMap, Reconstruction

_MIN_SCALE = 1e-12


def place_gaussians(views: Sequence[View], initial: Reconstruction, final: Reconstruction) -> Gaussians | None:
    """Gaussians of all photos in the world of the final cameras; None where there are none.

    Refinement moves each photo's camera, changes its focal length and its depth map. A photo's Gaussians keep the
    pixels that they project to, take part in the change of depth and turn with the camera. Those behind their camera
    and those on pixels without depth (masked ones, for example) are left out, and so are unverified photos where others
    are verified.

    Args:
        views: what the network said, in the world of ``initial``; one per photo.
        initial: the reconstruction before refinement.
        final: the same photos after it; may be ``initial`` itself.
    """
    keep, cameras = _shown(final), (initial.cameras, final.cameras)
    parts = []
    for index, view in enumerate(views):
        old, new = initial.depth_maps[index], final.depth_maps[index]
        if view.gaussians is not None and keep[index] and old is not None and new is not None:
            parts.append(_place(view.gaussians, (old, new), cameras, index))
    if not any(map(len, parts)):
        return None
    names = ("means", "scales", "quats_wxyz", "opacities", "sh")
    return Gaussians(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _shown(final: Reconstruction) -> Bool[np.ndarray, "V"]:
    status = {verdict.name: verdict.status for verdict in final.verdicts}
    verified = np.array([status.get(name) == "verified" for name in final.image_names])
    return verified if verified.any() else np.ones(len(verified), bool)


def _place(
    gaussians: Gaussians, maps: tuple[DepthMap, DepthMap], cameras: tuple[Cameras, Cameras], photo: int
) -> Gaussians:
    old, new = maps
    initial, final = cameras
    K_old, K_new = initial.K[photo], final.K[photo]
    means = gaussians.means.astype(np.float64)
    new_from_old = new.K @ np.linalg.inv(K_new) @ K_old @ np.linalg.inv(old.K)  # through the pixels of the photo
    ratio = _depth_change(old.depth, new.depth, new_from_old).ravel()
    good = (means[:, 2] > 0) & (ratio > 0)
    means, ratio = means[good], ratio[good]
    depth = means[:, 2] * ratio
    plane = normalise(new.K, map_pixels(new_from_old, denormalise(old.K, means[:, :2] / means[:, 2:])))
    rotation, center = final.c2w[photo, :3, :3], final.c2w[photo, :3, 3]
    zoom = initial.focal_px[photo] / final.focal_px[photo]
    turned = Rotation.from_matrix(rotation) * Rotation.from_quat(gaussians.quats_wxyz[good], scalar_first=True)
    return Gaussians(
        np.column_stack([plane * depth[:, None], depth]) @ rotation.T + center,
        np.maximum(gaussians.scales[good] * (ratio * zoom)[:, None], _MIN_SCALE),
        turned.as_quat(scalar_first=True),
        gaussians.opacities[good],
        rotate_sh(gaussians.sh[good], rotation),
    )


def _depth_change(
    before: Float[np.ndarray, "H W"], after: Float[np.ndarray, "h w"], after_from_before: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "H W"]:
    """Final over initial depth of every pixel of the initial map; 0 where either has none."""
    height, width = before.shape
    found = map_pixels(after_from_before, pixel_grid(height, width))
    column, row = np.floor(found[..., 0]).astype(int), np.floor(found[..., 1]).astype(int)
    inside = (row >= 0) & (row < after.shape[0]) & (column >= 0) & (column < after.shape[1])
    sampled = np.where(inside, after[row.clip(0, after.shape[0] - 1), column.clip(0, after.shape[1] - 1)], 0)
    return np.divide(sampled, before, out=np.zeros(before.shape), where=before > 0)
