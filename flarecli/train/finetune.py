"""From shipped weights to weights that know a user's own scenes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flarecli.errors import InputError, WeightsError
from flarecli.model.config import find_model
from flarecli.model.config_small import SIZES
from flarecli.model.loading import locate
from flarecli.model.stated import stated_config
from flarecli.train.captures import capture_shards, read_capture
from flarecli.train.checkpoint import take_back
from flarecli.train.config import Phase, TrainConfig
from flarecli.train.loop import run
from flarecli.train.losses import LossWeights
from flarecli.train.ship import check_target, export_weights

_MODEL = "flare-small"
_NOTE_NAME = "fine-tune.json"
_ENDLESS = 1e6  # minutes, where only the steps count


@dataclass(frozen=True, kw_only=True)
class FineTuneJob:
    """What `flare train --fine-tune` does.

    Attributes:
        scenes: what :func:`flarecli.train.captures.read_capture` takes.
        output: folder for shards, checkpoint, metrics and the new weights.
        minutes: time box; None where only the steps count.
        steps: stop after this many steps.
        weights: weights to begin with; None takes the shipped ones.
        resume: go on with the shards and the checkpoint of a run that was cut short.
        seed: of the choice of views and of the batches.
        device: auto, cpu, cuda, cuda:N.
    """

    scenes: tuple[Path, ...]
    output: Path
    minutes: float | None = None
    steps: int | None = None
    weights: Path | None = None
    resume: bool = False
    seed: int = 0
    device: str = "auto"


def fine_tune(job: FineTuneJob, on_progress: Callable[[str, int, int], None] | None = None) -> Path:
    """Train the small network further on scenes with known cameras.

    Returns:
        The weights file, for ``flare reconstruct --weights``.

    Raises:
        InputError: a scene can't be used, no photos of it overlap, there is nothing to stop at, or the output holds a
            run that is not to be resumed, or one of other scenes.
        OutputExists: the output holds a weights file of something else.
        WeightsError: there are no weights to begin with, or they are of another network.
        OutputError: the weights can't be written.
    """
    if job.minutes is None and job.steps is None:
        raise InputError("fine-tuning needs an end", "give minutes or steps")
    target = check_target(job.output)
    start = locate(find_model(_MODEL), job.weights)
    if start is None:
        raise InputError(f"the weights of {_MODEL} are not on this machine", "give some with --weights")
    if take_back(job.output / "checkpoint") and not job.resume:
        raise InputError(
            f"{job.output} holds a checkpoint already", "go on with it by --resume, or choose another --output"
        )
    size = _size_of(start)
    count = _make_shards(job, size)
    checkpoint = run(_config(job, start, size), on_progress)
    summary = {"fine_tuned_on": ", ".join(scene.name for scene in job.scenes), "fine_tuned_scenes": str(count)}
    return export_weights(checkpoint, target, summary)


def _size_of(start: Path) -> str:
    """The row of sizes of the weights; older files, which state none, are of the shipped size."""
    config = stated_config(start) or SIZES["xs"]
    for name, row in SIZES.items():
        if replace(row, gaussians=True) == replace(config, gaussians=True):
            return name
    raise WeightsError(f"{start} is of no size that can be trained", f"give weights of {', '.join(SIZES)}")


def _make_shards(job: FineTuneJob, size: str) -> int:
    """Turn the scenes into training shards, which appear complete or not at all; returns how many sets of views."""
    folder, canvas = job.output / "shards", find_model(_MODEL).canvas
    wanted = {"scenes": [str(scene.resolve()) for scene in job.scenes], "seed": job.seed, "size": size}
    if folder.exists():
        noted = _note_of(folder)
        if not job.resume:
            raise InputError(
                f"{folder} holds training shards already", "go on with them by --resume, or choose another --output"
            )
        if {key: noted.get(key) for key in wanted} != wanted:
            raise InputError(
                f"{folder} is of a run with other scenes, seed or weights", "give the same again, or another --output"
            )
        return int(noted["count"])
    part = folder.with_name("shards.part")
    (part / _NOTE_NAME).unlink(missing_ok=True)  # of a run that was cut off before it gave the folder its name
    captures = [read_capture(scene) for scene in job.scenes]
    multiple = SIZES[size].patch
    count = capture_shards(captures, part, canvas.long_side, multiple=multiple, seed=job.seed)
    (part / _NOTE_NAME).write_text(json.dumps({**wanted, "count": count}))
    part.rename(folder)
    return count


def _note_of(folder: Path) -> dict[str, Any]:
    """What a finished folder of shards says of itself; a folder that says nothing is somebody else's."""
    try:
        noted = json.loads((folder / _NOTE_NAME).read_text())
        return noted | {"count": int(noted["count"])}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"{folder} is there and was not made by flare train --fine-tune", "move it away, or choose another --output"
        ) from error


def _config(job: FineTuneJob, start: Path, size: str) -> TrainConfig:
    phase = Phase(
        share=1.0, shards=str(job.output / "shards"), images=24, views=(2, 3, 4), view_weights=(0.5, 0.25, 0.25)
    )
    return TrainConfig(
        output=str(job.output),
        minutes=_ENDLESS if job.minutes is None else job.minutes,
        phases=(phase,),
        size=size,
        start=str(start),
        device=job.device,
        seed=job.seed,
        lr=2e-4,
        muon_lr=2e-3,
        warmup=10,
        decay=0.5,
        ema=0.98,
        max_steps=job.steps,
        weights=LossWeights(pose=0.5, points=0.5, match=0.4, descriptor=0.8, samples=192),
    )
