"""`flare export`: more files from a finished scene."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from flarecli.cli.console import LOGGER, Talk
from flarecli.cli.options import TalkOptions, check_formats, split_commas, take_groups


@take_groups
def export(
    scene: Annotated[Path, typer.Argument(help="Folder that flare reconstruct wrote.")],
    to: Annotated[
        list[str], typer.Option("--to", help="Formats, comma-separated or repeated; `flare formats` lists them.")
    ],
    talking: TalkOptions,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of the scene.")] = False,
) -> None:
    """Write a finished scene in more formats, without the network."""
    names = check_formats(split_commas(to), "--to")
    from flarecli.export.rewrite import export_scene

    with Talk(talking) as talk:
        with talk.progress() as on_progress:
            written = export_scene(scene, names, overwrite=overwrite, on_progress=on_progress)
        rendered = _render_back(scene, names)
        for warning in written.warnings:
            LOGGER.warning(warning)
        for name, paths in written.files.items():
            talk.say(f"{name}: {', '.join(str(path) for path in paths[:4])}{' ...' if len(paths) > 4 else ''}")
        talk.result(
            {
                "command": "export",
                "exit_code": 0,
                "output": scene,
                "files": written.files,
                "warnings": written.warnings,
                "render_back": rendered,
            }
        )


def _render_back(scene: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Render the Gaussians that were written and enter into the manifest how much they look like the photos."""
    from flarecli.export.gaussian_files import GAUSSIAN_FILES

    files = [scene / GAUSSIAN_FILES[name] for name in names if name in GAUSSIAN_FILES]
    if not files:
        return {}
    if not (scene / "images").is_dir():
        LOGGER.warning("%s holds no images; the Gaussians were not compared with them", scene)
        return {}
    if find_spec("torch") is None:
        LOGGER.warning("torch is not installed; the Gaussians were not compared with the photos")
        return {}
    from flarecli.appearance.render_back import render_back
    from flarecli.export.archive import load_scene
    from flarecli.export.manifest import read_manifest, update_manifest

    rendered = render_back(scene, load_scene(scene), files)
    update_manifest(scene, {"render_back": read_manifest(scene).get("render_back", {}) | rendered})
    for name, score in rendered.items():
        LOGGER.info("%s rendered against the photos: %.2f dB", name, score["psnr_db"])
    return rendered
