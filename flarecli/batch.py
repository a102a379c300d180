"""Many scenes, one after another, with the network in memory once; a failed scene does not stop the others."""

from __future__ import annotations

import gc
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flarecli import pipeline
from flarecli.errors import FlareError, InputError, WeightsError, as_flare_error, defect_message, was_interrupted
from flarecli.job import Progress, SceneJob
from flarecli.summary import SceneOutcome, count_photos, scene_warnings

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


def scene_jobs(folders: Sequence[str | Path], output: Path, template: SceneJob) -> list[SceneJob]:
    """One job per folder, named after it.

    Folders of the same name get that of their parent before it (``attic-images``, ``kitchen-images``), and only where
    even that does not tell them apart a number, in the order given. A link gives its own name.

    Args:
        folders: photo folders.
        output: folder that gets one sub-folder per scene.
        template: every other option.

    Raises:
        InputError: no folders, or the output folder is one of them.
    """
    if not folders:
        raise InputError("no photo folders given", "write for example: flare batch captures/* -o scenes")
    for folder in folders:
        if Path(folder).resolve() == output.resolve():
            raise InputError(f"{folder} is the output folder of the batch", "choose another folder with -o")
    return [
        replace(template, sources=(str(folder),), output=output / name)
        for folder, name in zip(folders, _scene_names(folders), strict=True)
    ]


def _scene_names(folders: Sequence[str | Path]) -> list[str]:
    paths = [Path(os.path.abspath(folder)) for folder in folders]  # noqa: PTH100 (resolve() would follow links)
    # Case-insensitive file systems hold "Room" and "room" in one folder.
    often = Counter(path.name.casefold() for path in paths)
    names = [
        f"{path.parent.name}-{path.name}" if often[path.name.casefold()] > 1 and path.parent.name else path.name
        for path in paths
    ]
    names = [name or "scene" for name in names]
    taken = {name.casefold() for name in names}
    seen: set[str] = set()
    for index, base in enumerate(names):
        name, number = base, 2
        while name.casefold() in (taken if number > 2 else seen):
            name, number = f"{base}-{number}", number + 1
        names[index] = name
        seen.add(name.casefold())
        taken.add(name.casefold())
    return names


def run_batch(
    jobs: Sequence[SceneJob],
    *,
    on_scene: Callable[[SceneOutcome], None] | None = None,
    on_progress: Progress | None = None,
    keep_going: bool = True,
) -> list[SceneOutcome]:
    """Run jobs one after another.

    The network is loaded once for all jobs that ask for the same one, when the first of them needs it. Nothing of a
    scene is kept but its outcome, so that memory does not grow with the number of scenes.

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
    network = _Network()
    for job in jobs:
        outcome = _run_one(job, network, on_progress)
        gc.collect()
        outcomes.append(outcome)
        if on_scene is not None:
            on_scene(outcome)
        if outcome.status == "failed" and not keep_going:
            break
    return outcomes


class _Network:
    """The network of a batch, loaded when a scene first needs it: where all are finished, nobody asks for weights."""

    def __init__(self) -> None:
        self.failed = False
        self._network: Any = None
        self._wanted: tuple[object, ...] | None = None

    def __call__(self, job: SceneJob) -> Any:
        wanted = (job.model, job.weights, job.device, job.license_policy)
        if wanted != self._wanted:
            self._network, self._wanted = None, None  # the old network must go before the next one comes
            self.failed = True
            self._network, self._wanted = pipeline.load_network(job), wanted
            self.failed = False
        return self._network


def _run_one(job: SceneJob, network: _Network, on_progress: Progress | None) -> SceneOutcome:
    name = job.output.name

    def named_progress(stage: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(f"{name}: {stage}", done, total)

    started = time.monotonic()
    try:
        result = pipeline.run_scene(job, on_progress=named_progress, network=network)
    except SCENE_ERRORS as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        if network.failed or isinstance(error, WeightsError):
            raise
        known = as_flare_error(error)
        hint = "run flare reconstruct --debug on this folder and report what it shows"
        return SceneOutcome(
            name=name,
            output=job.output,
            exit_code=FlareError.exit_code if known is None else known.exit_code,
            seconds=time.monotonic() - started,
            error="InternalError" if known is None else type(known).__name__,
            message=defect_message(error) if known is None else known.message,
            hint=hint if known is None else known.hint,
            traceback="".join(traceback.format_exception(error)),
        )
    return SceneOutcome(
        name=name,
        output=result.output,
        exit_code=result.exit_code,
        seconds=time.monotonic() - started,
        resumed=result.resumed,
        photos=count_photos(result.manifest),
        warnings=scene_warnings(result.manifest),
    )
