"""An adaptation in progress and its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flarecli.model.flare_small import FlareSmall
from flarecli.model.resume import load_progress, save_progress

CHECKPOINT_NAME = ".self-supervised-checkpoint.pt"


@dataclass(slots=True)
class AdaptState:
    """Everything that changes while a network adapts.

    Attributes:
        network: what is trained.
        optimizers: its optimisers.
        step: steps that are done.
        seconds: spent on them and on the looks at held-out photos, earlier processes included.
        best: weights with which the held-out photos looked best, on the CPU.
        best_step: the step after which that was.
        history: (step, mean PSNR in dB of the held-out photos) at every look.
        averages: moving averages of the loss terms.
    """

    network: FlareSmall
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_step: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    averages: dict[str, float] = field(default_factory=dict)

    def look(self, score: float) -> None:
        """Remember how good the network is now."""
        if not self.history or score > max(each for _, each in self.history):
            self.best_step = self.step
            self.best = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
        self.history.append((self.step, score))


def save_state(path: Path, state: AdaptState, signature: dict[str, Any]) -> None:
    """Write the state; the file before stays until the new one is whole."""
    values = {
        "network": state.network.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
        "step": state.step,
        "seconds": state.seconds,
        "best": state.best,
        "best_step": state.best_step,
        "history": [list(each) for each in state.history],
        "averages": state.averages,
    }
    save_progress(path, values, signature)


def load_state(path: Path, state: AdaptState, signature: dict[str, Any]) -> None:
    """Bring a fresh state to where a checkpoint was; without a file it stays fresh.

    Raises:
        InputError: the file is damaged, or belongs to a run with other options, photos or weights.
    """

    def restore(values: dict[str, Any]) -> None:
        state.network.load_state_dict(values["network"])
        for optimizer, saved in zip(state.optimizers, values["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        state.history = [(int(step), float(score)) for step, score in values["history"]]
        state.step, state.seconds, state.averages = values["step"], values["seconds"], values["averages"]
        state.best, state.best_step = values["best"], values["best_step"]

    load_progress(path, signature, restore, torch.device("cpu"), "use the same, or another --output")
