"""`flare train --self-supervised`: the small network adapted to photos without cameras, guarded by held-out photos."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flarecli.adapt.check import reconstruction_psnr
from flarecli.adapt.guard import held_out_psnr
from flarecli.adapt.objective import ObjectiveWeights, objective
from flarecli.adapt.sets import choose_set, overlaps
from flarecli.adapt.state import CHECKPOINT_NAME, AdaptState, load_state, save_state
from flarecli.adapt.study import Progress, Study, study_photos
from flarecli.appearance.holdout import choose_held_out
from flarecli.errors import InputError, OutputError, OutputExists
from flarecli.images.loading import load_photos
from flarecli.inference.priors import collect_priors
from flarecli.job import SceneJob
from flarecli.model.flare_small import FlareSmall
from flarecli.model.loading import LoadedModel, load_model
from flarecli.runtime import resolve_device, seed_everything
from flarecli.train.optimizer import build_optimizers, learning_rate_factor, take_step
from flarecli.train.primitives import Draw
from flarecli.train.ship import write_weights

_MODEL = "flare-small"
_LONG_SIDE = {"cpu": 160, "cuda": 224}
_LR, _MUON_LR = 5e-4, 5e-3
_WARMUP, _DECAY, _CLIP = 10, 0.5, 1.0
_LOOKS = 8
_GUARD_EVERY = 5
_CHECKPOINT_SECONDS = 30.0
_SMOOTHING = 0.9
_MIN_VERIFIED = 3


@dataclass(frozen=True, kw_only=True)
class AdaptJob:
    """What `flare train --self-supervised` does.

    Attributes:
        sources: photos as folders, files, globs or lists.
        output: folder for the weights, the metrics and the checkpoint.
        minutes: time limit of the training, looks at held-out photos included; solving the cameras before and the
            comparison after it come on top.
        steps: stop after this many steps; with them and no minutes a run does the same every time.
        weights: weights to begin with; None takes the shipped ones.
        hold_out: photos that guard: every k-th, or names; None means every fifth, of fewer photos one.
        intrinsics: as for ``flare reconstruct``.
        resume: go on from the checkpoint of a run that was cut short.
        seed: of the order of the photos and of the solvers.
        device: auto, cpu, cuda, cuda:N.
    """

    sources: tuple[str, ...]
    output: Path
    minutes: float | None = None
    steps: int | None = None
    weights: Path | None = None
    hold_out: int | Sequence[str] | None = None
    intrinsics: str | None = None
    resume: bool = False
    seed: int = 0
    device: str = "auto"

    @property
    def target(self) -> Path:
        """The weights file."""
        return self.output / f"{_MODEL}.safetensors"

    def scene(self) -> SceneJob:
        """The same photos as a reconstruction."""
        return SceneJob(
            sources=self.sources,
            output=self.output,
            weights=self.weights,
            intrinsics=self.intrinsics,
            seed=self.seed,
            device=self.device,
        )


@dataclass(slots=True)
class _Run:
    """The fixed parts of one job."""

    job: AdaptJob
    inputs: dict[str, Any]
    start: LoadedModel
    network: FlareSmall
    device: torch.device
    full: Study
    small: Study
    shared: Tensor
    learned: list[int]
    held_out: list[int]
    weights: ObjectiveWeights = field(default_factory=ObjectiveWeights)

    @property
    def held_out_names(self) -> list[str]:
        return [self.full.names[view] for view in self.held_out]


def adapt(job: AdaptJob, on_progress: Progress | None = None) -> dict[str, Any]:
    """Train the small network further on photos alone, where that makes held-out photos look better.

    The photos' own matches solve the cameras; photos that they don't verify take no part. Held-out photos are never
    learned from. Along the way they are compared with renderings at the solved cameras, and the best weights are kept.
    In the end ``flare reconstruct --refine none`` runs with the old weights and with the best ones; if the held-out
    photos don't look better for it, the weights that are written are the ones it began with.

    Returns:
        JSON values: ``weights`` (path), ``improved``, ``held_out`` (names), ``held_out_psnr_db`` (of the reconstruction
        before and after; after is None where no step looked better), ``best_step``, ``steps``, ``history`` (step and
        PSNR at the solved cameras at every look), ``learned_from`` (names), ``unverified`` (names), ``seconds``.

    Raises:
        InputError: too few photos, or too few with cameras that matches verify; a checkpoint of another run.
        OutputExists: the output has weights already.
        WeightsError: no weights to begin with, or of another network.
        OutputError: the output can't be written.
    """
    started = time.monotonic()
    _check_output(job)
    run = _prepare(job, on_progress)
    state = AdaptState(run.network, build_optimizers(run.network, _LR, _MUON_LR, weight_decay=0.0))
    load_state(job.output / CHECKPOINT_NAME, state, _signature(run))
    _train(run, state, on_progress)
    scores = _compare(run, state, on_progress)
    improved = scores[1] is not None and scores[1] > scores[0]
    notes = {
        "adapted_to": ", ".join(run.full.names[view] for view in run.learned),
        "adapted_steps": str(state.best_step if improved else 0),
        "held_out_psnr_db": json.dumps(scores),
    }
    if improved:
        write_weights(state.best, run.network.config, job.target, notes)
    else:
        write_weights(_small(run.start).state_dict(), _small(run.start).config, job.target, notes)
    (job.output / CHECKPOINT_NAME).unlink(missing_ok=True)
    return {
        "weights": str(job.target),
        "improved": improved,
        "held_out": run.held_out_names,
        "held_out_psnr_db": scores,
        "best_step": state.best_step,
        "steps": state.step,
        "history": [list(each) for each in state.history],
        "learned_from": [run.full.names[view] for view in run.learned],
        "unverified": [name for name, good in zip(run.full.names, run.full.verified, strict=True) if not good],
        "seconds": round(time.monotonic() - started, 1),
    }


def _check_output(job: AdaptJob) -> None:
    if job.target.exists():
        raise OutputExists(f"{job.target} is there already", "choose another --output")
    if (job.output / CHECKPOINT_NAME).exists() and not job.resume:
        raise OutputExists(f"{job.output} holds a run that was cut short", "go on with --resume, or choose another")


def _make_output(job: AdaptJob) -> None:
    try:
        job.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{job.output} can't be made: {error.strerror}", "choose another --output") from error


def _prepare(job: AdaptJob, on_progress: Progress | None) -> _Run:
    photo_set = load_photos(job.sources, on_progress=on_progress)
    photos = photo_set.photos
    if len(photos) < _MIN_VERIFIED:
        raise InputError(
            f"self-supervision needs {_MIN_VERIFIED} photos, not {len(photos)}", "two are learned from, one judges"
        )
    priors = collect_priors(photos, intrinsics_from=job.intrinsics, poses=None, shared="auto")
    seed_everything(job.seed)
    device = resolve_device(job.device)
    model = load_model(_MODEL, weights=job.weights, device=device)
    network = _with_gaussian_head(_small(model)).to(device)
    _make_output(job)  # now, so that a place that can't be written costs no minutes of work
    full = study_photos(photos, priors, model, device, seed=job.seed, on_progress=on_progress).to(device)
    verified = [name for name, good in zip(full.names, full.verified, strict=True) if good]
    if len(verified) < _MIN_VERIFIED:
        raise InputError(
            f"only {len(verified)} of {len(photos)} photos have cameras that matches verify, {_MIN_VERIFIED} must",
            "give more photos of the scene that overlap more",
        )
    wanted = min(_GUARD_EVERY, len(verified)) if job.hold_out is None else job.hold_out
    held = choose_held_out(verified, wanted)
    learned = [full.names.index(name) for name in verified if name not in held]
    multiple = model.spec.canvas.multiple
    small = full.resized(min(_LONG_SIDE.get(device.type, _LONG_SIDE["cpu"]), full.size_hw[1]), multiple)
    held_out = [full.names.index(name) for name in held]
    inputs = job.scene().inputs(photo_set.fingerprint())
    return _Run(job, inputs, model, network, device, full, small, overlaps(small), learned, held_out)


def _small(model: LoadedModel) -> FlareSmall:
    assert isinstance(model.network, FlareSmall)  # the model of this name
    return model.network


def _with_gaussian_head(network: FlareSmall) -> FlareSmall:
    """A copy to be trained; weights that are older than the Gaussian head get one that knows nothing yet."""
    copy = FlareSmall(dataclasses.replace(network.config, gaussians=True))
    copy.load_state_dict({**copy.state_dict(), **network.state_dict()})
    return copy


def _signature(run: _Run) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on with."""
    return {
        "photos": list(run.full.names),
        "inputs": run.inputs,
        "intrinsics": run.job.intrinsics,
        "learned": run.learned,
        "held_out": run.held_out,
        "weights": run.start.weights_sha256,
        "objective": dataclasses.asdict(run.weights),
        "size": list(run.small.size_hw),
        "seed": run.job.seed,
    }


