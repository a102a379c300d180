"""Metrics of cameras, depth and points against a reference (numpy, float64).

A photo without a camera enters as a w2c of NaN and fails with 180 degrees in every pair it belongs to.

Source of the relative-pose protocol: PoseDiffusion, arXiv 2306.15667, section 4 (RRA, RTA, mAA), with the one-degree
bins of VGGSfM, arXiv 2312.04563, section 4.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from flarecli.geometry.transforms import Sim3, direction_angle_deg, invert_rigid, rotation_angle_deg

FAILED_DEG = 180.0
ACCURACY_THRESHOLDS_DEG = (5, 15, 30)
AUC_THRESHOLDS_DEG = (3, 5, 10, 30)
MIN_BASELINE = 1e-3  # of the median baseline: shorter ones have no direction
NO_MOTION = 1e-12


def missing_pose() -> Float[np.ndarray, "4 4"]:
    """The w2c that stands for a photo without a camera."""
    return np.full((4, 4), np.nan)


def registered(w2c: Float[np.ndarray, "V 4 4"]) -> Bool[np.ndarray, "V"]:
    """Which photos have a camera."""
    return np.asarray(np.isfinite(w2c).all((1, 2)))


def pair_errors(
    predicted_w2c: Float[np.ndarray, "V 4 4"], reference_w2c: Float[np.ndarray, "V 4 4"]
) -> tuple[Float[np.ndarray, "P"], Float[np.ndarray, "P"]]:
    """Errors of the relative rotation and of the direction of the relative translation, in degrees.

    The P = V (V - 1) / 2 unordered pairs come in lexicographic order. The direction is signed. Where the reference
    baseline is shorter than a thousandth of the median one, only the rotation counts; a predicted baseline of zero
    fails.

    Args:
        predicted_w2c: NaN where a photo has no camera.
        reference_w2c: all finite.
    """
    first, second = np.triu_indices(len(reference_w2c), 1)
    rotation_deg = np.full(len(first), FAILED_DEG)
    direction_deg = np.full(len(first), FAILED_DEG)
    if len(first) == 0:
        return rotation_deg, direction_deg
    centers = invert_rigid(reference_w2c)[:, :3, 3]
    baseline = np.linalg.norm(centers[first] - centers[second], axis=1)
    shortest = max(MIN_BASELINE * np.median(baseline), 1e-9 * np.abs(centers).max())
    has_camera = registered(predicted_w2c)
    both = np.flatnonzero(has_camera[first] & has_camera[second])
    i, j = first[both], second[both]
    predicted, reference = (w2c[j] @ invert_rigid(w2c[i]) for w2c in (predicted_w2c, reference_w2c))
    rotation_deg[both] = rotation_angle_deg(predicted[:, :3, :3], reference[:, :3, :3])
    angle = direction_angle_deg(predicted[:, :3, 3], reference[:, :3, 3])
    moved = np.linalg.norm(predicted[:, :3, 3], axis=1) > NO_MOTION
    direction_deg[both] = np.where(baseline[both] <= shortest, rotation_deg[both], np.where(moved, angle, FAILED_DEG))
    return rotation_deg, direction_deg


def auc(error_deg: Float[np.ndarray, "P"], threshold_deg: int) -> float:
    """Area under the accuracy curve up to a threshold, one-degree bins, in percent; NaN without pairs."""
    if len(error_deg) == 0:
        return float("nan")
    share = np.histogram(error_deg, bins=np.arange(threshold_deg + 1))[0] / len(error_deg)
    return float(100 * np.cumsum(share).mean())


def pose_metrics(
    predicted_w2c: Float[np.ndarray, "V 4 4"], reference_w2c: Float[np.ndarray, "V 4 4"]
) -> dict[str, float]:
    """RRA, RTA and AUC in percent, median errors in degrees, ATE, and the numbers of photos and pairs."""
    rotation_deg, direction_deg = pair_errors(predicted_w2c, reference_w2c)
    worst_deg = np.maximum(rotation_deg, direction_deg)
    has_pairs = len(worst_deg) > 0
    out: dict[str, float] = {
        "photos": len(reference_w2c),
        "pairs": len(worst_deg),
        "registered": int(registered(predicted_w2c).sum()),
    }
    for threshold in ACCURACY_THRESHOLDS_DEG:
        out[f"RRA@{threshold}"] = float(100 * np.mean(rotation_deg < threshold)) if has_pairs else float("nan")
        out[f"RTA@{threshold}"] = float(100 * np.mean(direction_deg < threshold)) if has_pairs else float("nan")
    for threshold in AUC_THRESHOLDS_DEG:
        out[f"AUC@{threshold}"] = auc(worst_deg, threshold)
    out["rotation_median_deg"] = float(np.median(rotation_deg)) if has_pairs else float("nan")
    out["translation_median_deg"] = float(np.median(direction_deg)) if has_pairs else float("nan")
    return out | trajectory_error(predicted_w2c, reference_w2c)


def trajectory_error(
    predicted_w2c: Float[np.ndarray, "V 4 4"], reference_w2c: Float[np.ndarray, "V 4 4"]
) -> dict[str, float]:
    """RMS distance of camera centres after the best similarity (ATE).

    Returns:
        ``ate`` in reference units and ``ate_relative``, the same divided by the RMS distance of the reference centres
        from their mean. NaN with fewer than three cameras or coincident centres.
    """
    undefined = {"ate": float("nan"), "ate_relative": float("nan")}
    keep = registered(predicted_w2c)
    if keep.sum() < 3:
        return undefined
    source, target = (invert_rigid(w2c[keep])[:, :3, 3] for w2c in (predicted_w2c, reference_w2c))
    source, target = source - source.mean(0), target - target.mean(0)
    spread_source, spread_target = (float(np.mean(np.sum(x**2, 1))) for x in (source, target))
    if spread_source < 1e-20 or spread_target < 1e-20:
        return undefined
    # geometry.umeyama refuses centres on one line, whose error is defined all the same: any rotation about it will do.
    u, singular, vt = np.linalg.svd(target.T @ source / len(source))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    moved = (singular * signs).sum() / spread_source * source @ ((u * signs) @ vt).T
    ate = float(np.sqrt(np.mean(np.sum((moved - target) ** 2, 1))))
    return {"ate": ate, "ate_relative": ate / float(np.sqrt(spread_target))}


def focal_error(predicted_K: Float[np.ndarray, "V 3 3"], reference_K: Float[np.ndarray, "V 3 3"]) -> float:
    """Median error of sqrt(fx fy) in percent; photos with NaN in either are skipped; NaN when none is left."""
    focal = [np.sqrt(K[:, 0, 0] * K[:, 1, 1]) for K in (predicted_K, reference_K)]
    error = 100 * np.abs(focal[0] / focal[1] - 1)
    error = error[np.isfinite(error)]
    return float(np.median(error)) if len(error) else float("nan")


def depth_metrics(
    predicted: Float[np.ndarray, "*n"], reference: Float[np.ndarray, "*n"], scale: float | None = None
) -> dict[str, float]:
    """AbsRel, RMSE (reference units) and share of pixels within 25 percent, over pixels where both are positive.

    Args:
        predicted: z-depth.
        reference: z-depth of the same pixels.
        scale: reference units per predicted unit; None takes the ratio of the medians.
    """
    valid = np.isfinite(predicted) & np.isfinite(reference) & (reference > 0) & (predicted > 0)
    if not valid.any():
        return {"abs_rel": float("nan"), "rmse": float("nan"), "within_25": float("nan"), "pixels": 0}
    p, r = np.asarray(predicted, np.float64)[valid], np.asarray(reference, np.float64)[valid]
    p = p * (np.median(r) / np.median(p) if scale is None else scale)
    return {
        "abs_rel": float(np.mean(np.abs(p - r) / r)),
        "rmse": float(np.sqrt(np.mean((p - r) ** 2))),
        "within_25": float(100 * np.mean(np.maximum(p / r, r / p) < 1.25)),
        "pixels": int(valid.sum()),
    }


def point_distances(
    predicted: Float[np.ndarray, "N 3"], reference: Float[np.ndarray, "M 3"], reference_from_predicted: Sim3
) -> dict[str, float]:
    """Accuracy (predicted to nearest reference point) and completion (the reverse), mean and median."""
    from scipy.spatial import KDTree

    predicted, reference = (np.asarray(x, np.float64)[np.isfinite(x).all(1)] for x in (predicted, reference))
    names = ("accuracy", "accuracy_median", "completion", "completion_median")
    if len(predicted) == 0 or len(reference) == 0:
        return dict.fromkeys(names, float("nan"))
    moved = reference_from_predicted.apply(predicted)
    there, back = KDTree(reference).query(moved)[0], KDTree(moved).query(reference)[0]
    return dict(zip(names, map(float, (there.mean(), np.median(there), back.mean(), np.median(back))), strict=True))
