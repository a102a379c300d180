"""`flare formats`: what can be read and written."""

from __future__ import annotations

from flarecli.cli.console import Talk
from flarecli.cli.options import TalkOptions, take_groups
from flarecli.job import DEFAULT_EXPORTS


@take_groups
def formats(talking: TalkOptions) -> None:
    """List the kinds of photos that can be read and the formats that can be written."""
    from flarecli.export import EXPORTERS
    from flarecli.images.discovery import PHOTO_SUFFIXES

    with Talk(talking) as talk:
        written = [
            {
                "name": row.name,
                "files": row.files,
                "description": row.description,
                "default": row.name in DEFAULT_EXPORTS,
            }
            for row in EXPORTERS.values()
        ]
        talk.result({"command": "formats", "exit_code": 0, "read": sorted(PHOTO_SUFFIXES), "write": written})
        if not talking.json:
            rows = [(w["name"], w["files"], w["description"], "yes" if w["default"] else "no") for w in written]
            talk.table(("format", "files", "", "by default"), rows)
            talk.say("photos: " + " ".join(sorted(PHOTO_SUFFIXES)))
