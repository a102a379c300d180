"""`flare eval`: a reconstruction against a reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from flarecli.cli.console import Talk
from flarecli.cli.options import TalkOptions, take_groups
from flarecli.errors import InputError

_HIDDEN = ("scene", "reference", "missing", "unmatched")


@take_groups
def evaluate(
    scene: Annotated[Path, typer.Argument(help="Scene folder, COLMAP model or transforms.json to judge.")],
    reference: Annotated[Path, typer.Argument(help="COLMAP model, cameras.json or transforms.json that is true.")],
    talking: TalkOptions,
    photos: Annotated[
        str | None,
        typer.Option(
            help="Which photos count: all (of the reference) or a text file with one name per line; "
            "default: the input photos of the scene.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare cameras, depth and points with a reference; a photo without a camera counts as 180 degrees."""
    from flarecli.evaluate.scene import ALL_PHOTOS, evaluate_scene

    with Talk(talking) as talk:
        names = photos if photos is None or photos == ALL_PHOTOS else _read_names(Path(photos))
        numbers = evaluate_scene(scene, reference, photos=names)
        talk.result({"command": "eval", "exit_code": 0} | numbers)
        if not talking.json:
            talk.table(("metric", "value"), rows(numbers), title=f"{scene} against {reference}")
        if numbers["missing"]:
            talk.say(f"without a camera: {', '.join(numbers['missing'])}")
        if numbers["unmatched"]:
            talk.say(f"not in the reference: {', '.join(numbers['unmatched'])}")


def _read_names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the list of photos can't be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def rows(numbers: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The metrics as table rows; those of a group carry its name, and what is undefined shows a dash."""
    out: list[tuple[str, str]] = []
    for name, value in numbers.items():
        if name in _HIDDEN:
            continue
        if isinstance(value, Mapping):
            out += rows(value, f"{prefix}{name}.")
        elif value is None or value != value:
            out.append((prefix + name, "-"))
        else:
            out.append((prefix + name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return out
