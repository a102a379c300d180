"""What a file of Gaussians holds: how many, of which degree, where, and what a viewer would stumble over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flarecli.export.findings import Report
from flarecli.export.ply import load_gaussians_ply, read_ply
from flarecli.export.sog import read_sog
from flarecli.export.splat import load_splat
from flarecli.export.spz import read_spz
from flarecli.scene.gaussians import Gaussians

PACKED = (".splat", ".spz", ".sog")
_INVISIBLE = 1 / 255


def inspect_gaussians_ply(path: Path) -> Report:
    """Counts and checks of the Gaussians of a .ply.

    Raises:
        InputError: it holds none, or is damaged.
    """
    loaded = load_gaussians_ply(path)
    gaussians = loaded.gaussians
    report = Report("gaussians", path, _counts(gaussians), [])
    vertices = read_ply(path).vertices
    report.add("rows are finite", f"{loaded.dropped} rows are not finite" if loaded.dropped else None)
    activated = "opacity looks activated: all values in [0, 1], but viewers expect logits"
    report.add("opacity is a logit", activated if loaded.looks_activated else None)
    scales = np.stack([vertices[f"scale_{i}"] for i in range(3)], 1)
    linear = len(scales) > 0 and float(np.nanmin(scales)) > 0
    report.add("scale is a logarithm", "scale looks linear: all values are positive" if linear else None, "warn")
    norms = np.linalg.norm(np.stack([vertices[f"rot_{i}"] for i in range(4)], 1), axis=1)
    unit = not len(norms) or bool(np.nanmax(np.abs(norms - 1)) < 1e-2)
    report.add(
        "quaternions are unit", None if unit else "quaternions are not unit; not every viewer normalises", "warn"
    )
    report.add("degree is at most 3", "viewers read at most degree 3" if gaussians.sh_degree > 3 else None, "warn")
    _add_common(report, gaussians)
    return report


def inspect_packed(path: Path) -> Report:
    """Counts and checks of the Gaussians of a .splat, .spz or .sog.

    Raises:
        InputError: it is damaged.
    """
    dropped = 0
    if path.suffix == ".splat":
        gaussians, dropped = load_splat(path)
    else:
        gaussians = read_spz(path) if path.suffix == ".spz" else read_sog(path)
    report = Report("gaussians", path, _counts(gaussians), [])
    report.add("rows are finite", f"{dropped} rows are not finite" if dropped else None)
    _add_common(report, gaussians)
    return report


def _counts(gaussians: Gaussians) -> dict[str, Any]:
    out: dict[str, Any] = {"gaussians": len(gaussians), "sh_degree": gaussians.sh_degree}
    if not len(gaussians):
        return out | {"bounds": None, "median_scale": None, "median_opacity": None}
    low, high = gaussians.means.min(0), gaussians.means.max(0)
    return out | {
        "bounds": {axis: [float(low[i]), float(high[i])] for i, axis in enumerate("xyz")},
        "median_scale": float(np.median(gaussians.scales)),
        "median_opacity": float(np.median(gaussians.opacities)),
    }


def _add_common(report: Report, gaussians: Gaussians) -> None:
    report.add("there are Gaussians", None if len(gaussians) else "the file holds none")
    unseen = int((gaussians.opacities < _INVISIBLE).sum())
    all_unseen = bool(len(gaussians)) and unseen == len(gaussians)
    report.add("something is opaque", "every opacity is below 1/255: nothing can be seen" if all_unseen else None)
