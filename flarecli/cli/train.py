"""`flare train`: train a network from a TOML file, or the shipped one further on own scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flarecli.cli.console import Talk
from flarecli.cli.options import TalkOptions, take_groups

_FINE_TUNE_MINUTES = 20.0


@take_groups
def train(
    talking: TalkOptions,
    scenes: Annotated[
        list[Path] | None,
        typer.Argument(
            help="With --fine-tune: scenes with cameras (COLMAP, transforms.json, or made by flarecli).",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file of the run.", show_default=False)
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Train the shipped network further on SCENES.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="With --fine-tune: folder to write.", show_default=False)
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="With --fine-tune: begin with this file, not the shipped one.", show_default=False),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Stop after this time, whatever the file says; 20 for --fine-tune.", min=0, show_default=False
        ),
    ] = None,
) -> None:
    """Train a network; a run that was stopped goes on where it was."""
    from flarecli.errors import InputError
    from flarecli.train.finetune import fine_tune as fine_tune_on
    from flarecli.train.loop import train_from_toml

    if fine_tune and (config is not None or not scenes or output is None):
        raise InputError("--fine-tune needs SCENES and --output, and no --config", "see flare train --help")
    if not fine_tune and (config is None or scenes or output is not None or weights is not None):
        raise InputError("give --config FILE.toml, or --fine-tune SCENES... --output FOLDER")
    with Talk(talking) as talk:
        with talk.progress() as on_progress:
            if config is not None:
                made = train_from_toml(config, on_progress, **({} if minutes is None else {"minutes": minutes}))
            else:
                assert scenes and output is not None  # looked at above
                time = _FINE_TUNE_MINUTES if minutes is None else minutes
                made = fine_tune_on(scenes, output, minutes=time, weights=weights, on_progress=on_progress)
        talk.say(f"wrote {made}")
        talk.result({"command": "train", "exit_code": 0, "weights" if fine_tune else "checkpoint": made})
