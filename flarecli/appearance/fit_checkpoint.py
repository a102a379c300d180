"""Checkpoints of a fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from flarecli.appearance.fit import FitOptions, FitState, start_fit
from flarecli.model.resume import load_progress, save_progress
from flarecli.render.splats import Splats

CHECKPOINT_NAME = ".optimize-checkpoint.pt"
_SPLATS = tuple(each.name for each in dataclasses.fields(Splats))


def save_checkpoint(path: Path, phase: str, state: FitState, signature: dict[str, Any], guard: dict[str, Any]) -> None:
    """Write a fit in progress; the file before stays until the new one is whole."""
    values = {
        "phase": phase,
        "guard": guard,
        "step": state.step,
        "params": {name: param.detach() for name, param in state.params.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()},
        "best_step": state.best_step,
        "best": {name: getattr(state.best, name).detach() for name in _SPLATS},
        "history": [list(each) for each in state.history],
        "strategy": state.strategy,
        "reach": state.reach,
    }
    save_progress(path, values, signature)


def load_checkpoint(
    path: Path, signature: dict[str, Any], device: torch.device
) -> tuple[str, FitState | None, dict[str, Any]]:
    """Phase, state and guard's result of a checkpoint; an empty phase where there is none.

    Raises:
        InputError: the file is damaged, or belongs to a job with other options or photos.
    """

    def restore(values: dict[str, Any]) -> tuple[str, FitState, dict[str, Any]]:
        params = values["params"]
        options = FitOptions(**signature["options"])
        best = Splats(*(values["best"][name] for name in _SPLATS))
        state = start_fit(best, len(params["cameras"]), options)
        state.params = {name: torch.nn.Parameter(value) for name, value in params.items()}
        for name, optimizer in state.optimizers.items():
            # A densified fit has other sizes than the start.
            optimizer.param_groups[0]["params"] = [state.params[name]]
            optimizer.state.clear()
            optimizer.load_state_dict(values["optimizers"][name])
        state.step, state.best_step, state.best = values["step"], values["best_step"], best
        state.history = [(int(step), float(score)) for step, score in values["history"]]
        state.strategy, state.reach = values["strategy"], values["reach"]
        return values["phase"], state, values["guard"]

    found = load_progress(path, signature, restore, device, "use the same, or leave --resume out")
    return ("", None, {}) if found is None else found
