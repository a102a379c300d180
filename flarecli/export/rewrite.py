"""More formats for a scene folder that is finished already."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flarecli.errors import InputError, OutputError, OutputExists
from flarecli.export import ExportProgress, Written, write_formats
from flarecli.export.archive import load_scene
from flarecli.export.colmap import CACHED_POINTS, refuse_text_model
from flarecli.export.manifest import describe_files, next_commands, read_manifest, update_manifest
from flarecli.export.verify import verify_scene


def export_scene(
    scene: Path, names: Sequence[str], *, overwrite: bool = False, on_progress: ExportProgress | None = None
) -> Written:
    """Write formats into a finished scene folder and list them in its manifest.

    Everything is written beside and verified before the first file moves into the folder, so a failure leaves the scene
    as it was.

    Args:
        scene: folder that `flare reconstruct` wrote.
        names: names of ``EXPORTERS``.
        overwrite: replace files that the manifest lists; others are never replaced.
        on_progress: told about each format.

    Raises:
        InputError: not a scene, an unknown format, or a scene that lacks what a format needs.
        OutputExists: a file is there already.
        VerificationError: a written file does not read back.
        OutputError: the folder can't be written.
    """
    reconstruction = load_scene(scene)
    if "colmap" in names:
        refuse_text_model(scene)
    ours = {str(entry["path"]) for entry in read_manifest(scene)["files"]}
    try:
        staging = Path(tempfile.mkdtemp(prefix=".export-", dir=scene))
    except OSError as error:
        raise OutputError(f"{scene} can't be written: {error.strerror}", "check its permissions") from error
    try:
        if (scene / "images").is_dir():
            # Exporters read colours from the photos and verification their sizes.
            (staging / "images").symlink_to((scene / "images").resolve(), target_is_directory=True)
        written = write_formats(reconstruction, staging, names, on_progress)
        verify_scene(staging)
        files = {name: [path.relative_to(staging) for path in paths] for name, paths in written.files.items()}
        moved = [path for paths in files.values() for path in paths]
        _refuse_existing(scene, moved, ours if overwrite else set())
        (staging / "images").unlink(missing_ok=True)
        entries = describe_files(staging)
        for path in moved:
            (scene / path).parent.mkdir(parents=True, exist_ok=True)
            (staging / path).replace(scene / path)
        if "colmap" in names:
            (scene / CACHED_POINTS).unlink(missing_ok=True)
        _enter(scene, entries, files)
    except OSError as error:
        raise OutputError(f"{scene} can't be written: {error.strerror or error}", "free some space") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Written({name: [scene / path for path in paths] for name, paths in files.items()}, written.warnings)


def _refuse_existing(scene: Path, paths: Sequence[Path], replaceable: set[str]) -> None:
    for path in paths:
        if path.as_posix() not in replaceable and os.path.lexists(scene / path):
            raise OutputExists(
                f"{scene / path} exists already", "--overwrite replaces files that the scene's manifest lists"
            )
    if not paths:
        raise InputError(f"{scene} has nothing to write in these formats", "`flare formats` lists others")


def _enter(scene: Path, entries: list[dict[str, Any]], files: dict[str, list[Path]]) -> None:
    """List new files in the manifest, and the commands that they make possible."""
    manifest = read_manifest(scene)
    by_path = {entry["path"]: entry for entry in (*manifest["files"], *entries)}
    exports = {name: [path.as_posix() for path in paths] for name, paths in files.items()}
    update_manifest(
        scene,
        {
            "exports": manifest.get("exports", {}) | exports,
            "next": next_commands(scene),
            "files": [by_path[path] for path in sorted(by_path)],
        },
    )
