"""SIFT features of photos at full resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pycolmap
from jaxtyping import Float
from PIL import Image

from flarecli.images.loading import Photo

_MAX_SIDE = 3200
# Beyond this COLMAP's own default resizes too: more pixels add noise and time, hardly any matches.


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Features of one photo.

    Attributes:
        keypoints: x, y (pixels of the upright photo, pixel centres at 0.5), scale in pixels, orientation in radians.
        descriptors: one row per keypoint, as pycolmap wants them; None where the matches come from elsewhere.
        bitmap_scale: photo pixels per pixel of the picture that SIFT saw; 1 unless the photo was very large.
    """

    keypoints: Float[np.ndarray, "N 4"]
    descriptors: pycolmap.FeatureDescriptors | None
    bitmap_scale: float = 1.0

    @property
    def xy(self) -> Float[np.ndarray, "N 2"]:
        """Keypoint positions in photo pixels, float64."""
        return self.keypoints[:, :2].astype(np.float64)


def extract_features(
    photos: Sequence[Photo],
    *,
    max_features: int,
    threads: int,
    affine: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[Features]:
    """SIFT of every photo, keypoints on masked-out pixels removed.

    Args:
        photos: what to extract from.
        max_features: strongest features to keep per photo.
        threads: photos worked on at once.
        affine: estimate the affine shape and pool over scales: several times slower, but matches across wider angles.
        on_progress: told ("features", done, total).
    """
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads = 1
    options.sift.max_num_features = max_features
    options.sift.estimate_affine_shape = options.sift.domain_size_pooling = affine
    extractor = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)
    done = 0

    def work(photo: Photo) -> Features:
        return _extract_one(photo, extractor)

    out: list[Features] = []
    with ThreadPoolExecutor(threads) as pool:
        for features in pool.map(work, photos):
            out.append(features)
            done += 1
            if on_progress:
                on_progress("features", done, len(photos))
    return out


def _extract_one(photo: Photo, extractor: pycolmap.FeatureExtractor) -> Features:
    picture = Image.fromarray(photo.rgb()).convert("L")
    scale = max(1.0, max(picture.size) / _MAX_SIDE)
    if scale > 1:
        picture = picture.resize((round(picture.width / scale), round(picture.height / scale)), Image.Resampling.BOX)
    factor = np.array([photo.size_hw[1] / picture.width, photo.size_hw[0] / picture.height])
    bitmap = pycolmap.Bitmap.from_array(np.ascontiguousarray(np.asarray(picture)))
    found, descriptors = extractor.extract(bitmap)
    keypoints = np.array(pycolmap.keypoints_to_matrix(found), np.float32)[:, :4].reshape(-1, 4)
    keypoints[:, :2] *= factor
    keypoints[:, 2] *= float(np.sqrt(factor.prod()))
    mask = photo.mask()
    if mask is not None:
        column = np.clip(keypoints[:, 0].astype(int), 0, mask.shape[1] - 1)
        row = np.clip(keypoints[:, 1].astype(int), 0, mask.shape[0] - 1)
        keep = mask[row, column]
        keypoints = keypoints[keep]
        data = np.asarray(descriptors.data)[keep]
        descriptors = pycolmap.FeatureDescriptors()
        descriptors.type, descriptors.data = pycolmap.FeatureExtractorType.SIFT, data
    return Features(keypoints, descriptors, float(factor.mean()))
