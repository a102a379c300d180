"""Write a finished scene as a COLMAP model and read it with pycolmap.

Shows: load_scene, write_formats, and that another program sees the same cameras.
Needs: a scene, for example from 01_reconstruct.py: python examples/02_export_to_colmap_and_back.py [SCENE]
Prints: the summary of pycolmap, and the largest difference of a camera.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pycolmap

import flarecli
from flarecli.export import write_formats


def main(folder: Path = Path("scene-01")) -> float:
    """Export into the scene, read back, compare; returns the largest difference of a world-to-camera matrix."""
    scene = flarecli.load_scene(folder)
    write_formats(scene, folder, ["colmap"])
    model = pycolmap.Reconstruction(folder / "sparse" / "0")
    print(model.summary())
    by_name = {image.name: image for image in model.images.values()}
    difference = 0.0
    for name, w2c in zip(scene.image_names, scene.cameras.w2c, strict=True):
        theirs = by_name[name].cam_from_world().matrix()
        difference = max(difference, float(np.abs(theirs - w2c[:3]).max()))
    print(f"largest difference of a camera: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
