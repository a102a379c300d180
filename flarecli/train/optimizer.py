"""Muon for the matrices of transformer blocks, AdamW for everything else, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of (n, rows, columns) matrices close to one, in bfloat16.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers", quintic Newton-Schulz iteration.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.transpose(-1, -2) if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(-1, -2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.transpose(-1, -2) if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is orthogonalised; for two-dimensional weights only.

    Packed query-key-value projections are treated as their three square parts.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Apply one update; matrices of equal shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for param in group["params"]:
                if param.grad is not None:
                    by_shape.setdefault(param.shape, []).append(param)
            for shape, params in by_shape.items():
                self._update(group, shape, params)

    def _update(self, group: dict, shape: torch.Size, params: list[Tensor]) -> None:
        rows, columns = shape
        parts = rows // columns if rows == 3 * columns else 1
        updates = []
        for param in params:
            momentum = self.state[param].setdefault("momentum", torch.zeros_like(param))
            gradient = param.grad if param.grad is not None else torch.zeros_like(param)
            momentum.lerp_(gradient, 1 - group["momentum"])
            updates.append(gradient.lerp(momentum, group["momentum"]).view(parts, rows // parts, columns))
        flat = orthogonalise(torch.cat(updates)).view(len(params), rows, columns)
        scale = math.sqrt(max(1.0, rows / parts / columns))
        for param, update in zip(params, flat, strict=True):
            param.mul_(1 - group["lr"] * group["weight_decay"])
            param.add_(update, alpha=-group["lr"] * scale)


def build_optimizers(network: nn.Module, lr: float, muon_lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Muon on the linear weights inside attention and MLP blocks, AdamW on the rest (no decay on vectors)."""
    blocks, matrices, vectors = [], [], []
    for name, param in network.named_parameters():
        in_block = any(part in name for part in (".attn.", ".mlp."))
        (blocks if in_block and param.ndim == 2 else matrices if param.ndim >= 2 else vectors).append(param)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    muon = Muon(blocks, lr=muon_lr)
    for optimizer in (adamw, muon):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [adamw, muon]


def take_step(
    network: nn.Module, optimizers: Sequence[torch.optim.Optimizer], factor: float, clip: float
) -> tuple[float, bool]:
    """One step along the gradients, none where they are not finite.

    Args:
        network: holds the gradients, which are clipped in place.
        optimizers: of :func:`build_optimizers`.
        factor: of the peak learning rates.
        clip: largest norm of all gradients together.

    Returns:
        The norm before it was clipped, and whether the step was taken.
    """
    norm = nn.utils.clip_grad_norm_(network.parameters(), clip)
    finite = bool(torch.isfinite(norm))
    if finite:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
    return float(norm), finite


def learning_rate_factor(step: int, progress: float, warmup: int, decay: float, floor: float = 0.02) -> float:
    """Warm-up, constant, and a cosine to ``floor`` over the last ``decay`` share of the run.

    Args:
        step: steps since the start of this process (the warm-up is repeated after a resume).
        progress: share of the run that is done, 0 to 1.
        warmup: steps of linear warm-up.
        decay: share of the run in which the rate falls.
        floor: final factor.
    """
    rise = min(1.0, (step + 1) / max(1, warmup))
    if decay <= 0 or progress < 1 - decay:
        return rise
    fall = min(1.0, (progress - (1 - decay)) / decay)
    return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fall)))
