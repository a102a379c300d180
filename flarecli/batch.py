"""Many scenes, one after another, with the network in memory once; a failed scene does not stop the others."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flarecli import pipeline
from flarecli.errors import FlareError, InputError, OutputError, PartialResult, ReconstructionError, as_flare_error
from flarecli.job import Progress, SceneJob

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
    "error",
    "message",
    "hint",
)

# A defect that one strange photo set brings to light must not cost the other scenes of the night, so this lists what
# numerical code raises, not only the project's own errors. Interrupts pass.
SCENE_ERRORS = (
    FlareError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


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
        error: class of the error, empty where there was none.
        message: the error's line.
        hint: what to do about it.
    """

    name: str
    output: Path
    exit_code: int
    seconds: float
    resumed: bool = False
    photos: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    message: str = ""
    hint: str = ""

    @property
    def status(self) -> str:
        """One of ok, partial, failed."""
        return {0: "ok", PartialResult.exit_code: "partial"}.get(self.exit_code, "failed")

    def as_row(self) -> dict[str, Any]:
        """Flat JSON values, with the keys of ``SUMMARY_COLUMNS``."""
        row = asdict(self) | {"status": self.status, "output": str(self.output), "seconds": round(self.seconds, 3)}
        row |= {status: self.photos.get(status, 0) for status in ("verified", "network-only", "dropped")}
        return {column: row[column] for column in SUMMARY_COLUMNS}


def count_photos(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Number of photos per verdict in a manifest; empty where it lists none."""
    return dict(Counter(str(photo["status"]) for photo in manifest.get("photos", ())))


def scene_jobs(folders: Sequence[str | Path], output: Path, template: SceneJob) -> list[SceneJob]:
    """One job per folder, named after it; a name that occurs again gets a number, in the order given.

    Args:
        folders: photo folders.
        output: folder that gets one sub-folder per scene.
        template: every other option.

    Raises:
        InputError: no folders, or the output folder is one of them.
    """
    if not folders:
        raise InputError("no photo folders given", "write for example: flare batch captures/* -o scenes")
    taken: set[str] = set()
    jobs = []
    for folder in folders:
        base = Path(folder).resolve().name or "scene"
        if Path(folder).resolve() == output.resolve():
            raise InputError(f"{folder} is the output folder of the batch", "choose another folder with -o")
        name, number = base, 2
        # Case-insensitive file systems hold "Room" and "room" in one folder.
        while name.casefold() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.casefold())
        jobs.append(replace(template, sources=(str(folder),), output=output / name))
    return jobs


def run_batch(
    jobs: Sequence[SceneJob],
    *,
    on_scene: Callable[[SceneOutcome], None] | None = None,
    on_progress: Progress | None = None,
    keep_going: bool = True,
) -> list[SceneOutcome]:
    """Run jobs one after another.

    The network is loaded once for all jobs that ask for the same one. Nothing of a scene is kept but its outcome, so
    that memory does not grow with the number of scenes.

    Args:
        jobs: what to do; see :func:`scene_jobs`.
        on_scene: told about each outcome as soon as it is known.
        on_progress: told about the stages of the running scene; the name of the scene precedes the stage.
        keep_going: go on after a scene that failed; otherwise the outcomes end with it.

    Raises:
        WeightsError: the network can't be loaded, which no scene would survive.
        InputError: two jobs would write the same folder.
    """
    outputs = [job.output.resolve() for job in jobs]
    if len(set(outputs)) != len(outputs):
        raise InputError("two scenes of the batch would write the same folder", "give every scene its own output")
    outcomes: list[SceneOutcome] = []
    network: Any = None
    loaded: tuple[object, ...] | None = None
    for job in jobs:
        wanted = (job.model, job.weights, job.device, job.license_policy)
        if wanted != loaded:
            network, loaded = None, None  # the old network must go before the next one comes
            network, loaded = pipeline.load_network(job), wanted
        outcome = _run_one(job, network, on_progress)
        gc.collect()
        outcomes.append(outcome)
        if on_scene is not None:
            on_scene(outcome)
        if outcome.status == "failed" and not keep_going:
            break
    return outcomes


def _run_one(job: SceneJob, network: Any, on_progress: Progress | None) -> SceneOutcome:
    name = job.output.name

    def named_progress(stage: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(f"{name}: {stage}", done, total)

    started = time.monotonic()
    try:
        result = pipeline.run_scene(job, on_progress=named_progress, network=network)
    except SCENE_ERRORS as error:
        known = as_flare_error(error) or FlareError(
            f"internal error: {' '.join(str(error).split())}",
            "run flare reconstruct --debug on this folder and report what it shows",
        )
        return SceneOutcome(
            name=name,
            output=job.output,
            exit_code=known.exit_code,
            seconds=time.monotonic() - started,
            error=type(error).__name__,
            message=known.message,
            hint=known.hint,
        )
    return SceneOutcome(
        name=name,
        output=result.output,
        exit_code=result.exit_code,
        seconds=time.monotonic() - started,
        resumed=result.resumed,
        photos=count_photos(result.manifest),
    )


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
    writer.writerows(rows)
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
