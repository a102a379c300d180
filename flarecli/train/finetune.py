"""From shipped weights to weights that know a user's own scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flarecli.errors import InputError
from flarecli.model.config import find_model
from flarecli.model.loading import locate
from flarecli.train.captures import capture_shards, read_capture
from flarecli.train.config import Phase, TrainConfig
from flarecli.train.loop import run
from flarecli.train.losses import LossWeights
from flarecli.train.ship import export_weights

_MODEL = "flare-small"


def fine_tune(
    scenes: Sequence[Path],
    output: Path,
    *,
    minutes: float,
    weights: Path | None = None,
    device: str = "auto",
    max_steps: int | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Train the small network further on scenes with known cameras.

    Args:
        scenes: what :func:`flarecli.train.captures.read_capture` takes.
        output: folder for shards, checkpoint, metrics and the new weights.
        minutes: time box.
        weights: weights to begin with; None takes the shipped ones.
        device: auto, cpu, cuda, cuda:N.
        max_steps: stop after this many steps.
        on_progress: told about the stage "train".

    Returns:
        The weights file, for ``flare reconstruct --weights``.

    Raises:
        InputError: a scene can't be used, or no photos of it overlap.
        WeightsError: there are no weights to begin with.
    """
    spec = find_model(_MODEL)
    start = locate(spec, weights)
    if start is None:
        raise InputError(f"the weights of {_MODEL} are not on this machine", "give some with --weights")
    captures = [read_capture(scene) for scene in scenes]
    if (output / "checkpoint").exists():
        raise InputError(f"{output} holds a checkpoint already", "choose another --output")
    count = capture_shards(captures, output / "shards", spec.canvas.long_side, multiple=spec.canvas.multiple)
    phase = Phase(share=1.0, shards=str(output / "shards"), images=24, views=(2, 3, 4), view_weights=(0.5, 0.25, 0.25))
    config = TrainConfig(
        output=str(output),
        minutes=minutes,
        phases=(phase,),
        start=str(start),
        device=device,
        lr=2e-4,
        muon_lr=2e-3,
        warmup=10,
        decay=0.5,
        ema=0.98,
        max_steps=max_steps,
        weights=LossWeights(pose=0.5, points=0.5, match=0.4, descriptor=0.8, samples=192),
    )
    checkpoint = run(config, on_progress)
    summary = {"fine_tuned_on": ", ".join(scene.name for scene in scenes), "fine_tuned_scenes": str(count)}
    return export_weights(checkpoint, output / f"{_MODEL}.safetensors", summary)
