"""The hub type of the project: what photos became, in numpy, read-only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from flarecli.geometry.projection import NEGLIGIBLE_PX, pixel_grid, values_at
from flarecli.scene.arrays import frozen
from flarecli.scene.cameras import Cameras
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.names import stays_inside

Status = Literal["verified", "network-only", "dropped"]


@dataclass(frozen=True, slots=True, eq=False)
class PointCloud:
    """N dense points, each seen first in one photo.

    Attributes:
        xyz: world coordinates.
        rgb: colour.
        confidence: that of the depth map the point comes from (>= 1), higher is better.
        view_index: index of the photo (into ``Reconstruction.image_names``) that the point comes from.
        pixel: ideal pixel of the point in that photo.
    """

    xyz: Float[np.ndarray, "N 3"]
    rgb: UInt8[np.ndarray, "N 3"]
    confidence: Float[np.ndarray, "N"]
    view_index: Int[np.ndarray, "N"]
    pixel: Float[np.ndarray, "N 2"]

    def __post_init__(self) -> None:
        n = len(self.xyz)
        object.__setattr__(self, "xyz", frozen(self.xyz, np.float32, (n, 3), "xyz"))
        object.__setattr__(self, "rgb", frozen(self.rgb, np.uint8, (n, 3), "rgb"))
        object.__setattr__(self, "confidence", frozen(self.confidence, np.float32, (n,), "confidence"))
        object.__setattr__(self, "view_index", frozen(self.view_index, np.int32, (n,), "view_index"))
        object.__setattr__(self, "pixel", frozen(self.pixel, np.float32, (n, 2), "pixel"))

    def __len__(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """M sparse points with O observations in two or more photos each.

    Attributes:
        xyz: world coordinates, float64.
        rgb: colour.
        error_px: mean reprojection error over the observations of the point, in pixels.
        point_index: index into ``xyz`` of each observation.
        view_index: index of the photo of each observation.
        pixel: ideal (distortion-free) pixel of each observation, sub-pixel, pixel centres at 0.5.
    """

    xyz: Float[np.ndarray, "M 3"]
    rgb: UInt8[np.ndarray, "M 3"]
    error_px: Float[np.ndarray, "M"]
    point_index: Int[np.ndarray, "O"]
    view_index: Int[np.ndarray, "O"]
    pixel: Float[np.ndarray, "O 2"]

    def __post_init__(self) -> None:
        m, o = len(self.xyz), len(self.point_index)
        object.__setattr__(self, "xyz", frozen(self.xyz, np.float64, (m, 3), "xyz"))
        object.__setattr__(self, "rgb", frozen(self.rgb, np.uint8, (m, 3), "rgb"))
        object.__setattr__(self, "error_px", frozen(self.error_px, np.float64, (m,), "error_px"))
        object.__setattr__(self, "point_index", frozen(self.point_index, np.int64, (o,), "point_index"))
        object.__setattr__(self, "view_index", frozen(self.view_index, np.int64, (o,), "view_index"))
        object.__setattr__(self, "pixel", frozen(self.pixel, np.float64, (o, 2), "pixel"))
        if o and (self.point_index.min() < 0 or self.point_index.max() >= m):
            raise ValueError("an observation names a point that is not there")
        if m and np.bincount(self.point_index, minlength=m).min() < 2:
            raise ValueError("every track needs at least two observations")
        pairs = self.point_index * (self.view_index.max() + 1 if o else 1) + self.view_index
        if len(np.unique(pairs)) != o:
            raise ValueError("a track may be seen only once per photo")

    def __len__(self) -> int:
        return len(self.xyz)

    @staticmethod
    def empty() -> Tracks:
        """No points."""
        none = np.zeros((0, 3))
        return Tracks(none, none, np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, 2)))


@dataclass(frozen=True, slots=True, eq=False)
class DepthMap:
    """Dense z-depth of one photo, smaller than it, upright.

    Attributes:
        depth: z-depth in world units; 0 where there is none.
        confidence: at least 1. Of a map that is the network's alone, the network's own; of a map with depth measured
            between photos, up to 10 where it is measured and below 2 elsewhere.
        K: intrinsics in the pixels of this map; distortion-free.
        measured: pixels whose depth photos agree on; None for a map that is the network's alone.
    """

    depth: Float[np.ndarray, "H W"]
    confidence: Float[np.ndarray, "H W"]
    K: Float[np.ndarray, "3 3"]
    measured: Bool[np.ndarray, "H W"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", frozen(self.depth, np.float32, (None, None), "depth"))
        object.__setattr__(self, "confidence", frozen(self.confidence, np.float32, self.depth.shape, "confidence"))
        object.__setattr__(self, "K", frozen(self.K, np.float64, (3, 3), "K"))
        if self.measured is not None:
            object.__setattr__(self, "measured", frozen(self.measured, np.bool_, self.depth.shape, "measured"))

    def resampled(self, pixels: Float[np.ndarray, "h w 2"], K: Float[np.ndarray, "3 3"]) -> DepthMap:
        """What the map holds at these of its pixels, by the nearest one, as the map of a camera with intrinsics K.

        Where they are those of the map itself but for a fraction of a pixel, it stays as it is.
        """
        shape = self.depth.shape
        if pixels.shape[:2] == shape and np.abs(pixels - pixel_grid(*shape)).max() < NEGLIGIBLE_PX:
            return replace(self, K=K)
        return DepthMap(
            values_at(self.depth, pixels),
            np.maximum(values_at(self.confidence, pixels), 1),
            K,
            None if self.measured is None else values_at(self.measured, pixels),
        )


@dataclass(frozen=True, slots=True)
class PhotoVerdict:
    """What became of one input photo.

    Attributes:
        name: name of the photo, as in ``Reconstruction.image_names``.
        status: ``verified`` by photo matches, ``network-only``, or ``dropped``.
        reason: one clause for the report; empty for verified photos.
        inliers: sparse points that the photo observes.
        reprojection_px: median reprojection error of those, or None.
        focal_sigma: standard deviation of the logarithm of the focal length that the matches leave; 0 where it was
            given, None where nothing says.
    """

    name: str
    status: Status
    reason: str = ""
    inliers: int = 0
    reprojection_px: float | None = None
    focal_sigma: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reconstruction:
    """A reconstructed scene.

    Attributes:
        image_names: photos with a camera, relative paths with forward slashes, in input order; no dropped photos.
        cameras: their cameras, same order.
        points: dense cloud.
        tracks: sparse points with their observations.
        depth_maps: one per photo of ``image_names``; None entries where a photo has no depth.
        gaussians: Gaussians in the frame of the cameras, or None.
        first_gaussians: Gaussians as the network predicted them, photo by photo, before the depth of other photos is
            heeded (see :func:`flarecli.export.gaussian_files.scene_gaussians`), or None.
        verdicts: one per input photo, dropped ones included.
        confidence: confidence of the whole scene in [0, 1].
        metric_scale: whether the unit of the world is the metre.
        provenance: model, weights, licence, versions and options that made it; JSON values only.
    """

    image_names: tuple[str, ...]
    cameras: Cameras
    points: PointCloud
    tracks: Tracks
    depth_maps: tuple[DepthMap | None, ...] = ()
    gaussians: Gaussians | None = None
    verdicts: tuple[PhotoVerdict, ...] = ()
    confidence: float = 0.0
    metric_scale: bool = False
    first_gaussians: Gaussians | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_views = len(self.image_names)
        if len(self.cameras) != num_views:
            raise ValueError(f"{num_views} image names but {len(self.cameras)} cameras")
        if len(set(self.image_names)) != num_views:
            raise ValueError("image names must be unique")
        for name in self.image_names:
            if not stays_inside(name):  # files are written under these names
                raise ValueError(f"{name!r} is no name of a photo: it leads out of the scene's folder")
        if self.depth_maps and len(self.depth_maps) != num_views:
            raise ValueError(f"{num_views} image names but {len(self.depth_maps)} depth maps")
        for index in (self.points.view_index, self.tracks.view_index):
            if len(index) and (index.min() < 0 or index.max() >= num_views):
                raise ValueError("a point names a photo that is not there")

    def __len__(self) -> int:
        return len(self.image_names)

    @property
    def verified(self) -> Bool[np.ndarray, "V"]:
        """Which photos of ``image_names`` have a camera that photo matches bear out."""
        names = {verdict.name for verdict in self.verdicts if verdict.status == "verified"}
        return np.array([name in names for name in self.image_names], bool)