def _train(run: _Run, state: AdaptState, on_progress: Progress | None) -> None:
    job, earlier, began = run.job, state.seconds, time.monotonic()
    looks, saved = len(state.history), began
    run.network.train()
    with (job.output / "metrics.jsonl").open("a") as log:
        while True:
            state.seconds = earlier + time.monotonic() - began
            progress = _progress(job, state)
            if progress * _LOOKS >= looks or progress >= 1:
                state.look(held_out_psnr(run.network, run.full, run.learned, run.held_out))
                looks = math.floor(progress * _LOOKS) + 1
                line = {"step": state.step, "minutes": round(state.seconds / 60, 2)}
                line |= {name: round(value, 5) for name, value in state.averages.items()}
                log.write(json.dumps({**line, "held_out_psnr_db": round(state.history[-1][1], 3)}) + "\n")
                log.flush()
            if progress >= 1:
                break
            _step(run, state, progress)
            if on_progress:
                on_progress("adapting", math.floor(1000 * _progress(job, state)), 1000)
            if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                save_state(job.output / CHECKPOINT_NAME, state, _signature(run))
                saved = time.monotonic()
    save_state(job.output / CHECKPOINT_NAME, state, _signature(run))
    run.network.eval()


def _progress(job: AdaptJob, state: AdaptState) -> float:
    """Share of the run that is done: of its minutes or of its steps, whichever is farther."""
    time_share = 0.0 if job.minutes is None else state.seconds / max(60 * job.minutes, 1e-9)
    step_share = 0.0 if job.steps is None else state.step / job.steps
    return min(1.0, max(time_share, step_share))


