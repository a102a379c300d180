"""Whether the files of a scene are those that were written: scene.npz loads, the rest is as flare.json lists it."""

from __future__ import annotations

from pathlib import Path

from flarecli.export.archive import load_scene
from flarecli.export.findings import Report
from flarecli.export.manifest import MANIFEST_NAME, file_problems, read_manifest

_NAMED = 3  # of the files that differ; the others are counted


def inspect_archive(path: Path) -> Report:
    """Counts of a scene.npz, all of which is read.

    Raises:
        InputError: it does not load.
    """
    scene = load_scene(path)
    counts = {
        "photos": len(scene),
        "sparse_points": len(scene.tracks),
        "dense_points": len(scene.points),
        "depth_maps": sum(depth_map is not None for depth_map in scene.depth_maps),
    }
    return Report("archive", path, counts, [])


def check_manifest(report: Report, folder: Path) -> None:
    """Compare every file that flare.json lists with the one on the disk.

    Checksums stand for opening what is not opened here: depth maps and the .glb.

    Raises:
        InputError: flare.json is damaged.
    """
    if not (folder / MANIFEST_NAME).is_file():
        report.add(f"{MANIFEST_NAME} is there", "without it the scene is unfinished and can't be checked", "warn")
        return
    manifest = read_manifest(folder)
    report.counts["counts"] = manifest.get("counts", {})
    report.counts["confidence"] = manifest.get("confidence")
    listed = manifest["files"]
    problems = [f"{name} {problem}" for name, problem in file_problems(folder, manifest).items()]
    more = f"; {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    text = f"{len(problems)} of {len(listed)} are not: {'; '.join(problems[:_NAMED])}{more}"
    report.add(f"files are as {MANIFEST_NAME} lists them", text if problems else None)
