"""Prior knowledge about cameras from EXIF, options and files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from flarecli.errors import InputError
from flarecli.geometry.distortion import NEAR_PX, PERSPECTIVE, Distortion, nearest_one_term
from flarecli.geometry.projection import intrinsics
from flarecli.images.loading import Photo
from flarecli.scene.cameras import Cameras
from flarecli.scene.names import match_names
from flarecli.scene.priors import Priors

SharedCamera = Literal["auto", "none", "folder", "all"]

DEFAULT_FOCAL = 0.9
"""Focal length over long side when nothing is known: about 32 mm on 35 mm film, between phones and standard zooms."""

DEFAULT_SIGMA = 0.35
_EXIF_SIGMA = 0.08  # EXIF rounds the focal length, and small crops go unrecorded
_FITTED_SIGMA = 0.02  # of a known lens to which one radial term comes only near: the best single term depends on where
_DIAGONAL_35MM = float(np.hypot(36.0, 24.0))


def collect_priors(
    photos: Sequence[Photo], *, intrinsics_from: str | None, poses: Path | None, shared: SharedCamera
) -> Priors:
    """Everything known about the cameras of these photos.

    Args:
        photos: in order.
        intrinsics_from: a COLMAP model or transforms.json with known intrinsics, "35mm=28" for a known equivalent
            focal length, "exif" to hold EXIF focal lengths fixed, or None to use EXIF as a guess.
        poses: a COLMAP model or transforms.json with known poses, or None.
        shared: which photos share one camera.

    Raises:
        InputError: a file can't be read, does not name every photo, or has cameras that are not perspective.
    """
    sizes = np.array([photo.size_hw for photo in photos])
    K = np.stack([_guess(photo) for photo in photos])
    sigma = np.array([_EXIF_SIGMA if photo.exif_focal_px else DEFAULT_SIGMA for photo in photos])
    k1 = np.zeros(len(photos))
    warnings: tuple[str, ...] = ()
    if intrinsics_from == "exif":
        missing = [photo.name for photo in photos if not photo.exif_focal_px]
        if missing:
            raise InputError(f"{missing[0]} has no EXIF focal length", "leave out --intrinsics exif, or use 35mm=...")
        sigma[:] = 0
    elif intrinsics_from is not None and intrinsics_from.startswith("35mm="):
        diagonal = np.hypot(sizes[:, 0], sizes[:, 1])
        focal = _equivalent_mm(intrinsics_from) / _DIAGONAL_35MM * diagonal
        K = np.stack([intrinsics(float(f), (int(h), int(w))) for f, (h, w) in zip(focal, sizes, strict=True)])
        sigma[:] = 0
    elif intrinsics_from is not None:
        entries = _read(Path(intrinsics_from), photos, "intrinsics")
        K, k1, sigma, warnings = _known_lenses(Path(intrinsics_from), photos, *entries)
    c2w = None
    if poses is not None:
        entries = _read(poses, photos, "poses")
        c2w = entries[0].c2w
        if intrinsics_from is None:
            # A file with poses knows the intrinsics too, and poses are only right together with them.
            K, k1, sigma, warnings = _known_lenses(poses, photos, *entries)
    group = _groups(photos, K, k1, sigma, shared)
    for each in np.unique(group):
        _share(np.flatnonzero(group == each), K, sigma)
    return Priors(group, sizes, K, sigma, k1, c2w, warnings)


def _known_lenses(
    path: Path, photos: Sequence[Photo], cameras: Cameras, distortions: Sequence[Distortion]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """K, k1 and sigma of photos whose lenses a file states, and warnings about those that can't be held as stated.

    Raises:
        InputError: a camera is not perspective, or its distortion folds.
    """
    assert cameras.k1 is not None
    K, k1, sigma = cameras.K.copy(), cameras.k1.copy(), np.zeros(len(photos))
    worst: dict[str, float] = {}
    fits: dict[object, tuple[np.ndarray, float, float]] = {}
    for index, (photo, distortion) in enumerate(zip(photos, distortions, strict=True)):
        if distortion.model not in PERSPECTIVE:
            raise InputError(
                f"{path}: the camera of {photo.name} is {distortion.model}, whose distortion can't be kept",
                "undistort the photos first, for example with `colmap image_undistorter`, and give their new cameras",
            )
        if distortion.one_term:
            continue
        key = (cameras.K[index].tobytes(), distortion, photo.size_hw)
        try:
            fit = fits[key] = fits.get(key) or nearest_one_term(cameras.K[index], distortion, photo.size_hw)
        except ValueError as error:
            raise InputError(
                f"{path}: the camera of {photo.name} is not usable: {error}", "calibrate it again, or undistort first"
            ) from error
        K[index], k1[index], error_px = fit
        if error_px > NEAR_PX:
            sigma[index], worst[photo.name] = _FITTED_SIGMA, error_px
            # Adjusted lenses have one focal length for both axes.
            K[index, 0, 0] = K[index, 1, 1] = np.sqrt(K[index, 0, 0] * K[index, 1, 1])
    if not worst:
        return K, k1, sigma, ()
    first, bulk = next(iter(worst)), f" and {len(worst) - 1} more" if len(worst) > 1 else ""
    warning = (
        f"{path}: one radial term comes only within {max(worst.values()):.1f} px of the distortion of {first}{bulk}; "
        "their lenses are adjusted, not held as given; undistort the photos first to keep them"
    )
    return K, k1, sigma, (warning,)


def _share(members: np.ndarray, K: np.ndarray, sigma: np.ndarray) -> None:
    """Give photos of one camera one guess, in place: that of those which know best."""
    if sigma[members].min() == 0:
        return  # known ones are equal
    best = members[sigma[members] == sigma[members].min()]
    focal = np.exp(np.median(np.log(K[best, 0, 0])))
    K[members, 0, 0] = K[members, 1, 1] = focal
    sigma[members] = sigma[best[0]]


def _equivalent_mm(text: str) -> float:
    match = re.fullmatch(r"35mm=([0-9]+(\.[0-9]*)?)(mm)?", text)
    if match is None or not 1 <= float(match[1]) <= 5000:
        raise InputError(f"--intrinsics {text} is no focal length", "write for example 35mm=28")
    return float(match[1])


def _guess(photo: Photo) -> np.ndarray:
    return intrinsics(photo.exif_focal_px or DEFAULT_FOCAL * max(photo.size_hw), photo.size_hw)


def _groups(
    photos: Sequence[Photo], K: np.ndarray, k1: np.ndarray, sigma: np.ndarray, shared: SharedCamera
) -> np.ndarray:
    keys: list[tuple[object, ...]] = []
    for index, photo in enumerate(photos):
        known = (*np.round(K[index], 3).ravel().tolist(), float(k1[index])) if sigma[index] <= _FITTED_SIGMA else ()
        if shared == "none":
            keys.append((index,))
        elif shared == "folder":
            keys.append((str(PurePosixPath(photo.name).parent), photo.size_hw, *known))
        elif shared == "all":
            keys.append((photo.size_hw, *known))
        else:
            keys.append((photo.size_hw, photo.camera_id, round(photo.exif_focal_px or 0.0, 1), *known))
    order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] for key in keys])


def _read(path: Path, photos: Sequence[Photo], what: str) -> tuple[Cameras, list[Distortion]]:
    names, cameras, distortions = read_camera_file(path)
    originals = [PurePosixPath(photo.name).with_name(photo.path.name).as_posix() for photo in photos]
    entries = match_names([photo.name for photo in photos], names, originals)
    rows: list[int] = []
    for photo in photos:
        if photo.name not in entries:
            raise InputError(
                f"{path} has no {what} for {photo.name}",
                "every photo needs an entry of the same name, with its folder where several photos have one name",
            )
        row = names.index(entries[photo.name])
        if tuple(cameras.size_hw[row]) != photo.size_hw:
            raise InputError(
                f"{path}: {photo.name} is {cameras.size_hw[row][1]}x{cameras.size_hw[row][0]} there, "
                f"but the upright photo is {photo.size_hw[1]}x{photo.size_hw[0]}",
                "give cameras in the pixels of the upright photos",
            )
        rows.append(row)
    return cameras.subset(rows), [distortions[row] for row in rows]


def read_camera_file(path: Path) -> tuple[tuple[str, ...], Cameras, tuple[Distortion, ...]]:
    """Names, cameras and full distortion of a COLMAP model folder or a transforms.json.

    Raises:
        InputError: neither, or damaged.
    """
    from flarecli.export.colmap_read import read_colmap
    from flarecli.export.transforms_json import read_distortions, read_transforms

    if not path.exists():
        raise InputError(f"{path} does not exist", "give a COLMAP model folder or a transforms.json")
    if path.is_dir():
        model = read_colmap(path)
        return model.names, model.cameras, model.distortions
    return *read_transforms(path), read_distortions(path)
