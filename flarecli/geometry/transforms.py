"""Rigid and similarity transforms in numpy (float64), and conversions between rotation forms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


def invert_rigid(matrix: Float[np.ndarray, "*batch 4 4"]) -> Float[np.ndarray, "*batch 4 4"]:
    """Inverse of rigid 4x4 matrices by transposition, exact where a general inverse is not."""
    rotation_t = np.swapaxes(matrix[..., :3, :3], -1, -2)
    out = np.zeros_like(matrix)
    out[..., :3, :3] = rotation_t
    out[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation_t, matrix[..., :3, 3])
    out[..., 3, 3] = 1.0
    return out


def rigid(rotation: Float[np.ndarray, "*batch 3 3"], translation: Float[np.ndarray, "*batch 3"]) -> np.ndarray:
    """Assemble 4x4 matrices from rotation and translation."""
    rotation = np.asarray(rotation, np.float64)
    out = np.zeros((*rotation.shape[:-2], 4, 4))
    out[..., :3, :3] = rotation
    out[..., :3, 3] = translation
    out[..., 3, 3] = 1.0
    return out


def nearest_rotation(matrix: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Closest proper rotation in the Frobenius norm (orthogonal Procrustes)."""
    u, _, vt = np.linalg.svd(np.asarray(matrix, np.float64))
    sign = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    u[..., :, 2] *= sign[..., None]
    return u @ vt


def exact_rigid(matrices: Float[np.ndarray, "*batch 4 4"]) -> Float[np.ndarray, "*batch 4 4"]:
    """Motions from single precision in double precision, their rotations exactly orthonormal again."""
    out = np.array(matrices, np.float64)
    out[..., :3, :3] = nearest_rotation(out[..., :3, :3])
    return out


