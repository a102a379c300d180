"""`flare reconstruct`: photos to one scene."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flarecli.cli.console import LOGGER, Talk
from flarecli.cli.options import SceneOptions, TalkOptions, take_groups

EPILOG = """Examples:

flare reconstruct ./photos -o ./scene

flare reconstruct "tour/*.HEIC" -o out --export colmap,gaussians --max-memory 4G

flare batch ./captures/*/ -o ./scenes --resume --json > summary.json"""


@take_groups
def reconstruct(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTOS", help="Folders, files, quoted globs, a text file with one path per line, or - for stdin."
        ),
    ],
    scene: SceneOptions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", rich_help_panel="Output")],
    talking: TalkOptions,
) -> None:
    """Reconstruct a scene: cameras, points, Gaussians, mesh and depth from 2 or more photos."""
    from flarecli.pipeline import run_scene
    from flarecli.summary import scene_warnings

    job = scene.to_job(tuple(sources), output)
    with Talk(talking) as talk:
        with talk.progress() as on_progress:
            result = run_scene(job, on_progress=on_progress)
        for line in scene_warnings(result.manifest):
            LOGGER.warning(line)
        talk.say(_summary(result.output, result.manifest, resumed=result.resumed))
        talk.result(
            {
                "command": "reconstruct",
                "exit_code": result.exit_code,
                "output": result.output,
                "resumed": result.resumed,
                "manifest": result.manifest,
            }
        )
    raise typer.Exit(result.exit_code)


def _summary(output: Path, manifest: dict[str, object], *, resumed: bool) -> str:
    from flarecli.summary import count_photos

    counts = count_photos(manifest)
    photos = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
    return f"{'kept' if resumed else 'wrote'} {output}" + (f" ({photos})" if photos else "")
