"""`flare batch`: many scenes with one load of the network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from flarecli.cli.console import LOGGER, Talk
from flarecli.cli.options import SceneOptions, TalkOptions, take_groups

EPILOG = """Exit code: 0 when every scene is whole, 6 when some failed or are partial, 7 when all failed.

Example: flare batch ./captures/*/ -o ./scenes --resume"""


@take_groups
def batch(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Photo folders; each is one scene.")],
    scene: SceneOptions,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for one sub-folder per scene and the summary.", rich_help_panel="Output"
        ),
    ],
    talking: TalkOptions,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going/--stop-on-error", help="Go on after a scene that failed.", rich_help_panel="Output"),
    ] = True,
) -> None:
    """Reconstruct each folder as its own scene and write OUT/summary.json and OUT/summary.csv."""
    from flarecli.batch import run_batch, scene_jobs
    from flarecli.summary import SceneOutcome, batch_exit_code, write_summary

    template = scene.to_job((), output)
    outcomes: list[SceneOutcome] = []
    with Talk(talking) as talk, talk.progress() as on_progress:
        jobs = scene_jobs(folders, output, template)

        def on_scene(outcome: SceneOutcome) -> None:
            outcomes.append(outcome)
            write_summary(output, outcomes, planned=len(jobs))
            line = f"[{len(outcomes)}/{len(jobs)}] {outcome.name}: {outcome.status}, {outcome.seconds:.1f} s"
            if outcome.message:
                LOGGER.warning("%s: %s", line, outcome.message)
                level = logging.WARNING if talking.debug else logging.DEBUG
                LOGGER.log(level, "%s: %s", outcome.name, outcome.traceback.rstrip())
            else:
                talk.say(line)
            for warning in outcome.warnings:
                LOGGER.warning("%s: %s", outcome.name, warning)

        run_batch(jobs, on_scene=on_scene, on_progress=on_progress, keep_going=keep_going)
    code = batch_exit_code(outcomes)
    talk.result(
        {"command": "batch", "exit_code": code, "output": output, "scenes": [each.as_row() for each in outcomes]}
    )
    raise typer.Exit(code)
