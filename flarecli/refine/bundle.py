"""Triangulation of a candidate's matches and robust bundle adjustment in pycolmap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from flarecli.geometry.projection import ideal_pixels
from flarecli.geometry.transforms import align_cameras, invert_rigid
from flarecli.refine.candidate import Candidate, MatchGraph, Pair, pair_inliers
from flarecli.refine.database import image_name
from flarecli.refine.lens import Lenses
from flarecli.refine.mapping import candidate_from_model
from flarecli.scene.reconstruction import Tracks

PhotoPixels = Callable[[int], np.ndarray]
"""Pixels (H, W, 3) of a photo by its number."""

MIN_OBSERVATIONS = 10
"""Sparse points that a photo must see before bundle adjustment may move it."""

_MIN_PAIR_INLIERS = 8
_WORTH_A_ROUND = 1.02  # growth of the agreeing matches that justifies triangulating and adjusting again


@dataclass(frozen=True, slots=True)
class BundleOptions:
    """What may move.

    Attributes:
        refine_focal: adjust unknown focal lengths.
        refine_distortion: adjust the radial term where the focal length is not known for sure.
        fixed_poses: keep all poses (they were given); only points and intrinsics move.
        threads: threads to use.
    """

    refine_focal: bool
    refine_distortion: bool
    fixed_poses: bool
    threads: int


@dataclass(frozen=True, slots=True, eq=False)
class Adjusted:
    """A candidate after bundle adjustment.

    Attributes:
        candidate: its cameras, in the world of the candidate that went in.
        model: the pycolmap model with the tracks, in the same world.
        observations: sparse points that each photo sees.
        error_px: mean reprojection error over all observations.
        options: what was allowed to move.
    """

    candidate: Candidate
    model: pycolmap.Reconstruction
    observations: np.ndarray
    error_px: float
    options: BundleOptions


def adjust(
    graph: MatchGraph, candidate: Candidate, database: Path, folder: Path, options: BundleOptions, rounds: int = 2
) -> Adjusted | None:
    """Triangulate the matches that agree with a candidate and adjust its cameras and points together.

    Photos with fewer than ``MIN_OBSERVATIONS`` points stay out of the adjustment and keep their pose relative to the
    others. Every round looks again which matches agree.

    Returns:
        None where nothing can be triangulated.
    """
    current: Adjusted | None = None
    agreeing = 0
    for _ in range(rounds):
        base = candidate if current is None else current.candidate
        inliers = {pair: good for pair, good in pair_inliers(graph, base).items() if good.sum() >= _MIN_PAIR_INLIERS}
        agreeing, before = sum(int(good.sum()) for good in inliers.values()), agreeing
        if current is not None and agreeing < _WORTH_A_ROUND * before:
            break
        adjusted = _round(graph, base, inliers, database, folder, options)
        if adjusted is None:
            break
        current = adjusted
    return current


def _round(
    graph: MatchGraph,
    candidate: Candidate,
    inliers: Mapping[Pair, np.ndarray],
    database: Path,
    folder: Path,
    options: BundleOptions,
) -> Adjusted | None:
    _write_inliers(database, graph, inliers)
    model = _triangulate(_model(graph, candidate), database, folder, options.threads)
    observed = _observations(model, len(candidate.posed))
    weak = candidate.posed & (observed < MIN_OBSERVATIONS)
    core = candidate.posed & ~weak
    if core.sum() < 2:
        return None
    _release(model, weak)
    bundle_adjuster(model, candidate.lenses, options).solve()
    observations = pycolmap.ObservationManager(model)
    observations.filter_all_points3D(4.0, 0.5)
    model.update_point_3d_errors()
    moved = candidate_from_model(candidate.origin, model, candidate.lenses)
    if not options.fixed_poses:
        sim = align_cameras(moved.c2w[core], candidate.c2w[core])
        model.transform(pycolmap.Sim3d(sim.scale, pycolmap.Rotation3d(sim.rotation), sim.translation))
        moved = candidate_from_model(candidate.origin, model, candidate.lenses)
    c2w = np.where(moved.posed[:, None, None], moved.c2w, candidate.c2w)
    kept = Candidate(candidate.origin, c2w, candidate.posed, moved.lenses)
    error = model.compute_mean_reprojection_error() if model.num_points3D() else np.inf
    return Adjusted(kept, model, _observations(model, len(candidate.posed)), float(error), options)


def _write_inliers(database: Path, graph: MatchGraph, inliers: Mapping[Pair, np.ndarray]) -> None:
    handle = pycolmap.Database.open(database)
    try:
        handle.clear_two_view_geometries()
        for (a, b), good in inliers.items():
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = int(pycolmap.TwoViewGeometryConfiguration.CALIBRATED)
            geometry.inlier_matches = graph.matches[a, b][good].astype(np.uint32)
            handle.write_two_view_geometry(a + 1, b + 1, geometry)
    finally:
        handle.close()


def _model(graph: MatchGraph, candidate: Candidate) -> pycolmap.Reconstruction:
    model = pycolmap.Reconstruction()
    for camera in candidate.lenses.pycolmap_cameras(trust_focal=True):
        model.add_camera_with_trivial_rig(camera)
    w2c = invert_rigid(candidate.c2w)
    for index in np.flatnonzero(candidate.posed).tolist():
        image = pycolmap.Image(
            name=image_name(index),
            keypoints=graph.features[index].xy,
            camera_id=int(candidate.lenses.group[index]) + 1,
            image_id=index + 1,
        )
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(w2c[index, :3, :3]), w2c[index, :3, 3])
        model.add_image_with_trivial_frame(image, pose)
    return model


def _triangulate(model: pycolmap.Reconstruction, database: Path, folder: Path, threads: int) -> pycolmap.Reconstruction:
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.extract_colors, options.min_num_matches = threads, False, _MIN_PAIR_INLIERS
    options.triangulation.ignore_two_view_tracks = False
    options.triangulation.min_angle = 0.5
    options.mapper.filter_min_tri_angle = 0.5
    work = folder / "triangulated"
    work.mkdir(exist_ok=True)
    return pycolmap.triangulate_points(model, database, folder, work, True, options)


def _release(model: pycolmap.Reconstruction, weak: np.ndarray) -> None:
    for index in np.flatnonzero(weak).tolist():
        if model.exists_image(index + 1):
            model.deregister_frame(model.image(index + 1).frame_id)


def bundle_adjuster(
    model: pycolmap.Reconstruction, lenses: Lenses, options: BundleOptions
) -> pycolmap.CeresBundleAdjuster:
    """The adjustment of a model, ready to be solved; known intrinsics and the gauge are held.

    Args:
        model: cameras with points; camera i + 1 is group i of the lenses.
        lenses: that say what is known.
        options: what may move.
    """
    settings = pycolmap.BundleAdjustmentOptions()
    settings.print_summary = False
    settings.refine_principal_point = False
    settings.refine_focal_length = options.refine_focal
    settings.refine_extra_params = options.refine_distortion
    settings.refine_rig_from_world = not options.fixed_poses
    settings.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    settings.ceres.loss_function_scale = 1.0
    settings.ceres.solver_options.num_threads = options.threads
    # COLMAP's own default has no function tolerance and so always runs all its iterations.
    settings.ceres.solver_options.function_tolerance = 1e-6
    config = pycolmap.BundleAdjustmentConfig()
    ids = sorted(model.reg_image_ids())
    for image_id in ids:
        config.add_image(image_id)
    for index in range(len(lenses)):
        if lenses.sigma[index] == 0:
            config.set_constant_cam_intrinsics(index + 1)
    if not options.fixed_poses:
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    return pycolmap.create_default_ceres_bundle_adjuster(settings, config, model)


def _observations(model: pycolmap.Reconstruction, count: int) -> np.ndarray:
    out = np.zeros(count, int)
    for image in model.images.values():
        if image.has_pose:
            out[image.image_id - 1] = image.num_points3D
    return out


def reprojection_px(model: pycolmap.Reconstruction, count: int) -> np.ndarray:
    """Median reprojection error of every photo in pixels; NaN for photos without points."""
    seen = _Observations.of(model)
    out = np.full(count, np.nan)
    for image in model.images.values():
        photo = image.image_id - 1
        chosen = np.flatnonzero(seen.photo == photo)
        if not image.has_pose or not len(chosen):
            continue
        pose, camera = image.cam_from_world().matrix(), image.camera
        local = seen.xyz[seen.point[chosen]] @ pose[:, :3].T + pose[:, 3]
        front = local[:, 2] > 0
        if front.any():
            projected = np.asarray(camera.img_from_cam(local[front]))
            out[photo] = np.median(np.linalg.norm(projected - seen.pixel[chosen[front]], axis=1))
    return out


def tracks_from_model(model: pycolmap.Reconstruction, candidate: Candidate, rgb_of: PhotoPixels) -> Tracks:
    """Sparse points with their observations in ideal pixels, indexed by photo number.

    A point that two features of one photo claim keeps the first of them; points left with one photo are dropped.

    Args:
        model: adjusted model, image i + 1 is photo i.
        candidate: cameras that go with it.
        rgb_of: reads the pixels of a photo, for colours; asked for one photo after the other.
    """
    seen = _Observations.of(model)
    first = np.unique(np.stack([seen.point, seen.photo]), axis=1, return_index=True)[1]
    first = np.sort(first[candidate.posed[seen.photo[first]]])
    lengths = np.bincount(seen.point[first], minlength=len(seen.xyz))
    chosen = first[lengths[seen.point[first]] >= 2]
    kept, index = np.unique(seen.point[chosen], return_inverse=True)
    views, pixels = seen.photo[chosen], seen.pixel[chosen]
    leading = np.unique(index, return_index=True)[1]
    rgb = np.zeros((len(kept), 3), np.uint8)
    for photo in np.unique(views[leading]).tolist():
        points = np.flatnonzero(views[leading] == photo)
        rgb[points] = _colours(rgb_of(photo), pixels[leading[points]])
    for photo in np.unique(views):
        group = candidate.lenses.group[photo]
        of = views == photo
        pixels[of] = ideal_pixels(candidate.lenses.K[group], float(candidate.lenses.k1[group]), pixels[of])
    points = seen.xyz[kept]
    error = track_errors(points, index, views, pixels, candidate)
    return Tracks(points, rgb, error, index, views, pixels)


@dataclass(frozen=True, slots=True, eq=False)
class _Observations:
    """All observations of a model as arrays, in the order of its points: pixel of photo ``photo`` sees ``point``."""

    xyz: np.ndarray
    point: np.ndarray
    photo: np.ndarray
    pixel: np.ndarray

    @staticmethod
    def of(model: pycolmap.Reconstruction) -> _Observations:
        # One look at every point and photo: each single access across the binding costs more than the arithmetic.
        points = list(model.points3D.values())
        tracks = [[(element.image_id, element.point2D_idx) for element in p.track.elements] for p in points]
        lengths = [len(track) for track in tracks]
        flat = np.array([pair for track in tracks for pair in track], np.int64).reshape(-1, 2)
        pixel = np.zeros((len(flat), 2))
        for image_id in np.unique(flat[:, 0]).tolist():
            all_pixels = np.array([point.xy for point in model.image(image_id).points2D]).reshape(-1, 2)
            of = flat[:, 0] == image_id
            pixel[of] = all_pixels[flat[of, 1]]
        xyz = np.array([point.xyz for point in points]).reshape(-1, 3)
        return _Observations(xyz, np.repeat(np.arange(len(points)), lengths), flat[:, 0] - 1, pixel)


def track_errors(
    points: np.ndarray, index: np.ndarray, views: np.ndarray, pixels: np.ndarray, candidate: Candidate
) -> np.ndarray:
    """Mean reprojection error (M,) of points in ideal pixels: observation i sees point ``index[i]`` in ``views[i]``."""
    w2c, K = invert_rigid(candidate.c2w), candidate.lenses.K[candidate.lenses.group]
    camera = np.einsum("oij,oj->oi", w2c[views, :3, :3], points[index]) + w2c[views, :3, 3]
    projected = camera[:, :2] / camera[:, 2:] * K[views][:, [0, 1], [0, 1]] + K[views][:, :2, 2]
    error = np.linalg.norm(projected - pixels, axis=1)
    count = np.maximum(np.bincount(index, minlength=len(points)), 1)
    return np.bincount(index, error, minlength=len(points)) / count


def _colours(rgb: np.ndarray, xy: np.ndarray) -> np.ndarray:
    row = np.clip(xy[:, 1].astype(int), 0, rgb.shape[0] - 1)
    column = np.clip(xy[:, 0].astype(int), 0, rgb.shape[1] - 1)
    return rgb[row, column]
