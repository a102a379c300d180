"""From a checkpoint to the weights file that `flare reconstruct` reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from flarecli.errors import OutputError, OutputExists
from flarecli.model.config_small import GAUSSIAN_PART, SIZES, FlareSmallConfig
from flarecli.model.shards import AVERAGE, compact, load_shards
from flarecli.train.checkpoint import load_state, take_back

LICENCE = "Apache-2.0"
WEIGHTS_NAME = "flare-small.safetensors"


def check_target(output: Path) -> Path:
    """Where a run in ``output`` puts its weights file, looked at before the run is paid for.

    Raises:
        OutputExists: a file is there that no run in this folder made: they leave their checkpoint beside it.
    """
    target = output / WEIGHTS_NAME
    if os.path.lexists(target) and not take_back(output / "checkpoint"):
        raise OutputExists(f"{target} is there and not of this run", "move it away, or choose another output")
    return target


def trunk_digest(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of names and bytes of all stored weights but those of the Gaussian head."""
    digest = hashlib.sha256()
    for name in sorted(name for name in tensors if not name.startswith(GAUSSIAN_PART)):
        digest.update(f"{name} {tensors[name].dtype}".encode() + tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def export_weights(checkpoint: Path, target: Path, summary: Mapping[str, str], averaged: bool = True) -> Path:
    """Write the weights of a checkpoint as one safetensors file.

    Matrices are stored in half, vectors in single precision. The header says which network it is, its sizes, the
    licence, how it was trained, and the checksum of everything but the Gaussian head, which stays the same while only
    that is trained.

    Args:
        checkpoint: folder that :func:`flarecli.train.loop.run` wrote.
        target: file to write.
        summary: further header entries, such as the data and the accuracy reached.
        averaged: the moving average; otherwise the last weights, which are ahead of it after a short decay.

    Raises:
        InputError: this is no checkpoint.
        WeightsError: its shards are missing or damaged.
        OutputError: the file can't be written.
    """
    state = load_state(checkpoint)
    training = {"steps": str(state.step), "scenes": str(state.samples), "minutes": f"{state.minutes:.1f}"}
    weights = load_shards(checkpoint, AVERAGE if averaged else "model")
    return write_weights(weights, SIZES[state.size], target, {**training, **summary})


def write_weights(
    weights: Mapping[str, Tensor], config: FlareSmallConfig, target: Path, summary: Mapping[str, str]
) -> Path:
    """Write weights of the small network as one safetensors file; see :func:`export_weights`.

    Args:
        weights: by name.
        config: sizes of the network.
        target: file to write.
        summary: further header entries.

    Raises:
        OutputError: the file can't be written.
    """
    tensors = {name: compact(tensor) for name, tensor in weights.items()}
    header = {
        "format": "pt",
        "model": "flare-small",
        "config": json.dumps(config.to_dict()),
        "licence": LICENCE,
        "trunk_sha256": trunk_digest(tensors),
        **summary,
    }
    unfinished = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, unfinished, metadata=header)
        unfinished.replace(target)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"can't write {target}: {error}", "check the folder, its permissions and its space"
        ) from error
    return target
