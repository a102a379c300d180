"""`flare train`: train a network from a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flarecli.cli.console import Talk
from flarecli.cli.options import TalkOptions, take_groups


@take_groups
def train(
    config: Annotated[Path, typer.Option("--config", "-c", help="TOML file of the run.")],
    talking: TalkOptions,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this time, whatever the file says.", min=0, show_default=False)
    ] = None,
) -> None:
    """Train a network; a run that was stopped goes on where it was."""
    from flarecli.train.loop import train_from_toml

    overrides = {} if minutes is None else {"minutes": minutes}
    with Talk(talking) as talk:
        with talk.progress() as on_progress:
            checkpoint = train_from_toml(config, on_progress, **overrides)
        talk.say(f"wrote {checkpoint}")
        talk.result({"command": "train", "exit_code": 0, "checkpoint": checkpoint})
