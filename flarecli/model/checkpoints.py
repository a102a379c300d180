"""From a weights file to a network, and from a foreign weights file to safetensors. Nothing in a file is executed."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flarecli.errors import OutputError, OutputExists, WeightsError, first_line
from flarecli.model.digests import content_sha256
from flarecli.model.fitting import fit_state, listed, rename_state
from flarecli.model.keys import OWN_KEYS, KeyMap
from flarecli.model.shards import AVERAGE, load_shards

_LFS_MAGIC = b"version https://git-lfs"
_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"

# What torch.load raises on damaged or hostile files; it documents none of it.
_LOAD_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    AssertionError,
    OverflowError,
    struct.error,
    OSError,
)


def load_weights(
    build: Callable[[], nn.Module],
    path: Path,
    device: torch.device,
    keys: KeyMap = OWN_KEYS,
) -> nn.Module:
    """Build a network around the weights of a file, without a second copy of them in memory.

    Args:
        build: makes the network; it is called on the meta device.
        path: safetensors, or a file of ``torch.save``: flat, or nested under ``model`` or ``state_dict``.
        device: where the network goes.
        keys: how the names in the file become those of the network, and in what it may differ from the network.

    Returns:
        The network in evaluation mode, all weights in the dtype that it was built with (float32).

    Raises:
        WeightsError: the file is missing, damaged, hostile, or not of this network.
    """
    state = rename_state(read_state_dict(path), keys, path)
    with torch.device("meta"):
        network = build()
    fit_state(state, network.state_dict(), path, keys)
    network.load_state_dict(state, strict=True, assign=True)
    _fill_computed_buffers(network, build)
    return network.eval().to(device)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file under the names that it gives them, without a leading ``module.``.

    Of a checkpoint folder of our own training they are the averaged ones.

    Raises:
        WeightsError: the file is missing, damaged, hostile, or holds something else.
    """
    if path.is_dir():
        return load_shards(path, AVERAGE)
    kind = _file_kind(path)
    content = _read_safetensors(path) if kind == "safetensors" else _read_torch(path, mapped=kind == "zip")
    for name in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds no table of weights", "give a checkpoint of the network")
    strangers = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise WeightsError(f"{path}: not only weights: {listed(strangers)}", "give a checkpoint of the network")
    state = {str(name): value for name, value in content.items()}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def convert(
    source: Path,
    target: Path,
    build: Callable[[], nn.Module],
    keys: KeyMap = OWN_KEYS,
    *,
    metadata: Mapping[str, str] | None = None,
    store: Callable[[Tensor], Tensor] = Tensor.contiguous,
    overwrite: bool = False,
) -> Path:
    """Rewrite a checkpoint as safetensors with our names; parameters that inference never uses are left out.

    Args:
        source: any file that :func:`load_weights` takes.
        target: file to write.
        build: makes the network that the weights must fit.
        keys: how the names in the file become ours, and in what it may differ from the network.
        metadata: kept in the file beside the checksum of the source, for example model and licence.
        store: gives a weight the form that it has in the file.
        overwrite: replace an existing target.

    Raises:
        WeightsError: the source is not a checkpoint of this network.
        OutputExists: the target is there and is not to be replaced.
        OutputError: the target can't be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if os.path.lexists(target) and not overwrite:
        raise OutputExists(f"{target} exists", "use --overwrite or another file name")
    state = rename_state(read_state_dict(source), keys, source)
    with torch.device("meta"):
        expected = build().state_dict()
    fit_state(state, expected, source, keys)
    header = {"format": "pt", **(metadata or {}), "source_sha256": content_sha256(source)}
    unfinished = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: store(tensor) for name, tensor in state.items()}, unfinished, metadata=header)
        unfinished.replace(target)
    except (OSError, SafetensorError) as error:
        hint = "choose another place, or look at its permissions and its space"
        raise OutputError(f"{target} can't be written: {first_line(error)}", hint) from error
    finally:
        with suppress(OSError):  # where nothing can be written, nothing is left behind
            unfinished.unlink(missing_ok=True)
    return target


_DAMAGED = "download it again, or give another file with --weights"


def _file_kind(path: Path) -> str:
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file", "give an existing file with --weights")
    with path.open("rb") as file:
        head = file.read(32)
    if head.startswith(_LFS_MAGIC):
        raise WeightsError(f"{path}: only a pointer of Git LFS, not the weights themselves", "run `git lfs pull`")
    if head.startswith(_ZIP_MAGIC):
        return "zip"
    if head.startswith(_PICKLE_MAGIC):
        return "pickle"
    if len(head) > 9 and head[8:9] == b"{":
        return "safetensors"
    raise WeightsError(f"{path}: neither safetensors nor a torch checkpoint", _DAMAGED)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, ValueError, OSError, RuntimeError) as error:
        raise WeightsError(f"{path}: damaged safetensors file ({first_line(error)})", _DAMAGED) from error


def _read_torch(path: Path, *, mapped: bool) -> Any:
    try:
        # Training checkpoints of the published program keep their options beside the weights, in this one class.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _LOAD_ERRORS as error:
        if not isinstance(error, pickle.UnpicklingError):
            raise WeightsError(f"{path}: damaged ({first_line(error)})", _DAMAGED) from error
        # torch names the stranger below its first line, which advises to run the file.
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = "more than weights" + (f", namely {found[1]}" if found else "")
        hint = "such files could run any program and are not read; save the table of weights alone, or as safetensors"
        raise WeightsError(f"{path}: refused: it holds {what}", hint) from error


def _fill_computed_buffers(network: nn.Module, build: Callable[[], nn.Module]) -> None:
    """Buffers that a network computes for itself are in no file; take them from a network built for real."""
    computed = [name for name, buffer in network.named_buffers() if buffer.is_meta]
    if not computed:
        return
    values = dict(build().named_buffers())
    for name in computed:
        owner, _, attribute = name.rpartition(".")
        module = network.get_submodule(owner)
        setattr(module, attribute, values[name])
