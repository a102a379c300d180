"""The training loop: one plain loop over batches, time-boxed, resumable, with metrics as JSON lines."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flarecli.errors import InputError
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.shards import AVERAGE, load_shards
from flarecli.runtime import resolve_device
from flarecli.train.checkpoint import TrainState, fill, load_start, load_state, save_checkpoint, take_back
from flarecli.train.config import Phase, TrainConfig, load_config
from flarecli.train.data import ShardSource, Source, vary
from flarecli.train.evaluate import evaluate_synthetic
from flarecli.train.evaluate_rendering import evaluate_rendering
from flarecli.train.generator import Batch
from flarecli.train.losses import compute_losses
from flarecli.train.optimizer import build_optimizers, learning_rate_factor, take_step
from flarecli.train.parallel import Workers, is_first, workers
from flarecli.train.primitives import Draw
from flarecli.train.render_loss import halved, rendering_losses
from flarecli.train.ship import check_target, export_weights
from flarecli.train.sources import open_source
from flarecli.train.targets import make_targets

Progress = Callable[[str, int, int], None]
_SMOOTHING = 0.95
_THOUSANDTHS = 1000  # of the run, by minutes or steps, in which its progress is told


@dataclass(slots=True)
class _Run:
    """Everything that changes while training."""

    network: FlareSmall
    ema: FlareSmall
    optimizers: list[torch.optim.Optimizer]
    device: torch.device
    workers: Workers
    step: int = 0
    samples: int = 0
    earlier_minutes: float = 0.0
    began: float = field(default_factory=time.monotonic)
    local_step: int = 0
    averages: dict[str, float] = field(default_factory=dict)

    def minutes(self) -> float:
        """Minutes trained, resumed parts included."""
        return self.earlier_minutes + (time.monotonic() - self.began) / 60


def train_from_toml(path: Path, on_progress: Progress | None = None, **overrides: Any) -> Path:
    """Train as a TOML file says; ``overrides`` replace fields of :class:`TrainConfig`.

    Beside the checkpoint, the averaged weights become a file that ``flare reconstruct --weights`` takes.

    Returns:
        The folder of the last checkpoint.

    Raises:
        InputError: unknown keys, missing data, or values that do not fit.
        OutputExists: the output holds a weights file that is not of this run.
        OutputError: the weights file can't be written.
    """
    config = load_config(path, overrides)
    target = check_target(Path(config.output)) if is_first() else None
    checkpoint = run(config, on_progress)
    if target is not None:
        export_weights(checkpoint, target, {})
    return checkpoint


def run(config: TrainConfig | Path, on_progress: Progress | None = None) -> Path:
    """Train until the minutes are over; continues the checkpoint in ``config.output`` when there is one.

    Under torchrun every process draws batches of its own and they share their gradients; the first one writes.

    Returns:
        The folder of the last checkpoint.
    """
    if isinstance(config, Path):
        config = load_config(config)
    with workers(config.device) as (together, device):
        return _train(replace(config, device=device), together, on_progress)


def _train(config: TrainConfig, together: Workers, on_progress: Progress | None) -> Path:
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    if together.leads:
        take_back(output / "checkpoint")
    together.wait()
    state = _prepare(config, together)
    # A resumed run goes on with scenes that it has not seen.
    sources = [open_source(config, phase, _seed(config, state), state.device) for phase in config.phases]
    held_out = ShardSource.open(Path(config.validation)) if config.validation else None
    checkpoint, saved = output / "checkpoint", state.minutes()
    with (output / "metrics.jsonl" if together.leads else Path(os.devnull)).open("a") as log:
        while True:
            minutes = together.agree(state.minutes())
            done = minutes >= config.minutes or (config.max_steps is not None and state.step >= config.max_steps)
            if done or minutes - saved >= config.checkpoint_minutes:
                if together.leads:
                    _save(checkpoint, config, state)
                    phase = config.phase_at(1.0 if done else config.progress(minutes, state.step))
                    _log(log, state, {"validation": _validate(state, phase, held_out)} if held_out else {})
                together.wait()
                saved = minutes
            if done:
                return checkpoint
            progress = config.progress(minutes, state.step)
            phase = config.phase_at(progress)
            terms = _step(config, phase, sources[config.phases.index(phase)], state, progress)
            _track(state, terms)
            if state.step % config.log_every == 0:
                _log(log, state, {})
                if on_progress and together.leads:
                    on_progress("train", round(_THOUSANDTHS * progress), _THOUSANDTHS)


def _prepare(config: TrainConfig, together: Workers) -> _Run:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = resolve_device(config.device)
    network = FlareSmall(SIZES[config.size], config.pose_noise)
    state = TrainState(0, 0, 0.0, config.seed, config.size)
    ema = copy.deepcopy(network)
    checkpoint = Path(config.output) / "checkpoint"
    if checkpoint.exists():
        state = load_state(checkpoint)
        if state.size != config.size:
            raise InputError(
                f"{checkpoint} holds a network of size {state.size}, not {config.size}",
                "set size to that, or choose another output",
            )
        fill(network, load_shards(checkpoint, "model"), checkpoint)
        fill(ema, load_shards(checkpoint, AVERAGE), checkpoint)
    elif config.start:
        fill(network, load_start(Path(config.start)), Path(config.start))
        ema.load_state_dict(network.state_dict())
    network.to(device).train()
    if config.compile:
        network.compile_blocks()
    ema.to(device).eval().requires_grad_(False)
    together.same(itertools.chain(network.parameters(), ema.parameters()))
    optimizers = build_optimizers(network, config.lr, config.muon_lr, config.weight_decay)
    return _Run(network, ema, optimizers, device, together, state.step, state.samples, state.minutes)


def _step(config: TrainConfig, phase: Phase, source: Source, state: _Run, progress: float) -> dict[str, float]:
    """One optimiser step. Its randomness depends on seed, step and rank alone, but for scenes rendered on the fly.

    Their source draws on from where it stands, so a resumed run sees others than one that was never stopped.
    """
    seed = _seed(config, state)
    draw = Draw.seeded(seed)
    torch.manual_seed(seed)
    views = phase.views[int(draw.choice(phase.view_weights, 1))]
    scenes = max(1, phase.images // views)
    on_device = draw if state.device.type == "cpu" else Draw.seeded(seed, state.device)
    batch = vary(source.next(draw, scenes, views + phase.targets).to(state.device), on_device)
    terms = _terms(config, phase, state, batch, on_device)
    loss = torch.stack(list(terms.values())).sum()
    state.network.zero_grad(set_to_none=True)
    loss.backward()
    state.workers.average_gradients(state.network)
    factor = learning_rate_factor(state.local_step, progress, config.warmup, config.decay)
    norm, taken = take_step(state.network, state.optimizers, factor, config.clip)
    if taken:
        _average(state.ema, state.network, min(config.ema, (1 + state.step) / (10 + state.step)))
    state.step += 1
    state.local_step += 1
    state.samples += scenes * state.workers.size
    return {**{name: float(term.detach()) for name, term in terms.items()}, "norm": norm, "rate": factor}


def _seed(config: TrainConfig, state: _Run) -> int:
    return (config.seed * 1_000_003 + state.step) * state.workers.size + state.workers.rank


def _terms(config: TrainConfig, phase: Phase, state: _Run, batch: Batch, draw: Draw) -> dict[str, Tensor]:
    """The weighted terms of a batch; where only the Gaussian head learns, the others stand still and see no noise."""
    network, only_head = state.network, phase.train_only is not None
    network.train(not only_head).requires_grad_(not only_head)
    if not only_head:
        with _autocast(state.device):
            out = network(batch.rgb, batch.portrait, phase.stages)
        return compute_losses(out, make_targets(batch), config.weights, draw)
    network.gaussian_head.requires_grad_(True)
    seen = batch.depth.shape[1] - phase.targets
    small = bool(draw.chance(phase.halved, 1)) and not any(
        side % (2 * network.config.patch) for side in batch.depth.shape[2:]
    )
    rgb = halved(batch, seen) if small else batch.rgb[:, :seen]
    with _autocast(state.device):
        out = network(rgb, batch.portrait[:, :seen], with_gaussians=True)
    return rendering_losses(out, batch, config.weights, draw)


def _autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if device.type in {"cpu", "cuda"} else contextlib.nullcontext()


@torch.no_grad()
def _average(ema: nn.Module, network: nn.Module, keep: float) -> None:
    # What stands still stays out: averaging equal numbers would still turn -0 into 0.
    pairs = [pair for pair in zip(ema.parameters(), network.parameters(), strict=True) if pair[1].requires_grad]
    torch.optim.swa_utils.get_ema_multi_avg_fn(keep)([slow for slow, _ in pairs], [fast for _, fast in pairs], 0)


def _track(state: _Run, terms: dict[str, float]) -> None:
    for name, value in terms.items():
        if math.isfinite(value):
            before = state.averages.get(name, value)
            state.averages[name] = _SMOOTHING * before + (1 - _SMOOTHING) * value


def _log(log: Any, state: _Run, extra: dict[str, Any]) -> None:
    line = {"step": state.step, "samples": state.samples, "minutes": round(state.minutes(), 2)}
    line |= {name: round(value, 4) for name, value in state.averages.items()}
    log.write(json.dumps({**line, **extra}) + "\n")
    log.flush()


def _save(checkpoint: Path, config: TrainConfig, state: _Run) -> None:
    ema: dict[str, Tensor] = state.ema.state_dict()
    reached = TrainState(state.step, state.samples, state.minutes(), config.seed, config.size)
    save_checkpoint(checkpoint, state.network.state_dict(), ema, reached)


def _validate(state: _Run, phase: Phase, held_out: ShardSource) -> dict[str, float]:
    with torch.random.fork_rng(devices=[]):
        if phase.train_only is not None:
            return evaluate_rendering(state.ema, held_out, scenes=24, seen=2, device=state.device)
        return evaluate_synthetic(state.ema, held_out, scenes=96, views=2, device=state.device)
