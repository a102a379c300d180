"""Weights in several files: shards ``stem-0000k-of-0000n.safetensors``, as a training leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flarecli.errors import WeightsError, first_line

MAX_SHARD = 16 * 2**20
"""Largest file in bytes that a borrowed GPU machine gives back."""
_MAX_TENSORS = MAX_SHARD - 2**20  # the rest is room for the header, which grows with the number of weights

AVERAGE = "ema"
"""Stem of the shards with the moving average of the weights, which is what is evaluated and shipped."""


def compact(tensor: Tensor) -> Tensor:
    """A weight as it is stored: matrices in half, vectors in single precision, contiguous on the CPU."""
    return tensor.detach().cpu().to(torch.float16 if tensor.ndim >= 2 else torch.float32).contiguous()


def save_shards(tensors: Mapping[str, Tensor], folder: Path, stem: str, limit: int = _MAX_TENSORS) -> list[Path]:
    """Write compact tensors to ``stem-0000k-of-0000n.safetensors``.

    Args:
        tensors: by name.
        folder: where they go; it is there already.
        stem: first part of the names.
        limit: bytes of tensors in each shard; a tensor that is larger gets one of its own.

    Returns:
        The files.
    """
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
    if not paths or paths[0].stem.rsplit("-", 1)[1] != f"{len(paths):05d}":
        raise WeightsError(f"{folder} has an incomplete set of {stem} shards", "restore the missing files")
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= load_single(path)
    return tensors


def load_single(path: Path) -> dict[str, Tensor]:
    """The weights of one safetensors file in single precision.

    Raises:
        WeightsError: it is missing or damaged.
    """
    try:
        # Copies: what safetensors returns is a view of the file, which a later checkpoint may replace.
        return {name: tensor.to(torch.float32, copy=True) for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        hint = "give a checkpoint folder, or a safetensors file of this network"
        raise WeightsError(f"can't read {path}: {first_line(error)}", hint) from error
