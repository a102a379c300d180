"""The temporary COLMAP database through which pycolmap matches features and maps photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pycolmap

from flarecli.refine.features import Features
from flarecli.refine.lens import Lenses

Pair = tuple[int, int]


def write_database(path: Path, features: Sequence[Features], lenses: Lenses, *, trust_focal: bool) -> None:
    """Write cameras, photos and features; photo i becomes image i + 1, named by its index.

    Args:
        path: file to write; replaced when there.
        features: one per photo.
        lenses: starting intrinsics and which photos share them.
        trust_focal: mark focal lengths as known, so that pairs are verified by essential matrices.
    """
    path.unlink(missing_ok=True)
    database = pycolmap.Database.open(path)
    try:
        for camera in lenses.pycolmap_cameras(trust_focal=trust_focal):
            database.write_camera(camera, use_camera_id=True)
            rig = pycolmap.Rig()
            rig.rig_id = camera.camera_id
            rig.add_ref_sensor(camera.sensor_id)
            database.write_rig(rig, use_rig_id=True)
        for index, found in enumerate(features):
            camera_id = int(lenses.group[index]) + 1
            image = pycolmap.Image(name=image_name(index), camera_id=camera_id, image_id=index + 1)
            database.write_image(image, use_image_id=True)
            frame = pycolmap.Frame()
            frame.frame_id, frame.rig_id = index + 1, camera_id
            frame.add_data_id(pycolmap.data_t(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, camera_id), index + 1))
            database.write_frame(frame, use_frame_id=True)
            database.write_keypoints(index + 1, found.xy.astype(np.float32))
            if found.descriptors is not None:
                database.write_descriptors(index + 1, found.descriptors)
    finally:
        database.close()


def image_name(index: int) -> str:
    """Name of photo ``index`` in the database; plain, so that no photo name can upset it."""
    return f"{index:06d}"


def match_pairs(path: Path, pairs: Sequence[Pair], threads: int) -> dict[Pair, np.ndarray]:
    """Match the features of these pairs; returns keypoint indices, M x 2, per pair with any match."""
    listing = path.with_suffix(".pairs.txt")
    listing.write_text("".join(f"{image_name(a)} {image_name(b)}\n" for a, b in pairs))
    options = pycolmap.FeatureMatchingOptions()
    options.num_threads = threads
    options.skip_geometric_verification = True
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = listing
    pycolmap.match_image_pairs(path, matching_options=options, pairing_options=pairing)
    database = pycolmap.Database.open(path)
    try:
        found = {(a, b): np.array(database.read_matches(a + 1, b + 1)) for a, b in pairs}
    finally:
        database.close()
    return {pair: matches.astype(np.int64) for pair, matches in found.items() if len(matches)}


def write_matches(path: Path, matches: Mapping[Pair, np.ndarray]) -> None:
    """Write keypoint indices of matched pairs, M x 2 each."""
    database = pycolmap.Database.open(path)
    try:
        for (a, b), indices in matches.items():
            database.write_matches(a + 1, b + 1, indices.astype(np.uint32))
    finally:
        database.close()


def update_cameras(path: Path, lenses: Lenses, *, trust_focal: bool) -> None:
    """Replace the intrinsics in the database and forget the verified pairs made with the old ones."""
    database = pycolmap.Database.open(path)
    try:
        for camera in lenses.pycolmap_cameras(trust_focal=trust_focal):
            database.update_camera(camera)
        database.clear_two_view_geometries()
    finally:
        database.close()


def verify_pairs(path: Path, threads: int, seed: int) -> None:
    """Geometric verification of all matched pairs, as COLMAP's mappers expect it."""
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = seed
    verifier = pycolmap.GeometricVerifierOptions()
    verifier.num_threads = threads
    pycolmap.geometric_verification(path, verifier_options=verifier, two_view_geometry_options=options)
