"""From predictions to one reconstruction in the pixels of the original photos. Torch ends here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.ndimage import median_filter

from flarecli.geometry.projection import intrinsics, map_intrinsics, photo_pixels, pixel_grid
from flarecli.geometry.transforms import Sim3, align_cameras, umeyama
from flarecli.images.loading import Photo
from flarecli.inference.predict import Predicted
from flarecli.inference.readout import View, read_window
from flarecli.scene.cameras import Cameras
from flarecli.scene.priors import CALIBRATED, Priors
from flarecli.scene.reconstruction import DepthMap, PhotoVerdict, PointCloud, Reconstruction, Tracks

_JOIN_PIXELS = 2000
_JOIN_ROUNDS = 10
_GRAIN_PX = 5  # window of the median


def assemble(photos: Sequence[Photo], predicted: Predicted, priors: Priors) -> Reconstruction:
    """Join the windows and read cameras, depth and points of every photo.

    Args:
        photos: all photos, in order.
        predicted: windows of the network.
        priors: known intrinsics and poses.
    """
    return assemble_views(photos, scene_views(predicted, priors), predicted, priors)


def scene_views(predicted: Predicted, priors: Priors) -> list[View]:
    """Views of all photos in one world: that of the known poses, or the frame of the first photo.

    Args:
        predicted: windows of the network; every photo is in at least one.
        priors: known intrinsics and poses.
    """
    views = join_windows(predicted, priors)
    ordered = [views[index] for index in sorted(views)]
    c2w = np.stack([view.c2w for view in ordered])
    if priors.c2w is not None:
        sim = _onto(c2w, priors.c2w)
    else:
        sim = Sim3(1.0, c2w[0, :3, :3].T, -c2w[0, :3, :3].T @ c2w[0, :3, 3])
    return [_moved(view, sim) for view in ordered]


def assemble_views(
    photos: Sequence[Photo], views: Sequence[View], predicted: Predicted, priors: Priors
) -> Reconstruction:
    """Cameras and depth of every photo; known poses replace the predicted ones.

    Args:
        photos: all photos, in order.
        views: one per photo, from :func:`scene_views`.
        predicted: windows of the network, for what it saw of the photos.
        priors: known intrinsics and poses.
    """
    c2w = np.stack([view.c2w for view in views]) if priors.c2w is None else np.array(priors.c2w)
    maps = predicted.prepared.prepared_from_photo
    K = _photo_intrinsics(views, maps, priors)
    cameras = Cameras(c2w, K, priors.size_hw, priors.k1)
    depth_maps = tuple(
        _without_distortion(_cleaned(view.depth, predicted, index), view.confidence, cameras, index, maps[index])
        for index, view in enumerate(views)
    )
    names = tuple(photo.name for photo in photos)
    verdicts = tuple(PhotoVerdict(name, "network-only", "not checked against photo matches") for name in names)
    empty = np.zeros((0, 3))
    return Reconstruction(
        image_names=names,
        cameras=cameras,
        points=PointCloud(empty, empty, np.zeros(0), np.zeros(0), np.zeros((0, 2))),
        tracks=Tracks.empty(),
        depth_maps=depth_maps,
        verdicts=verdicts,
    )


def _without_distortion(
    depth: np.ndarray, confidence: np.ndarray, cameras: Cameras, photo: int, map_from_photo: np.ndarray
) -> DepthMap:
    """The map of an ideal camera from that of what the network saw, the photo with whatever distortion is known."""
    assert cameras.k1 is not None
    K = map_intrinsics(cameras.K[photo], map_from_photo)
    pixels = photo_pixels(K, float(cameras.k1[photo]), pixel_grid(*depth.shape))
    return DepthMap(depth, confidence, K).resampled(pixels, K)


def _cleaned(depth: np.ndarray, predicted: Predicted, index: int) -> np.ndarray:
    """Upright depth of a photo without the grain of single pixels, 0 where its mask says to ignore the pixel."""
    # Upsampling leaves a few percent of grain, which would tear every mesh; the median keeps steps between surfaces.
    depth = np.where(depth > 0, median_filter(depth, _GRAIN_PX), 0)
    masks = predicted.prepared.masks
    if masks is None:
        return depth
    use = masks[index].numpy()
    return np.where(use.T if predicted.prepared.views.portrait[index] else use, depth, 0)


def join_windows(predicted: Predicted, priors: Priors) -> dict[int, View]:
    """Views of all photos in the frame of the first window; later windows are moved by the photos they share."""
    portrait = predicted.prepared.views.portrait.numpy()
    out: dict[int, View] = {}
    for window in predicted.windows:
        views = read_window(window, portrait, predicted.prepared.prepared_from_photo, priors.K, priors.known)
        shared = [view for view in views if view.photo in out]
        sim = _joint(shared, [out[view.photo] for view in shared]) if shared else Sim3.identity()
        for view in views:
            out.setdefault(view.photo, _moved(view, sim))
    return out


def _joint(moving: Sequence[View], fixed: Sequence[View]) -> Sim3:
    """Similarity from the same pixels in both windows, re-weighted against the half that fits worst.

    Errors count relative to depth, and only the surer half of the pixels counts: each window guesses skies and far
    backgrounds anew, and their leverage would otherwise decide the scale.
    """
    source, target, weight, depth = [], [], [], []
    for a, b in zip(moving, fixed, strict=True):
        s, t, d = a.points.reshape(-1, 3), b.points.reshape(-1, 3), b.depth.reshape(-1)
        w = np.sqrt(a.confidence.reshape(-1) * b.confidence.reshape(-1))
        usable = np.flatnonzero(np.isfinite(np.concatenate([s, t, w[:, None]], 1)).all(1) & (d > 0))
        usable = usable[w[usable] >= np.median(w[usable])] if len(usable) else usable
        chosen = np.random.default_rng(0).permutation(usable)[:_JOIN_PIXELS]
        source.append(s[chosen])
        target.append(t[chosen])
        weight.append(w[chosen])
        depth.append(d[chosen])
    s, t, w, d = (np.concatenate(parts) for parts in (source, target, weight, depth))
    try:
        sim = umeyama(s, t, w / d**2)
        for _ in range(_JOIN_ROUNDS):
            error = np.linalg.norm(sim.apply(s) - t, axis=1) / d
            sim = umeyama(s, t, w / d**2 / (1 + (error / max(np.median(error), 1e-12)) ** 2))
    except ValueError:
        return _onto(np.stack([v.c2w for v in moving]), np.stack([v.c2w for v in fixed]))
    return sim


def _onto(source_c2w: np.ndarray, target_c2w: np.ndarray) -> Sim3:
    """Similarity between the same cameras; where either set shares one centre, the unit stays as it is."""
    try:
        return align_cameras(source_c2w, target_c2w)
    except ValueError:
        return align_cameras(source_c2w[:1], target_c2w[:1])


def _moved(view: View, sim: Sim3) -> View:
    gaussians = view.gaussians
    if gaussians is not None:  # they are in the camera's frame, where a similarity only scales
        gaussians = replace(gaussians, means=gaussians.means * sim.scale, scales=gaussians.scales * sim.scale)
    return replace(
        view,
        c2w=sim.apply_to_c2w(view.c2w),
        points=sim.apply(view.points),
        depth=view.depth * sim.scale,
        gaussians=gaussians,
    )


def _photo_intrinsics(views: Sequence[View], maps: np.ndarray, priors: Priors) -> np.ndarray:
    """K in photo pixels: known ones, also those from EXIF, as they are; else the network's median per camera."""
    K = np.array(priors.K)
    focal = np.array([view.focal_px / maps[index, 0, 0] for index, view in enumerate(views)])
    for group in np.unique(priors.group):
        members = np.flatnonzero(priors.group == group)
        if priors.sigma[members[0]] > CALIBRATED:
            typical = float(np.exp(np.median(np.log(focal[members]))))
            for index in members:
                K[index] = intrinsics(typical, (int(priors.size_hw[index, 0]), int(priors.size_hw[index, 1])))
    return K
