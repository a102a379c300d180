"""The check of every export of Gaussians: do they, read back from the file, look like the photos?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flarecli.appearance.photos import load_views, show
from flarecli.export.gaussian_files import read_gaussians
from flarecli.render.quality import psnr
from flarecli.render.splats import Splats
from flarecli.scene.reconstruction import Reconstruction

LONG_SIDE = 160
_MAX_PHOTOS = 8


def render_back(scene: Path, reconstruction: Reconstruction, files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Render files of Gaussians at 160 pixels from at most eight of the scene's cameras, evenly chosen.

    The photos are those that the Gaussians were made of: this finds files in a wrong frame or with wrong activations,
    and says nothing about new views.

    Returns:
        For the name of every file ``psnr_db`` (the mean), ``photos`` (name -> dB) and ``long_side``.

    Raises:
        InputError: a file or a photo can't be read.
    """
    count = min(_MAX_PHOTOS, len(reconstruction))
    chosen = np.linspace(0, len(reconstruction) - 1, count).round().astype(int)
    names = [reconstruction.image_names[index] for index in chosen]
    views = load_views(scene, reconstruction, LONG_SIDE, names=names)
    out = {}
    for path in files:
        splats = Splats.of(read_gaussians(path))
        with torch.no_grad():
            scores = {view.name: psnr(show(splats, view).color[0], view.rgb, view.weight) for view in views}
        out[path.name] = {
            "psnr_db": round(float(np.mean(list(scores.values()))), 3),
            "long_side": LONG_SIDE,
            "photos": {name: round(score, 3) for name, score in scores.items()},
        }
    return out
