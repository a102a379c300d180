"""Writers and readers, one format per module. None changes the reconstruction it is given; none needs torch.

Every exporter writes the ideal pinhole cameras: the scene's ``images/`` folder holds upright copies without lens
distortion that match them, and must be there before exporters that read colours run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from flarecli.errors import InputError
from flarecli.runtime import require
from flarecli.scene.reconstruction import Reconstruction


@dataclass(frozen=True)
class Exporter:
    """One output format.

    Attributes:
        name: what the command line calls it.
        files: what it writes, relative to the scene folder.
        description: one line for help texts.
        function: "module:function" of a function (reconstruction, scene_folder) -> list of written paths.
        package: an optional package that it needs.
    """

    name: str
    files: str
    description: str
    function: str
    package: str | None = None


@dataclass(frozen=True)
class Written:
    """Files of each exporter, and one line for each that had nothing to write."""

    files: dict[str, list[Path]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


_ROWS = (
    Exporter("colmap", "sparse/0/*.bin", "COLMAP model, binary", "colmap:write_colmap"),
    Exporter("colmap-text", "sparse_text/0/*.txt", "COLMAP model, text", "colmap:write_colmap_text"),
    Exporter("points", "points.ply", "dense coloured points", "ply:write_points_ply"),
    Exporter("gaussians", "gaussians.ply", "3D Gaussians", "gaussian_files:write_gaussians"),
    Exporter("splat", "gaussians.splat", "3D Gaussians for web viewers", "gaussian_files:write_scene_splat"),
    Exporter("spz", "gaussians.spz", "3D Gaussians, compressed", "gaussian_files:write_scene_spz"),
    Exporter("sog", "gaussians.sog", "3D Gaussians, compressed most", "gaussian_files:write_scene_sog"),
    Exporter("mesh", "mesh.ply mesh.glb", "coloured mesh, TSDF fusion of the depth maps", "mesh:write_mesh"),
    Exporter("mesh-poisson", "mesh.ply mesh.glb", "coloured mesh, Poisson on the points", "mesh:write_mesh_poisson"),
    Exporter("depth", "depth/NAME.npz", "depth and confidence per photo", "depth:write_depth"),
    Exporter("depth-exr", "depth/NAME.exr", "depth and confidence, OpenEXR", "depth:write_depth_exr", "OpenEXR"),
    Exporter("transforms", "transforms.json sparse_pc.ply", "nerfstudio", "transforms_json:write_transforms"),
)
EXPORTERS: dict[str, Exporter] = {row.name: row for row in _ROWS}

ExportProgress = Callable[[str, int, int], None]


def check_formats(names: Iterable[str]) -> None:
    """Refuse formats that can't be written, before any work is done for them.

    Raises:
        InputError: an unknown name, or two kinds of mesh.
        MissingDependency: a format needs a package that is not installed.
    """
    wanted = set(names)
    for name in sorted(wanted):
        if name not in EXPORTERS:
            raise InputError(f"unknown format {name!r}", f"choose from {', '.join(EXPORTERS)}")
        package = EXPORTERS[name].package
        if package is not None:
            require(package, f"files of {name}")
    if {"mesh", "mesh-poisson"} <= wanted:
        raise InputError("mesh and mesh-poisson write the same files", "choose one of them")


def write_formats(
    reconstruction: Reconstruction,
    folder: Path,
    names: Iterable[str],
    on_progress: ExportProgress | None = None,
) -> Written:
    """Write formats into a scene folder, in the given order.

    Raises:
        InputError: as :func:`check_formats`, or a reconstruction that lacks what a format needs.
        MissingDependency: as :func:`check_formats`.
    """
    wanted = list(dict.fromkeys(names))
    check_formats(wanted)
    files, warnings = {}, []
    for done, name in enumerate(wanted):
        if on_progress:
            on_progress(f"export {name}", done, len(wanted))
        module, function = EXPORTERS[name].function.split(":")
        files[name] = getattr(importlib.import_module(f"flarecli.export.{module}"), function)(reconstruction, folder)
        if not files[name]:
            warnings.append(f"{name}: nothing to write ({EXPORTERS[name].files})")
    return Written(files, tuple(warnings))
