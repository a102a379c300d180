"""Checkpoints that travel: half-precision safetensors shards of at most 16 MiB and a small JSON state."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flarecli.errors import InputError, WeightsError
from flarecli.model.config_small import GAUSSIAN_PART

MAX_SHARD = 16 * 2**20


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


def compact(tensor: Tensor) -> Tensor:
    """A weight as it is stored: matrices in half, vectors in single precision, contiguous on the CPU."""
    return tensor.detach().cpu().to(torch.float16 if tensor.ndim >= 2 else torch.float32).contiguous()


def save_shards(tensors: Mapping[str, Tensor], folder: Path, stem: str, limit: int = MAX_SHARD) -> list[Path]:
    """Write compact tensors to ``stem-0000k-of-0000n.safetensors``, each of at most ``limit`` bytes where it can."""
    groups: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        stored = compact(tensor)
        if groups[-1] and used + stored.nbytes > limit:
            groups.append({})
            used = 0
        groups[-1][name] = stored
        used += stored.nbytes
    paths = []
    for k, group in enumerate(groups, 1):
        path = folder / f"{stem}-{k:05d}-of-{len(groups):05d}.safetensors"
        save_file(group, path)
        paths.append(path)
    return paths


def load_shards(folder: Path, stem: str) -> dict[str, Tensor]:
    """Read what :func:`save_shards` wrote, in single precision.

    Raises:
        WeightsError: shards are missing or damaged.
    """
    paths = sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
    if not paths or len(paths) != int(paths[0].stem.rsplit("-", 1)[1]):
        raise WeightsError(f"{folder} has an incomplete set of {stem} shards", "restore the missing files")
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= _read(path)
    return tensors


def _read(path: Path) -> dict[str, Tensor]:
    try:
        # Copies: what safetensors returns is a view of the file, which a later checkpoint may replace.
        return {name: tensor.to(torch.float32, copy=True) for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        hint = "give a checkpoint folder, or a safetensors file of this network"
        raise WeightsError(f"can't read {path}: {error}", hint) from error


def load_start(path: Path) -> dict[str, Tensor]:
    """Weights to begin with, in single precision: the average of a checkpoint folder, or a shipped weights file.

    Raises:
        WeightsError: they are missing or damaged.
    """
    return load_shards(path, "ema") if path.is_dir() else _read(path)


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
    """Replace the checkpoint in ``folder`` as a whole; an interruption leaves the old or the new one."""
    partial, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_shards(weights, partial, "model")
    save_shards(ema, partial, "ema")
    (partial / "state.json").write_text(json.dumps(asdict(state), indent=1))
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_state(folder: Path) -> TrainState:
    """Read the state of a checkpoint.

    Raises:
        InputError: it is missing or not ours.
    """
    try:
        return TrainState(**json.loads((folder / "state.json").read_text()))
    except (OSError, TypeError, json.JSONDecodeError) as error:
        hint = "give the folder checkpoint of a training's output"
        raise InputError(f"{folder} is no training checkpoint: {error}", hint) from error
