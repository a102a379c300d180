"""What became of the scenes of a batch, as rows of a summary for people and programs."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flarecli.errors import OutputError, PartialResult, ReconstructionError

SUMMARY_COLUMNS: tuple[str, ...] = (
    "name",
    "status",
    "exit_code",
    "seconds",
    "resumed",
    "verified",
    "network-only",
    "dropped",
    "output",
    "warnings",
    "error",
    "message",
    "hint",
)
_MAX_DROPPED = 10


@dataclass(frozen=True, kw_only=True)
class SceneOutcome:
    """What became of one scene of a batch.

    Attributes:
        name: name of the scene, the name of its folder in the output.
        output: folder of the result.
        exit_code: what `flare reconstruct` would have ended with.
        seconds: wall time.
        resumed: whether an existing result was kept.
        photos: number of photos per verdict.
        warnings: lines for the user, also for photos that were left out.
        error: name of the error as ``--json`` gives it, empty where there was none.
        message: the error's line.
        hint: what to do about it.
        traceback: where the error arose; it is no part of the summary.
    """

    name: str
    output: Path
    exit_code: int
    seconds: float
    resumed: bool = False
    photos: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    error: str = ""
    message: str = ""
    hint: str = ""
    traceback: str = ""

    @property
    def status(self) -> str:
        """One of ok, partial, failed."""
        return {0: "ok", PartialResult.exit_code: "partial"}.get(self.exit_code, "failed")

    def as_row(self) -> dict[str, Any]:
        """JSON values, with the keys of ``SUMMARY_COLUMNS``."""
        row = asdict(self) | {"warnings": list(self.warnings)}
        row |= {"status": self.status, "output": str(self.output), "seconds": round(self.seconds, 3)}
        row |= {status: self.photos.get(status, 0) for status in ("verified", "network-only", "dropped")}
        return {column: row[column] for column in SUMMARY_COLUMNS}


def count_photos(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Number of photos per verdict in a manifest; empty where it lists none."""
    return dict(Counter(str(photo["status"]) for photo in manifest.get("photos", ())))


def scene_warnings(manifest: Mapping[str, Any]) -> list[str]:
    """Lines for each photo that was left out, one for what is too much to list, and the warnings of a manifest."""
    dropped = [photo for photo in manifest.get("photos", ()) if photo["status"] == "dropped"]
    lines = [f"dropped {photo['name']}: {photo['reason']}" for photo in dropped[:_MAX_DROPPED]]
    if more := len(dropped) - len(lines):
        lines.append(f"dropped {more} more photos; flare.json lists them")
    return [*lines, *manifest.get("warnings", ())]


def batch_exit_code(outcomes: Sequence[SceneOutcome]) -> int:
    """0 when every scene is whole, 7 when every scene failed, otherwise 6."""
    statuses = {outcome.status for outcome in outcomes}
    if statuses <= {"ok"}:
        return 0
    return ReconstructionError.exit_code if statuses == {"failed"} else PartialResult.exit_code


def write_summary(folder: Path, outcomes: Sequence[SceneOutcome], *, planned: int | None = None) -> None:
    """Write summary.json and summary.csv; a reader never sees half a file.

    Args:
        folder: where; made if absent.
        outcomes: scenes that are done.
        planned: number of scenes of the whole batch; None means that these are all.

    Raises:
        OutputError: the files can't be written.
    """
    rows = [outcome.as_row() for outcome in outcomes]
    counts = Counter(outcome.status for outcome in outcomes)
    summary = {
        "schema": 1,
        "planned": len(rows) if planned is None else planned,
        "done": len(rows),
        **{status: counts[status] for status in ("ok", "partial", "failed")},
        "exit_code": batch_exit_code(outcomes),
        "scenes": rows,
    }
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, SUMMARY_COLUMNS)
    writer.writeheader()
    writer.writerows(row | {"warnings": " | ".join(row["warnings"])} for row in rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        _replace(folder / "summary.csv", table.getvalue())
    except OSError as error:
        raise OutputError(
            f"{folder}: the summary can't be written: {error.strerror}",
            "check the folder, its permissions and its space",
        ) from error


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8", newline="")
    beside.replace(path)
