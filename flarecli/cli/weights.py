"""`flare weights`: list, fetch, check and convert the weights of the networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flarecli.cli.console import Talk
from flarecli.cli.options import TalkOptions, take_groups
from flarecli.errors import WeightsError

app = typer.Typer(no_args_is_help=True, help="List, fetch, check and convert weights.", rich_markup_mode="rich")

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of a network; `flare weights list` shows them.")]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="This file instead of the shipped or downloaded one.", show_default=False),
]


@app.command("list")
@take_groups
def list_weights(talking: TalkOptions) -> None:
    """List the networks with their licences and where their weights are."""
    from flarecli.model.hub import pull_hint, weights_of, weights_status

    with Talk(talking) as talk:
        rows = []
        for status in weights_status():
            weights = weights_of(status.spec)
            rows.append(
                {
                    "model": status.spec.name,
                    "task": status.spec.task,
                    "licence": weights.licence,
                    "commercial": weights.commercial,
                    "bytes": status.size_bytes,
                    "place": status.place,
                    "path": status.path,
                    "get": "" if status.path else pull_hint(status.spec),
                }
            )
        talk.result({"command": "weights list", "exit_code": 0, "models": rows})
        if not talking.json:
            table = [
                (
                    row["model"],
                    row["task"],
                    f"{row['licence']} ({'any' if row['commercial'] else 'no commercial'} use)",
                    f"{row['bytes'] / 1e6:.0f} MB",
                    str(row["path"] or f"absent; {row['get']}"),
                )
                for row in rows
            ]
            talk.table(("model", "task", "licence", "size", "file"), table)


@app.command("pull")
@take_groups
def pull_weights(
    model: Model,
    talking: TalkOptions,
    license_policy: Annotated[
        Literal["any", "commercial"], typer.Option(help="commercial refuses weights that forbid commercial use.")
    ] = "any",
    offline: Annotated[bool, typer.Option("--offline", help="Never download; fail if the file is absent.")] = False,
) -> None:
    """Download weights, going on where an earlier download stopped; prints the path."""
    from flarecli.model.config import find_model
    from flarecli.model.download import pull
    from flarecli.model.hub import licence_check, licence_notice

    with Talk(talking) as talk:
        spec = find_model(model)
        licence_check(spec, license_policy)
        talk.say(licence_notice(spec))
        with talk.progress() as on_progress:
            path = pull(spec, offline=offline, on_progress=on_progress)
        _print_path("pull", model, path, talk)


@app.command("path")
@take_groups
def path_of_weights(model: Model, talking: TalkOptions) -> None:
    """Print the path of a weights file that is on this machine."""
    with Talk(talking) as talk:
        _print_path("path", model, _located(model), talk)


@app.command("verify")
@take_groups
def verify_weights(model: Model, talking: TalkOptions, weights: Weights = None) -> None:
    """Read a weights file in full: compare its checksum where one is known, load it otherwise."""
    from flarecli.model.config import find_model
    from flarecli.model.verification import verify

    with Talk(talking) as talk:
        found = verify(find_model(model), weights)
        if found.expected_sha256 is None:
            talk.say(f"{found.path}: loads as {model}; no checksum is known to compare with")
        else:
            talk.say(f"{found.path}: checksum is right")
        talk.say(f"sha256: {found.sha256}")
        for name, value in sorted(found.header.items()):
            talk.say(f"{name}: {value}")
        talk.result(
            {
                "command": "weights verify",
                "exit_code": 0,
                "model": model,
                "path": found.path,
                "sha256": found.sha256,
                "expected_sha256": found.expected_sha256,
                "header": found.header,
            }
        )


@app.command("convert")
@take_groups
def convert_file(
    model: Model,
    source: Annotated[Path, typer.Argument(help="Checkpoint, for example a published .pth.")],
    target: Annotated[Path, typer.Argument(help="Safetensors file to write.")],
    talking: TalkOptions,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the target.")] = False,
) -> None:
    """Rewrite a checkpoint as safetensors under our parameter names."""
    from flarecli.model.loading import convert_weights

    with Talk(talking) as talk:
        path = convert_weights(model, source, target, overwrite=overwrite)
        _print_path("convert", model, path, talk)


def _located(model: str) -> Path:
    from flarecli.model.config import find_model
    from flarecli.model.hub import locate, pull_hint, weights_of

    spec = find_model(model)
    weights_of(spec)
    path = locate(spec)
    if path is None:
        raise WeightsError(f"the weights of {model} are not on this machine", pull_hint(spec))
    return path


def _print_path(verb: str, model: str, path: Path, talk: Talk) -> None:
    if talk.options.json:
        talk.result({"command": f"weights {verb}", "exit_code": 0, "model": model, "path": path})
    else:
        typer.echo(str(path))
