"""From predictions to one reconstruction in the pixels of the original photos. Torch ends here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flarecli.geometry.projection import intrinsics, map_intrinsics, map_pixels, pixel_grid
from flarecli.geometry.transforms import Sim3, align_cameras, invert_rigid, umeyama
from flarecli.images.loading import Photo
from flarecli.inference.predict import Predicted
from flarecli.inference.readout import View, read_window
from flarecli.scene.cameras import Cameras
from flarecli.scene.priors import Priors
from flarecli.scene.reconstruction import DepthMap, PhotoVerdict, PointCloud, Reconstruction, Tracks

_JOIN_PIXELS = 2000


def assemble(photos: Sequence[Photo], predicted: Predicted, priors: Priors) -> Reconstruction:
    """Join the windows and read cameras, depth and points of every photo.

    Known poses replace the predicted ones, and the geometry is scaled and moved to fit them.

    Args:
        photos: all photos, in order.
        predicted: windows of the network.
        priors: known intrinsics and poses.
    """
    views = join_windows(predicted, priors)
    ordered = [views[index] for index in range(len(photos))]
    c2w = np.stack([view.c2w for view in ordered])
    if priors.c2w is not None:
        sim = _onto(c2w, priors.c2w)
        ordered = [_moved(view, sim) for view in ordered]
        c2w = np.array(priors.c2w)
    else:
        to_first = Sim3(1.0, c2w[0, :3, :3].T, -c2w[0, :3, :3].T @ c2w[0, :3, 3])
        ordered = [_moved(view, to_first) for view in ordered]
        c2w = np.stack([view.c2w for view in ordered])
    maps = predicted.prepared.prepared_from_photo
    K = _photo_intrinsics(ordered, maps, priors)
    cameras = Cameras(c2w, K, priors.size_hw, priors.k1)
    depth_maps = tuple(
        DepthMap(view.depth, view.confidence, map_intrinsics(K[index], maps[index]))
        for index, view in enumerate(ordered)
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
    """Similarity from the same pixels in both windows, re-weighted against the half that fits worst."""
    source, target, weight = [], [], []
    for a, b in zip(moving, fixed, strict=True):
        chosen = np.random.default_rng(0).permutation(a.depth.size)[:_JOIN_PIXELS]
        source.append(a.points.reshape(-1, 3)[chosen])
        target.append(b.points.reshape(-1, 3)[chosen])
        weight.append(np.sqrt(a.confidence.reshape(-1)[chosen] * b.confidence.reshape(-1)[chosen]))
    s, t, w = np.concatenate(source), np.concatenate(target), np.concatenate(weight)
    try:
        sim = umeyama(s, t, w)
        for _ in range(5):
            error = np.linalg.norm(sim.apply(s) - t, axis=1)
            sim = umeyama(s, t, w / (1 + (error / max(np.median(error), 1e-12)) ** 2))
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
    return View(
        view.photo,
        sim.apply_to_c2w(view.c2w),
        view.focal_px,
        sim.apply(view.points),
        view.depth * sim.scale,
        view.confidence,
        view.pose_from,
    )


def _photo_intrinsics(views: Sequence[View], maps: np.ndarray, priors: Priors) -> np.ndarray:
    """K in photo pixels: known ones as they are, else the median focal length of the photos that share a camera."""
    K = np.array(priors.K)
    focal = np.array([view.focal_px / maps[index, 0, 0] for index, view in enumerate(views)])
    for group in np.unique(priors.group):
        members = np.flatnonzero(priors.group == group)
        if priors.sigma[members[0]] > 0:
            typical = float(np.exp(np.median(np.log(focal[members]))))
            for index in members:
                K[index] = intrinsics(typical, (int(priors.size_hw[index, 0]), int(priors.size_hw[index, 1])))
    return K


def dense_points(reconstruction: Reconstruction, rgb_of: Sequence[np.ndarray], keep: np.ndarray) -> PointCloud:
    """The sparse points, and dense points of all depth maps, coloured from the photos.

    A pixel becomes a point where its depth is not at an occlusion edge, its confidence is not among the lowest tenth of
    its photo, and its colour lies inside of the photo.

    Args:
        reconstruction: cameras and depth maps.
        rgb_of: upright, undistorted photos (H, W, 3).
        keep: photos that contribute.
    """
    parts: list[tuple[np.ndarray, ...]] = [_sparse_points(reconstruction)]
    for index, depth_map in enumerate(reconstruction.depth_maps):
        if depth_map is None or not keep[index]:
            continue
        depth = depth_map.depth.astype(np.float64)
        good = (depth > 0) & ~_occlusion_edges(depth)
        if good.any():
            good &= depth_map.confidence >= np.quantile(depth_map.confidence[good], 0.1)
        K, c2w = depth_map.K, reconstruction.cameras.c2w[index]
        grid = pixel_grid(*depth.shape)[good]
        camera = np.concatenate([(grid - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones((len(grid), 1))], 1)
        xyz = (camera * depth[good][:, None]) @ c2w[:3, :3].T + c2w[:3, 3]
        photo_from_map = reconstruction.cameras.K[index] @ np.linalg.inv(K)
        pixel = map_pixels(photo_from_map, grid)
        rgb = rgb_of[index]
        row, column = pixel[:, 1].astype(int), pixel[:, 0].astype(int)
        inside = (row >= 0) & (row < rgb.shape[0]) & (column >= 0) & (column < rgb.shape[1])
        confidence = depth_map.confidence[good]
        views = np.full(int(inside.sum()), index)
        colour = rgb[row[inside], column[inside]]
        parts.append((xyz[inside], colour, confidence[inside], views, pixel[inside]))
    return PointCloud(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _sparse_points(reconstruction: Reconstruction) -> tuple[np.ndarray, ...]:
    """Sparse points as dense ones, at their first observation, as trusted as the best tenth of the network's."""
    tracks = reconstruction.tracks
    _, first = np.unique(tracks.point_index, return_index=True)
    trusted = [np.quantile(depth_map.confidence, 0.9) for depth_map in reconstruction.depth_maps if depth_map]
    confidence = np.full(len(tracks), max([2.0, *map(float, trusted)]))
    return tracks.xyz, tracks.rgb, confidence, tracks.view_index[first], tracks.pixel[first]


def _occlusion_edges(depth: np.ndarray) -> np.ndarray:
    """Pixels next to a jump in depth of more than eight percent."""
    log = np.log(np.where(depth > 0, depth, np.nan))
    edge = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        with np.errstate(invalid="ignore"):
            jump = np.abs(np.diff(log, axis=axis)) > 0.08
        first = [slice(None), slice(None)]
        second = [slice(None), slice(None)]
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        edge[tuple(first)] |= jump
        edge[tuple(second)] |= jump
    return edge


def in_first_frame(reconstruction: Reconstruction) -> Sim3:
    """Similarity that moves the world into the frame of the first photo, unit unchanged."""
    w2c = invert_rigid(reconstruction.cameras.c2w[0])
    return Sim3(1.0, w2c[:3, :3], w2c[:3, 3])
