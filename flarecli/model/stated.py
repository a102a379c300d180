"""Which sizes a weights file of the small network says it has; nothing in a file is believed unchecked."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from flarecli.errors import WeightsError, first_line
from flarecli.model.config_small import SIZES, FlareSmallConfig
from flarecli.model.flare_small import FlareSmall

_FOREIGN = "give a weights file or a checkpoint folder of flare-small that flarecli wrote"


def stated_config(path: Path) -> FlareSmallConfig | None:
    """The sizes in the header of a weights file, or in the state of a checkpoint folder.

    Returns:
        The sizes, or None where the file states none: it is no safetensors file, or an older one.

    Raises:
        WeightsError: the folder is no checkpoint, or the sizes are none that a network can have.
    """
    if path.is_dir():
        return _of_folder(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("config")
    except (SafetensorError, OSError):
        return None  # of another kind, or damaged: whoever reads the weights says which
    if text is None:
        return None
    try:
        config = FlareSmallConfig.from_dict(json.loads(text))
        with torch.device("meta"):  # costs no memory, and says whether these numbers go together
            FlareSmall(config)
    except (ValueError, TypeError, RuntimeError) as error:
        message = f"{path}: its header states sizes that the network can't have: {first_line(error)}"
        raise WeightsError(message, _FOREIGN) from error
    return config


def _of_folder(folder: Path) -> FlareSmallConfig:
    try:
        return SIZES[json.loads((folder / "state.json").read_text())["size"]]
    except (OSError, ValueError, TypeError, LookupError) as error:
        message = f"{folder} is no training checkpoint: {first_line(error)}"
        raise WeightsError(message, _FOREIGN) from error
