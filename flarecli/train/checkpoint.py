"""Checkpoints: half-precision safetensors shards, each of at most 16 MiB, and a small JSON state."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn

from flarecli.errors import InputError, WeightsError, first_line
from flarecli.model.config_small import GAUSSIAN_PART
from flarecli.model.shards import AVERAGE, load_shards, load_single, save_shards


@dataclass(frozen=True, slots=True)
class TrainState:
    """Where a run stands.

    Attributes:
        step: optimiser steps so far.
        samples: scenes seen.
        minutes: minutes trained.
        seed: seed of the run.
        size: row of the network's sizes.
    """

    step: int
    samples: int
    minutes: float
    seed: int
    size: str


def load_start(path: Path) -> dict[str, Tensor]:
    """Weights to begin with, in single precision: the average of a checkpoint folder, or a shipped weights file.

    Raises:
        WeightsError: they are missing or damaged.
    """
    return load_shards(path, AVERAGE) if path.is_dir() else load_single(path)


def fill(network: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Give a network its weights; a Gaussian head that they are older than keeps what it has.

    Raises:
        WeightsError: they are of another network.
    """
    missing, unknown = network.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.startswith(GAUSSIAN_PART)]
    if missing or unknown:
        raise WeightsError(f"{source}: not the weights of this network", "check the size of the network")


def save_checkpoint(folder: Path, weights: Mapping[str, Tensor], ema: Mapping[str, Tensor], state: TrainState) -> None:
    """Replace the checkpoint in ``folder`` as a whole; interrupted, it leaves one that :func:`take_back` finds."""
    partial, old = folder.with_name(folder.name + ".partial"), _earlier(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_shards(weights, partial, "model")
    save_average(ema, partial, state)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def save_average(ema: Mapping[str, Tensor], folder: Path, state: TrainState) -> None:
    """Write averaged weights and state into a folder that is there: all that another run needs to start from them."""
    save_shards(ema, folder, AVERAGE)
    (folder / "state.json").write_text(json.dumps(asdict(state), indent=1))


def take_back(folder: Path) -> bool:
    """Whether there is a checkpoint; one that a save was interrupted in replacing gets its place back."""
    if not folder.exists() and _earlier(folder).exists():
        _earlier(folder).rename(folder)
    return folder.exists()


def _earlier(folder: Path) -> Path:
    return folder.with_name(folder.name + ".old")


def load_state(folder: Path) -> TrainState:
    """Read the state of a checkpoint.

    Raises:
        InputError: it is missing or not ours.
    """
    try:
        return TrainState(**json.loads((folder / "state.json").read_text()))
    except (OSError, TypeError, ValueError) as error:
        hint = "give the folder checkpoint of a training's output"
        raise InputError(f"{folder} is no training checkpoint: {first_line(error)}", hint) from error
