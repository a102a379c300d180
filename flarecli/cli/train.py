"""`flare train`: train a network from a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flarecli.cli.console import Talk, plain
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

    with Talk(talking) as talk:
        result = train_from_toml(config, minutes=minutes)
        talk.result({"command": "train", "exit_code": 0, "result": plain(result)})
