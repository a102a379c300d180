"""SIFT features of photos at full resolution.

pycolmap's extractor object keeps Python's lock while it works, so that photos would wait for each other; its extraction
into a database does not. Every photo gets a temporary database of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

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
        xy: pixels of the upright photo, pixel centres at 0.5.
        descriptors: one row per keypoint, as pycolmap wants them; None where the matches come from elsewhere.
    """

    xy: Float[np.ndarray, "N 2"]
    descriptors: pycolmap.FeatureDescriptors | None


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
    options.num_threads, options.use_gpu = 1, False
    options.sift.max_num_features = max_features
    options.sift.estimate_affine_shape = options.sift.domain_size_pooling = affine

    def work(photo: Photo) -> Features:
        return _extract_one(photo, options)

    out: list[Features] = []
    with ThreadPoolExecutor(threads) as pool:
        for features in pool.map(work, photos):
            out.append(features)
            if on_progress:
                on_progress("features", len(out), len(photos))
    return out


def _extract_one(photo: Photo, options: pycolmap.FeatureExtractionOptions) -> Features:
    picture = Image.fromarray(photo.rgb()).convert("L")
    scale = max(1.0, max(picture.size) / _MAX_SIDE)
    if scale > 1:
        picture = picture.resize((round(picture.width / scale), round(picture.height / scale)), Image.Resampling.BOX)
    factor = np.array([photo.size_hw[1] / picture.width, photo.size_hw[0] / picture.height])
    xy, descriptors = _sift(picture, options)
    xy *= factor
    mask = photo.mask()
    if mask is not None:
        column = np.clip(xy[:, 0].astype(int), 0, mask.shape[1] - 1)
        row = np.clip(xy[:, 1].astype(int), 0, mask.shape[0] - 1)
        keep = mask[row, column]
        xy, data = xy[keep], np.asarray(descriptors.data)[keep]
        descriptors = pycolmap.FeatureDescriptors()
        descriptors.type, descriptors.data = pycolmap.FeatureExtractorType.SIFT, data
    return Features(xy, descriptors)


def _sift(
    picture: Image.Image, options: pycolmap.FeatureExtractionOptions
) -> tuple[Float[np.ndarray, "N 2"], pycolmap.FeatureDescriptors]:
    """Places of keypoints in pixels of the picture, and their descriptors."""
    with tempfile.TemporaryDirectory(prefix="flare-features-") as name:
        folder = Path(name)
        picture.save(folder / "photo.bmp")
        pycolmap.extract_features(
            folder / "features.db",
            folder,
            image_names=["photo.bmp"],
            extraction_options=options,
            device=pycolmap.Device.cpu,
        )
        database = pycolmap.Database.open(folder / "features.db")
        try:
            keypoints = np.array(database.read_keypoints(1), np.float64).reshape(-1, 6)
            return keypoints[:, :2], database.read_descriptors(1)
        finally:
            database.close()
