"""Fits the tensors of a weights file to a network: names, shapes, dtypes, and what published files may lack."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from flarecli.errors import WeightsError
from flarecli.model.keys import KeyMap, our_name

LOGGER = logging.getLogger(__name__)

_SHOWN_KEYS = 5
_WRONG_FILE = "check --model and --weights; `flare weights list` shows which file belongs to which model"


def rename_state(state: Mapping[str, Tensor], keys: KeyMap, path: Path) -> dict[str, Tensor]:
    """The tensors of a file under our names, without those that the rules drop.

    Args:
        state: what the file holds.
        keys: how its names become ours.
        path: the file, for messages.

    Raises:
        WeightsError: two names of one parameter hold different values.
    """
    read = {name: tensor for name, tensor in state.items() if name.startswith(keys.prefix)} or state
    renamed: dict[str, Tensor] = {}
    for theirs, tensor in read.items():
        ours = our_name(theirs, keys.rules)
        if ours is None:
            continue
        if ours in renamed and not torch.equal(renamed[ours], tensor):
            raise WeightsError(f"{path}: {theirs} differs from the other copy of the same parameter", _WRONG_FILE)
        renamed[ours] = tensor
    return renamed


def fit_state(state: dict[str, Tensor], expected: Mapping[str, Tensor], path: Path, keys: KeyMap) -> None:
    """Check names, shapes and kinds against a network, and complete and cast in place.

    Args:
        state: tensors under our names.
        expected: what the network holds; may be on the meta device.
        path: the file, for messages.
        keys: in what the file may differ from the network; what is left out for that is logged in one warning.

    Raises:
        WeightsError: something is unknown, missing, or of another shape or kind; it names the first five of each.
    """
    _complete(state, expected, keys)
    unknown = [name for name in state if name not in expected]
    missing = [name for name in expected if name not in state]
    misfits = _misfits(state, expected)
    if missing or misfits or (unknown and not keys.extra_names):
        problems = {"unknown": unknown, "missing": missing, "of another shape or kind": misfits}
        found = [f"{len(names)} {what}: {listed(names)}" for what, names in problems.items() if names]
        raise WeightsError(f"{path}: not the weights of this network; " + "; ".join(found), _WRONG_FILE)
    if unknown:
        LOGGER.warning("%s: %d weights left out that this network lacks: %s", path, len(unknown), listed(unknown))
    for name in unknown:
        del state[name]
    for name, tensor in state.items():
        state[name] = tensor.to(expected[name].dtype)


def listed(names: Sequence[str]) -> str:
    """The first five of some names."""
    return ", ".join(names[:_SHOWN_KEYS]) + (", ..." if len(names) > _SHOWN_KEYS else "")


def _complete(state: dict[str, Tensor], expected: Mapping[str, Tensor], keys: KeyMap) -> None:
    """Add in place what a file may lack."""
    for part, source in keys.copies:
        if any(name.startswith(part) for name in state):
            continue
        # Copies of the values too: safetensors writes no two tensors that share memory.
        copied = {part + name.removeprefix(source): state[name].clone() for name in state if name.startswith(source)}
        state.update(copied)
    for name in keys.padded:
        if name not in state:
            continue
        tensor, shape = state[name], expected[name].shape
        if tensor.ndim and tensor.shape[1:] == shape[1:] and 0 < len(tensor) < shape[0]:
            state[name] = torch.cat([tensor, tensor.new_zeros(shape[0] - len(tensor), *shape[1:])])


def _misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
        for name, tensor in state.items()
        if name in expected
        and (
            tensor.shape != expected[name].shape
            or tensor.is_floating_point() != expected[name].is_floating_point()
            or tensor.is_complex()
            or tensor.layout != torch.strided
        )
    ]
