"""`flare export`: more files from a finished scene."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
            }
        )
