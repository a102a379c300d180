"""Spherical harmonics of Gaussians' colours: the basis of 3D Gaussian splatting, and its rotation."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.special import sph_harm_y


def sh_basis(directions: Float[np.ndarray, "N 3"], degree: int) -> Float[np.ndarray, "N D"]:
    """Real spherical harmonics of unit directions, D = (degree + 1)^2, degree by degree and order -l to l.

    Source: the real and imaginary parts of the complex harmonics with the Condon-Shortley phase, times sqrt(2) for
    orders other than 0; the signs of Kerbl et al. 2023, 3D Gaussian Splatting, follow from it.
    """
    x, y, z = np.moveaxis(np.asarray(directions, np.float64), -1, 0)
    polar, azimuth = np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)
    columns = []
    for band in range(degree + 1):
        for order in range(-band, band + 1):
            value = sph_harm_y(band, abs(order), polar, azimuth)
            part = value.imag if order < 0 else value.real
            columns.append(part if order == 0 else np.sqrt(2) * part)
    return np.stack(columns, -1)


def rotate_sh(sh: Float[np.ndarray, "N D 3"], rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "N D 3"]:
    """Colours of Gaussians that are turned with their scene: seen along R d they look as before along d.

    Args:
        sh: coefficients, D = (degree + 1)^2.
        rotation: the new frame from the old one.
    """
    degree = int(np.sqrt(sh.shape[1])) - 1
    directions, inverse = _sampled(degree)
    before = sh_basis(directions @ rotation, degree)
    out = np.array(sh, np.float32)
    for band in range(1, degree + 1):
        part = slice(band**2, (band + 1) ** 2)
        # Harmonics of one degree stay among themselves, so that sampling more directions than there are fixes them.
        turn = inverse[band] @ before[:, part]
        out[:, part] = np.einsum("ij,njc->nic", turn.astype(np.float32), sh[:, part])
    return out


@cache
def _sampled(degree: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Directions spread over the sphere, and the least-squares fit of each degree to values along them."""
    count = 4 * (degree + 1) ** 2
    height = 1 - (2 * np.arange(count) + 1) / count
    turn = np.arange(count) * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - height**2)
    directions = np.stack([radius * np.cos(turn), radius * np.sin(turn), height], -1)
    basis = sh_basis(directions, degree)
    return directions, [np.linalg.pinv(basis[:, band**2 : (band + 1) ** 2]) for band in range(degree + 1)]
