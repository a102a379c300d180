"""Files from which a job that was cut short goes on: tensors and plain values, read without running anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from flarecli.errors import InputError, first_line

_State = TypeVar("_State")


def save_progress(path: Path, values: Mapping[str, Any], signature: Mapping[str, Any]) -> None:
    """Write the values of a job; the file before stays until the new one is whole.

    Args:
        path: the file.
        values: tensors, numbers, texts, and lists and dictionaries of them.
        signature: everything that a job must share with this one to go on from here; JSON values.
    """
    part = path.with_name(path.name + ".part")
    torch.save({**values, "signature": _text(signature)}, part)
    part.replace(path)


def load_progress(
    path: Path,
    signature: Mapping[str, Any],
    restore: Callable[[dict[str, Any]], _State],
    device: torch.device,
    if_other: str,
) -> _State | None:
    """Go on from a file; None where there is none.

    Args:
        path: the file.
        signature: as it was saved.
        restore: makes the job's state of the values; an error means that the file is damaged, unless memory ran out.
        device: where tensors go.
        if_other: what to do when the file belongs to another job.

    Raises:
        InputError: the file is damaged or belongs to another job.
    """
    if not path.is_file():
        return None
    try:
        values = torch.load(path, weights_only=True, map_location=device)
        if values.pop("signature") == _text(signature):
            return restore(values)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path} is damaged: {first_line(error)}", "remove it and start again") from error
    raise InputError(f"{path} belongs to a run with other options, photos or weights", if_other)


def _text(signature: Mapping[str, Any]) -> str:
    return json.dumps(signature, sort_keys=True)
