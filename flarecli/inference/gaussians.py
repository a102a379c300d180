"""Predicted Gaussians from the camera that saw them into the scene, wherever its camera ended up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from scipy.spatial.transform import Rotation

from flarecli.export.surface import edges, far_limit
from flarecli.geometry.projection import denormalise, ideal_pixels, map_pixels, normalise, pixel_grid, values_at
from flarecli.inference.readout import View
from flarecli.render.rays import place_on_rays
from flarecli.scene.cameras import Cameras
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.reconstruction import DepthMap, Reconstruction
from flarecli.scene.views import GaussianMaps

_MIN_SCALE = 1e-12


def place_gaussians(views: Sequence[View], initial: Reconstruction, final: Reconstruction) -> Gaussians | None:
    """Gaussians of all photos in the world of the final cameras; None where there are none.

    Refinement moves each photo's camera, changes its focal length and its depth map. A photo's Gaussians keep the
    pixels that they project to, take part in the change of depth and turn with the camera. Those that wait for a depth
    get that of the final map; where that is only the network's between measured pixels, they are larger and let more
    through. Those behind their camera and those on pixels without depth (masked ones, for example) are left out, and
    so are unverified photos where others are verified.

    Args:
        views: what the network said, in the world of ``initial``; one per photo.
        initial: the reconstruction before refinement.
        final: the same photos after it; may be ``initial`` itself.
    """
    keep, cameras, far = _shown(final), (initial.cameras, final.cameras), far_limit(final)
    parts = []
    for index, view in enumerate(views):
        old, new = initial.depth_maps[index], final.depth_maps[index]
        if not keep[index] or old is None or new is None:
            continue
        part = None
        if view.on_rays is not None:
            part = _place_on_rays(view.on_rays, (old, new), cameras, index, far)
        elif view.gaussians is not None:
            part = _place(view.gaussians, (old, new), cameras, index)
        if part is not None:
            parts.append(replace(part, view_index=np.full(len(part), index)))
    return Gaussians.joined(parts) if any(map(len, parts)) else None


def _shown(final: Reconstruction) -> Bool[np.ndarray, "V"]:
    return final.verified if final.verified.any() else np.ones(len(final), bool)


def _place(
    gaussians: Gaussians, maps: tuple[DepthMap, DepthMap], cameras: tuple[Cameras, Cameras], photo: int
) -> Gaussians:
    old = maps[0]
    initial, final = cameras
    means = gaussians.means.astype(np.float64)
    photo_from_seen = initial.K[photo] @ np.linalg.inv(old.K)
    at = map_pixels(photo_from_seen, pixel_grid(*old.depth.shape))
    before, after = (_shown_at(each.depth, each, those, photo, at) for each, those in zip(maps, cameras, strict=True))
    ratio = np.divide(after, before, out=np.zeros(before.shape), where=before > 0).ravel()
    good = (means[:, 2] > 0) & (ratio > 0)
    means, ratio = means[good], ratio[good]
    depth = means[:, 2] * ratio
    shown = map_pixels(photo_from_seen, denormalise(old.K, means[:, :2] / means[:, 2:]))
    plane = _plane(final, photo, shown)
    zoom = initial.focal_px[photo] / final.focal_px[photo]
    in_camera = Gaussians(
        np.column_stack([plane * depth[:, None], depth]),
        np.maximum(gaussians.scales[good] * (ratio * zoom)[:, None], _MIN_SCALE),
        gaussians.quats_wxyz[good],
        gaussians.opacities[good],
        gaussians.sh[good],
    )
    return in_camera.moved(final.c2w[photo])


def _place_on_rays(
    maps: GaussianMaps, depth_maps: tuple[DepthMap, DepthMap], cameras: tuple[Cameras, Cameras], photo: int, far: float
) -> Gaussians:
    """Gaussians on the final depth of their pixels, but for edges of the depth, where it is smeared, and the sky."""
    old, new = depth_maps
    initial, final = cameras
    photo_from_seen = initial.K[photo] @ np.linalg.inv(old.K)
    at = map_pixels(photo_from_seen, pixel_grid(*old.depth.shape))
    there = (new.depth > 0) & (new.depth < far)
    depth = _shown_at(np.where(there & ~edges(new), new.depth, 0), new, final, photo, at)
    guessed = np.zeros(new.depth.shape, bool) if new.measured is None else ~new.measured
    unmeasured = _shown_at(guessed, new, final, photo, at)
    K = np.linalg.inv(photo_from_seen) @ final.K[photo]
    rays = _plane(final, photo, at)
    c2w = final.c2w[photo]
    quat = Rotation.from_matrix(c2w[:3, :3]).as_quat(scalar_first=True)
    splats = place_on_rays(
        maps.map(lambda each: each.double()),
        torch.from_numpy(np.concatenate([rays, np.ones_like(rays[..., :1])], -1)),
        torch.from_numpy(depth.astype(np.float64)),
        torch.from_numpy(unmeasured),
        torch.tensor(float(np.sqrt(K[0, 0] * K[1, 1])), dtype=torch.float64),
        torch.from_numpy(quat),
        torch.from_numpy(np.array(c2w, np.float64)),
    )
    return splats.to_gaussians()


def _shown_at(
    values: Shaped[np.ndarray, "h w"],
    depth_map: DepthMap,
    cameras: Cameras,
    photo: int,
    pixels: Float[np.ndarray, "*n 2"],
) -> Shaped[np.ndarray, "*n"]:
    """What a picture in the pixels of a depth map holds where the photo has these of its own, distorted pixels."""
    ideal = denormalise(depth_map.K, _plane(cameras, photo, pixels))
    return values_at(values, ideal)


def _plane(cameras: Cameras, photo: int, pixels: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    """Photo pixels to points on the plane z = 1 of the camera, lens distortion taken out."""
    assert cameras.k1 is not None
    K = cameras.K[photo]
    return normalise(K, ideal_pixels(K, float(cameras.k1[photo]), pixels))