def matrix_from_quats_wxyz(quats_wxyz: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rotation matrices of quaternions of any non-zero length, real part first."""
    q = np.asarray(quats_wxyz, np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def quats_wxyz_from_matrix(rotation: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 4"]:
    """Unit quaternions, real part first and non-negative.

    Source: Bar-Itzhack 2000, "New method for extracting the quaternion from a rotation matrix" (stable at 180 degrees).
    """
    r = np.asarray(rotation, np.float64)
    k = np.empty((*r.shape[:-2], 4, 4))
    k[..., 0, 0] = r[..., 0, 0] - r[..., 1, 1] - r[..., 2, 2]
    k[..., 1, 1] = r[..., 1, 1] - r[..., 0, 0] - r[..., 2, 2]
    k[..., 2, 2] = r[..., 2, 2] - r[..., 0, 0] - r[..., 1, 1]
    k[..., 3, 3] = r[..., 0, 0] + r[..., 1, 1] + r[..., 2, 2]
    k[..., 0, 1] = k[..., 1, 0] = r[..., 0, 1] + r[..., 1, 0]
    k[..., 0, 2] = k[..., 2, 0] = r[..., 0, 2] + r[..., 2, 0]
    k[..., 1, 2] = k[..., 2, 1] = r[..., 1, 2] + r[..., 2, 1]
    k[..., 0, 3] = k[..., 3, 0] = r[..., 2, 1] - r[..., 1, 2]
    k[..., 1, 3] = k[..., 3, 1] = r[..., 0, 2] - r[..., 2, 0]
    k[..., 2, 3] = k[..., 3, 2] = r[..., 1, 0] - r[..., 0, 1]
    xyzw = np.linalg.eigh(k)[1][..., :, -1]
    wxyz = np.concatenate([xyzw[..., 3:], xyzw[..., :3]], -1)
    return np.where(wxyz[..., :1] < 0, -wxyz, wxyz)


def rotation_angle_deg(a: Float[np.ndarray, "*batch 3 3"], b: Float[np.ndarray, "*batch 3 3"]) -> np.ndarray:
    """Geodesic distance of rotations in degrees, accurate near 0 and near 180."""
    d = np.swapaxes(a, -1, -2) @ b
    axis = np.stack([d[..., 2, 1] - d[..., 1, 2], d[..., 0, 2] - d[..., 2, 0], d[..., 1, 0] - d[..., 0, 1]], -1)
    return np.degrees(np.arctan2(np.linalg.norm(axis, axis=-1), np.trace(d, axis1=-2, axis2=-1) - 1))


def direction_angle_deg(a: Float[np.ndarray, "*batch 3"], b: Float[np.ndarray, "*batch 3"]) -> np.ndarray:
    """Angle between vectors in degrees; 90 where one of them is zero."""
    cross = np.linalg.norm(np.cross(a, b), axis=-1)
    dot = np.sum(np.asarray(a) * np.asarray(b), axis=-1)
    return np.where((cross == 0) & (dot == 0), 90.0, np.degrees(np.arctan2(cross, dot)))


@dataclass(frozen=True, slots=True, eq=False)
class Sim3:
    """A similarity x -> scale * rotation @ x + translation."""

    scale: float
    rotation: np.ndarray
    translation: np.ndarray

    @staticmethod
    def identity() -> Sim3:
        """The similarity that changes nothing."""
        return Sim3(1.0, np.eye(3), np.zeros(3))

    def apply(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Map points."""
        return self.scale * np.asarray(points) @ self.rotation.T + self.translation

    def apply_to_c2w(self, c2w: Float[np.ndarray, "*batch 4 4"]) -> Float[np.ndarray, "*batch 4 4"]:
        """Map camera-to-world matrices: centres move as points, axes only rotate."""
        return rigid(self.rotation @ c2w[..., :3, :3], self.apply(c2w[..., :3, 3]))

    def compose(self, first: Sim3) -> Sim3:
        """The similarity that applies ``first`` and then this one."""
        return Sim3(
            self.scale * first.scale,
            self.rotation @ first.rotation,
            self.scale * self.rotation @ first.translation + self.translation,
        )

    def inverse(self) -> Sim3:
        """The similarity that undoes this one."""
        rotation = self.rotation.T
        return Sim3(1.0 / self.scale, rotation, -(rotation @ self.translation) / self.scale)


def umeyama(
    source: Float[np.ndarray, "N 3"],
    target: Float[np.ndarray, "N 3"],
    weights: Float[np.ndarray, "N"] | None = None,
) -> Sim3:
    """Least-squares similarity that maps source points onto target points.

    Args:
        source: points to be moved.
        target: where they belong.
        weights: non-negative weight of each pair; None weighs all alike.

    Raises:
        ValueError: fewer than three pairs, or points that coincide or lie on one line.

    Source: Umeyama 1991, eq. 34-43.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or len(source) < 3:
        raise ValueError("a similarity needs at least three point pairs")
    w = np.ones(len(source)) if weights is None else np.asarray(weights, np.float64)
    w = w / w.sum()
    mean_s, mean_t = w @ source, w @ target
    s, t = source - mean_s, target - mean_t
    u, singular, vt = np.linalg.svd((t * w[:, None]).T @ s)
    if singular[1] <= 1e-12 * max(singular[0], 1e-300):
        raise ValueError("the points lie on one line; their similarity is not determined")
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * signs) @ vt
    scale = float((singular * signs).sum() / (w @ (s**2).sum(1)))
    return Sim3(scale, rotation, mean_t - scale * rotation @ mean_s)


def align_cameras(source_c2w: Float[np.ndarray, "V 4 4"], target_c2w: Float[np.ndarray, "V 4 4"]) -> Sim3:
    """Similarity between two sets of the same cameras, using centres and orientations.

    Orientations fix the rotation (chordal mean), centres then scale and translation; so two cameras suffice and cameras
    on one line do no harm.

    Raises:
        ValueError: no cameras, or coincident centres where a scale is needed.
    """
    if len(source_c2w) < 1 or len(source_c2w) != len(target_c2w):
        raise ValueError("both sets need the same cameras")
    rotation = nearest_rotation(np.einsum("vij,vkj->ik", target_c2w[:, :3, :3], source_c2w[:, :3, :3]))
    source, target = source_c2w[:, :3, 3] @ rotation.T, target_c2w[:, :3, 3]
    if len(source) == 1:
        return Sim3(1.0, rotation, target[0] - source[0])
    s, t = source - source.mean(0), target - target.mean(0)
    if not (np.linalg.norm(s) > 0 and np.linalg.norm(t) > 0):
        raise ValueError("the cameras share one centre; their scale is not determined")
    scale = float(np.sum(s * t) / np.sum(s * s))
    if scale <= 0:
        scale = float(np.linalg.norm(t) / np.linalg.norm(s))
    return Sim3(scale, rotation, target.mean(0) - scale * source.mean(0))
