"""Features and matches without any error, from the tracks of a synthetic scene."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pycolmap
from scipy.spatial.transform import Rotation

from flarecli.geometry.projection import intrinsics, normalise, photo_pixels
from flarecli.geometry.transforms import align_cameras, rotation_angle_deg
from flarecli.refine.candidate import Candidate, MatchGraph
from flarecli.refine.features import Features
from flarecli.refine.lens import Lenses
from flarecli.scene.cameras import Cameras
from flarecli.scene.reconstruction import Tracks
from tests.synthetic import SyntheticScene, make_scene


@dataclass(frozen=True)
class Exact:
    """A scene, its features, all true matches, true lenses and true cameras."""

    scene: SyntheticScene
    graph: MatchGraph
    lenses: Lenses
    truth: Candidate

    @property
    def cameras(self) -> Cameras:
        return self.scene.reconstruction.cameras

    @property
    def tracks(self) -> Tracks:
        return self.scene.reconstruction.tracks


def descriptors(count: int, seed: int) -> np.ndarray:
    """Random SIFT-like rows: non-negative, of length 512, no two alike."""
    rows = np.random.default_rng(seed).gamma(0.4, size=(count, 128))
    return np.round(512 * rows / np.linalg.norm(rows, axis=1, keepdims=True)).clip(0, 255).astype(np.uint8)


def features_of(xy: np.ndarray, rows: np.ndarray) -> Features:
    described = pycolmap.FeatureDescriptors()
    described.type, described.data = pycolmap.FeatureExtractorType.SIFT, rows
    return Features(np.asarray(xy, np.float64), described)


def lenses_of(cameras: Cameras, sigma: float = 0.0) -> Lenses:
    """One lens for all photos."""
    assert cameras.k1 is not None
    return Lenses(
        np.zeros(len(cameras), int), cameras.size_hw[:1], cameras.K[:1].copy(), cameras.k1[:1].copy(), np.array([sigma])
    )


def exact(
    num_views: int = 4,
    *,
    k1: float = 0.0,
    sigma: float = 0.0,
    num_tracks: int = 300,
    noise_px: float = 0.0,
    arc_deg: float = 30.0,
    seed: int = 0,
) -> Exact:
    scene = make_scene(
        num_views,
        (480, 640),
        seed,
        num_tracks=num_tracks,
        arc_deg=arc_deg,
        depth_scale=0.05,
        k1=k1,
        noise_px=noise_px,
        with_images=False,
    )
    cameras, tracks = scene.reconstruction.cameras, scene.reconstruction.tracks
    table = np.full((num_views, len(tracks)), -1)
    rows, features = descriptors(len(tracks), 1), []
    for view in range(num_views):
        chosen = tracks.view_index == view
        # every photo has its own order of keypoints
        shuffled = np.random.default_rng(view).permutation(int(chosen.sum()))
        points = tracks.point_index[chosen][shuffled]
        table[view, points] = np.arange(len(points))
        xy = photo_pixels(cameras.K[view], k1, tracks.pixel[chosen][shuffled])
        features.append(features_of(xy, rows[points]))
    matches = {}
    for a, b in combinations(range(num_views), 2):
        both = (table[a] >= 0) & (table[b] >= 0)
        if both.any():
            matches[a, b] = np.column_stack([table[a, both], table[b, both]])
    lenses = lenses_of(cameras, sigma)
    truth = Candidate("truth", np.array(cameras.c2w), np.ones(num_views, bool), lenses)
    return Exact(scene, MatchGraph(features, matches), lenses, truth)


def pose_errors(c2w: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Largest rotation error in degrees and largest error of a centre over the spread of the true ones."""
    moved = align_cameras(c2w, truth).apply_to_c2w(c2w)
    spread = np.linalg.norm(truth[:, :3, 3] - truth[:, :3, 3].mean(0), axis=1).max()
    angle = rotation_angle_deg(moved[:, :3, :3], truth[:, :3, :3]).max()
    return float(angle), float(np.linalg.norm(moved[:, :3, 3] - truth[:, :3, 3], axis=1).max() / spread)


def shaken(c2w: np.ndarray, degrees: float, offset: float, seed: int = 0) -> np.ndarray:
    """Cameras turned by so many degrees about random axes and moved by ``offset`` in random directions."""
    rng = np.random.default_rng(seed)
    out = np.array(c2w)
    for matrix in out:
        axis, step = rng.normal(size=(2, 3))
        matrix[:3, :3] = (
            Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix() @ (matrix[:3, :3])
        )
        matrix[:3, 3] += offset * step / np.linalg.norm(step)
    return out


@dataclass(frozen=True)
class TwoViews:
    """Two photos of random points: pixels relative to the principal point, and the true pose of b from a."""

    a: np.ndarray
    b: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    focal_px: float

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.a / self.focal_px, self.b / self.focal_px


def two_views(
    count: int = 200, *, focal_px: float = 600.0, kind: str = "general", noise_px: float = 0.0, seed: int = 0
) -> TwoViews:
    """``kind``: general (turned and moved), forward (only forward, no turn), plane (points on one plane)."""
    rng = np.random.default_rng(seed)
    K = intrinsics(focal_px, (480, 640))
    rotation = Rotation.from_euler("yxz", [14, -6, 5], degrees=True).as_matrix()
    translation = np.array([-1.0, 0.25, 0.35])
    if kind == "forward":
        rotation, translation = np.eye(3), np.array([0.0, 0.0, -1.0])
    pixel = rng.uniform([40, 40], [600, 440], (8 * count, 2))
    depth = rng.uniform(3, 9, 8 * count)
    if kind == "plane":
        plane = normalise(K, pixel)
        depth = 5 / (1 + 0.1 * plane[:, 0] - 0.2 * plane[:, 1])
    points = np.column_stack([normalise(K, pixel), np.ones(len(pixel))]) * depth[:, None]
    moved = points @ rotation.T + translation
    seen = moved[:, :2] / moved[:, 2:] * focal_px
    inside = (moved[:, 2] > 0.5) & (np.abs(seen) < [320, 240]).all(1)
    a, b = (pixel - K[:2, 2])[inside][:count], seen[inside][:count]
    noise = rng.normal(scale=noise_px, size=(2, len(a), 2)) if noise_px else np.zeros((2, len(a), 2))
    return TwoViews(a + noise[0], b + noise[1], rotation, translation / np.linalg.norm(translation), focal_px)
