"""The classical answer to two photos of unknown focal length: SIFT and an essential matrix at COLMAP's guess.

usage: python benchmarks/two_view_line.py PACK... [--focal 1.2]

COLMAP's mappers refuse such pairs; this is what its own parts make of them when the guessed focal length (1.2 times
the long side) is taken for true. A PACK holds images/, cameras.json and subsets.json; its pairs are measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import fmean

import numpy as np
import pycolmap

from flarecli.evaluate.metrics import auc, missing_pose, pair_errors


def relative_pose(folder: Path, names: list[str], focal: float) -> np.ndarray:
    """World-to-camera (2, 4, 4) of two photos, the first one at the origin; missing where nothing was found."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "pair.db"
        pycolmap.extract_features(path, folder, image_names=names, camera_mode=pycolmap.CameraMode.PER_IMAGE)
        options = pycolmap.FeatureMatchingOptions()
        options.skip_geometric_verification = True
        pycolmap.match_exhaustive(path, matching_options=options)
        database = pycolmap.Database.open(path)
        images = {image.name: image for image in database.read_all_images()}
        a, b = (images[name] for name in names)
        points = [np.array(database.read_keypoints(image.image_id))[:, :2].astype(np.float64) for image in (a, b)]
        cameras = [database.read_camera(image.camera_id) for image in (a, b)]
        matches = np.array(database.read_matches(a.image_id, b.image_id))
        database.close()
    for camera in cameras:
        camera.params = [focal * max(camera.width, camera.height), camera.width / 2, camera.height / 2, 0.0]
    first, second = cameras
    if len(matches):
        settings = pycolmap.TwoViewGeometryOptions()
        settings.ransac.random_seed = 1
        found = pycolmap.estimate_calibrated_two_view_geometry(first, points[0], second, points[1], matches, settings)
        if pycolmap.estimate_two_view_geometry_pose(first, points[0], second, points[1], found):
            pose = np.eye(4)
            pose[:3] = found.cam2_from_cam1.matrix()
            return np.stack([np.eye(4), pose])
    return np.stack([np.eye(4), missing_pose()])


def main() -> None:
    """Measure all pairs and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="+", type=Path)
    parser.add_argument("--focal", type=float, default=1.2)
    options = parser.parse_args()
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    everything = []
    for pack in options.packs:
        truth = {camera["name"]: camera for camera in json.loads((pack / "cameras.json").read_text())["images"]}
        rows = []
        for subset in json.loads((pack / "subsets.json").read_text())["subsets"]:
            if subset["n"] != 2 or subset["kind"] == "all":
                continue
            w2c = np.tile(np.eye(4), (2, 1, 1))
            for pose, name in zip(w2c, subset["images"], strict=True):
                pose[:3, :3], pose[:3, 3] = truth[name]["R"], truth[name]["t"]
            rotation, direction = pair_errors(relative_pose(pack / "images", subset["images"], options.focal), w2c)
            worse = np.maximum(rotation, direction)
            rows.append((auc(worse, 5), auc(worse, 30)))
        everything += rows
        print(f"{pack.name}: AUC@5 {fmean(r[0] for r in rows):.1f}, AUC@30 {fmean(r[1] for r in rows):.1f}", flush=True)
    print(f"{len(everything)} pairs: AUC@5 {fmean(r[0] for r in everything):.1f}, ", end="")
    print(f"AUC@30 {fmean(r[1] for r in everything):.1f}")


if __name__ == "__main__":
    main()
