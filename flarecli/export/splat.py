"""``.splat`` files: 32 bytes per Gaussian without a header, for web viewers.

Three float32 of the centre, three of the (linear) scales, four bytes of RGB and opacity, four of the quaternion w x y z
as 128 q + 128. Colours do not depend on the direction. Large opaque Gaussians come first, so that a viewer shows the
most while it is still loading. The world is the cameras' world.

Source: layout of antimatter15/splat, convert.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flarecli.errors import InputError
from flarecli.scene.gaussians import SH_C0, Gaussians

_ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def write_splat(gaussians: Gaussians, path: Path) -> None:
    """Write Gaussians; spherical harmonics above degree 0 are left out."""
    rows = np.zeros(len(gaussians), _ROW)
    rows["mean"], rows["scale"] = gaussians.means, gaussians.scales
    rows["rgba"][:, :3] = _bytes(255 * (0.5 + SH_C0 * gaussians.sh[:, 0]))
    rows["rgba"][:, 3] = _bytes(255 * gaussians.opacities)
    rows["quat"] = _bytes(128 * gaussians.quats_wxyz + 128)
    size = np.log(gaussians.scales.astype(np.float64)).sum(1) + np.log(np.maximum(gaussians.opacities, 1e-9))
    path.write_bytes(rows[np.argsort(-size, kind="stable")].tobytes())


def read_splat(path: Path) -> Gaussians:
    """Gaussians of degree 0 without those that are not finite.

    Raises:
        InputError: as :func:`load_splat`.
    """
    return load_splat(path)[0]


def load_splat(path: Path) -> tuple[Gaussians, int]:
    """Gaussians of degree 0, and how many were left out because they are not finite or have no size or axes.

    Raises:
        InputError: can't be read, of an odd length, or every row is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}", "check the path and its permissions") from error
    if len(data) % _ROW.itemsize:
        raise InputError(
            f"{path} is no .splat: its length is not a multiple of {_ROW.itemsize} bytes",
            "copy the file again, or write it anew",
        )
    rows = np.frombuffer(data, _ROW)
    quats = (rows["quat"].astype(np.float32) - 128) / 128
    norms = np.linalg.norm(quats, axis=1)
    good = (
        np.isfinite(rows["mean"]).all(1) & np.isfinite(rows["scale"]).all(1) & (rows["scale"] > 0).all(1) & (norms > 0)
    )
    if len(rows) and not good.any():
        raise InputError(
            f"{path} is no .splat: none of its {len(rows)} rows is a Gaussian", "copy the file again, or write it anew"
        )
    rows, quats, norms = rows[good], quats[good], norms[good]
    sh = (rows["rgba"][:, None, :3] / np.float32(255) - 0.5) / SH_C0
    opacities = rows["rgba"][:, 3] / np.float32(255)
    return Gaussians(rows["mean"], rows["scale"], quats / norms[:, None], opacities, sh), int((~good).sum())


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
