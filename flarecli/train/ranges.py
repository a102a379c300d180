"""Between which numbers the settings of a training make sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from flarecli.errors import InputError
from flarecli.model.small_grid import MAX_VIEWS
from flarecli.train.losses import LossWeights

PHASE_RANGES = {
    "share": (0, 1),
    "photo_share": (0, 1),
    "images": (1, 1_000_000),
    "views": (2, MAX_VIEWS),
    "view_weights": (0, 1e9),
    "canvases": (8, 8192),
    "targets": (0, MAX_VIEWS),
    "halved": (0, 1),
}
RUN_RANGES = {
    "minutes": (0, 1e9),
    "threads": (1, 1024),
    "seed": (0, 2**32),  # times a million it is still a seed for torch
    "lr": (0, 10),
    "muon_lr": (0, 10),
    "weight_decay": (0, 1),
    "clip": (1e-6, 1e9),
    "warmup": (0, 1_000_000_000),
    "decay": (0, 1),
    "ema": (0, 1),
    "pose_noise": (0, 1000),
    "log_every": (1, 1_000_000_000),
    "checkpoint_minutes": (0, 1e9),
    "max_steps": (1, 1_000_000_000),
}
WEIGHT_RANGES = dict.fromkeys((f.name for f in fields(LossWeights)), (0, 1e6)) | {"samples": (1, 1_000_000)}


def check_ranges(settings: object, where: str, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse numbers, also those inside of tuples, that no run makes sense with; NaN is outside of every range.

    Args:
        settings: has fields of the names in ``ranges``; those that are None are left out.
        where: follows the field's name in the error.
        ranges: smallest and largest value by field.

    Raises:
        InputError: a value lies outside.
    """
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        wrong = [number for number in _numbers(value) if not low <= number <= high]
        if wrong:
            raise InputError(f"{name} {where} must be between {low:g} and {high:g}, not {wrong[0]}", f"change {name}")


def _numbers(value: Any) -> list[float]:
    if isinstance(value, tuple):
        return [number for part in value for number in _numbers(part)]
    return [] if value is None else [value]
