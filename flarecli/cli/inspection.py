"""`flare inspect`: is this model, transforms.json or ply sane?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from flarecli.cli.console import Talk
from flarecli.cli.options import TalkOptions, take_groups
from flarecli.errors import VerificationError


@take_groups
def inspect(
    path: Annotated[Path, typer.Argument(help="A scene, COLMAP model, transforms.json, ply, splat, spz or sog.")],
    talking: TalkOptions,
) -> None:
    """Count what a file or folder holds and check its conventions; exit code 7 when something is wrong."""
    from flarecli.export.inspect import inspect_path

    with Talk(talking) as talk:
        found = inspect_path(path)
        code = VerificationError.exit_code if found["level"] == "bad" else 0
        talk.result({"command": "inspect", "exit_code": code} | found)
        if not talking.json:
            for title, rows in tables(found).items():
                talk.table(("", ""), rows, title=title)
    raise typer.Exit(code)


def tables(found: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """One table per thing found: its counts, then the findings that are not ok."""
    rows = [(key, _cell(value)) for key, value in found.items() if key not in ("kind", "path", "parts", "findings")]
    rows += [(f["level"], f"{f['check']}: {f['message']}") for f in found["findings"] if f["level"] != "ok"]
    out = {f"{found['kind']} {found['path']}": rows}
    for part in found.get("parts", {}).values():
        out |= tables(part)
    return out


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_cell(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " to ".join(map(_cell, value))
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