def _step(run: _Run, state: AdaptState, progress: float) -> None:
    """One optimiser step; all randomness depends on the seed and the step alone."""
    seed = run.job.seed * 1_000_003 + state.step
    torch.manual_seed(seed)  # of the noise between the stages of the network
    context, targets = choose_set(run.shared, run.learned, torch.Generator().manual_seed(seed))
    with torch.autocast(run.device.type, torch.bfloat16):
        out = run.network(run.small.rgb[context][None], run.small.portrait[context], with_gaussians=True)
    terms = objective(out, run.small, context, targets, run.weights, Draw.seeded(seed, run.device))
    run.network.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    take_step(run.network, state.optimizers, learning_rate_factor(state.step, progress, _WARMUP, _DECAY), _CLIP)
    state.step += 1
    for name, term in terms.items():
        value = float(term.detach())
        state.averages[name] = _SMOOTHING * state.averages.get(name, value) + (1 - _SMOOTHING) * value


def _compare(run: _Run, state: AdaptState, on_progress: Progress | None) -> tuple[float, float | None]:
    """PSNR of the held-out photos after reconstructions with the old and the best weights."""
    run.network.load_state_dict(state.best)
    adapted = dataclasses.replace(run.start, network=run.network)
    scores: list[float] = []
    for done, model in enumerate([run.start, adapted] if state.best_step else [run.start]):
        scores.append(reconstruction_psnr(run.job.scene(), model, run.held_out_names, run.device))
        if on_progress:
            on_progress("comparing", done + 1, 2)
    return scores[0], scores[1] if len(scores) > 1 else None
