"""An exact scene with landscape and portrait photos of several sizes, and what the study of it must say."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flarecli.adapt.study import Study, study_of
from flarecli.images.loading import load_photos
from flarecli.images.preparing import prepare
from flarecli.inference.predict import Predicted
from flarecli.scene.reconstruction import PhotoVerdict, PointCloud, Reconstruction
from tests.inference.perfect import cameras_of
from tests.synthetic import _depth_map, _render, _tracks

SIZES = ((96, 128), (96, 128), (160, 120), (96, 128), (140, 105))
CANVAS = (72, 96)
_RIM = 1.5  # confidence of the exact maps at edges, where photos would not agree


@dataclass
class Exact:
    """The truth, the folder of photos, and the study made of both."""

    reconstruction: Reconstruction
    study: Study
    folder: Path


@pytest.fixture(scope="session")
def exact(tmp_path_factory) -> Exact:
    cameras, folder = cameras_of(SIZES), tmp_path_factory.mktemp("mixed")
    for view in range(len(SIZES)):
        Image.fromarray(_render(cameras, view, 0)).save(folder / f"{view:02d}.png")
    photos = load_photos([folder]).photos
    names = tuple(photo.name for photo in photos)
    none = np.zeros((0, 3))
    whole = (_depth_map(cameras, view, 1.0) for view in range(len(SIZES)))
    depth_maps = tuple(replace(each, measured=each.confidence > _RIM) for each in whole)
    reconstruction = Reconstruction(
        image_names=names,
        cameras=cameras,
        points=PointCloud(none, none, np.zeros(0), np.zeros(0), np.zeros((0, 2))),
        tracks=_tracks(cameras, 150, 0, 0.0),
        depth_maps=depth_maps,
        verdicts=tuple(PhotoVerdict(name, "verified") for name in names),
    )
    return Exact(reconstruction, study_of(reconstruction, Predicted((), prepare(photos, CANVAS))), folder)
