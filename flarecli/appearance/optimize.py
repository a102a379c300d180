"""Optimising the Gaussians of a finished scene, guarded by held-out photos, with checkpoints and a time limit."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flarecli.appearance.fit import (
    FitOptions,
    FitState,
    fit,
    mean_psnr,
    start_fit,
)
from flarecli.appearance.fit_checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from flarecli.appearance.holdout import choose_held_out, gaussians_without
from flarecli.appearance.photos import Progress, View, load_views, rendering_device
from flarecli.appearance.render_back import render_back
from flarecli.errors import InputError, OutputError
from flarecli.export import write_formats
from flarecli.export.archive import load_scene, save_scene
from flarecli.export.gaussian_files import GAUSSIAN_FILES, scene_gaussians
from flarecli.export.manifest import MANIFEST_NAME, describe_files, read_manifest, write_manifest
from flarecli.export.verify import verify_scene
from flarecli.render.splats import Splats
from flarecli.scene.gaussians import Gaussians
from flarecli.scene.reconstruction import Reconstruction

_CHECKPOINT_SECONDS = 20.0
_GUARD_SHARE = 0.55  # of the time limit; the rest is for the run with all photos
LONG_SIDE = {"cpu": 256, "cuda": 1024}
DEFAULT_STEPS = {"cpu": 300, "cuda": 7000}


@dataclass(frozen=True, kw_only=True)
class OptimizeJob:
    """What `flare optimize` does.

    Attributes:
        scene: finished scene folder.
        steps: of each of the two runs; None takes 300 on a CPU and 7000 on CUDA.
        minutes: time limit of everything; None has none.
        hold_out: photos that guard, as for :func:`choose_held_out`.
        long_side: of the photos that are fitted; None takes 256 on a CPU and 1024 on CUDA.
        sh_degree: degree of the colours.
        move_cameras: let the cameras move while fitting.
        adapt_exposure: let exposures differ while fitting.
        densify: add and remove Gaussians; None does so on CUDA.
        resume: go on from the checkpoint of a run that was cut short.
        seed: of the order of the photos.
        device: auto, cpu, cuda, cuda:N.
    """

    scene: Path
    steps: int | None = None
    minutes: float | None = None
    hold_out: int | Sequence[str] | None = None
    long_side: int | None = None
    sh_degree: int = 0
    move_cameras: bool = True
    adapt_exposure: bool = True
    densify: bool | None = None
    resume: bool = False
    seed: int = 0
    device: str = "auto"


@dataclass
class _Run:
    """The fixed parts of one job, and what the first run found."""

    job: OptimizeJob
    options: FitOptions
    reconstruction: Reconstruction
    views: list[View]
    held_out: tuple[str, ...]
    device: torch.device
    deadline: float
    guard: dict[str, Any] = field(default_factory=dict)


def optimize_scene(job: OptimizeJob, on_progress: Progress | None = None) -> dict[str, Any]:
    """Fit a scene's Gaussians to its photos where that makes new views better, and write them.

    First the Gaussians without the held-out photos are fitted to the other photos; the held-out photos tell after how
    many steps new views are best. Where no step beats the start, nothing is written. Otherwise the scene's Gaussians
    are fitted to all photos for that many steps and written, unless they then look less like the photos than before.

    Returns:
        JSON values: ``improved``, ``held_out``, ``held_out_psnr_db`` (before, after), ``best_step``, ``history``,
        ``photos_psnr_db`` (before, after the run with all photos; after is None where there was none), ``gaussians``,
        ``steps``, ``long_side``, ``seconds``, ``files``.

    Raises:
        InputError: no finished scene, too few photos, or a checkpoint of another job.
        OutputError: the scene can't be written.
    """
    started = time.monotonic()
    run = _prepare(job, started, on_progress)
    checkpoint = job.scene / CHECKPOINT_NAME
    phase, state = "", None
    if job.resume:
        phase, state, run.guard = load_checkpoint(checkpoint, _signature(run), run.device)
    if phase != "all":
        state = _guard_run(run, state, started, on_progress)
        first, best = state.history[0][1], max(score for _, score in state.history)
        run.guard = {"best_step": state.best_step, "history": state.history, "psnr_db": [first, best]}
        state = None
    out: dict[str, Any] = {
        "improved": False,
        "held_out": list(run.held_out),
        "held_out_psnr_db": run.guard["psnr_db"],
        "best_step": run.guard["best_step"],
        "history": [list(each) for each in run.guard["history"]],
        "photos_psnr_db": None,
        "steps": run.options.steps,
        "long_side": max(run.views[0].size_hw),
        "files": [],
    }
    if run.guard["best_step"] > 0:
        out |= _final_run(run, state, on_progress)
    checkpoint.unlink(missing_ok=True)
    return out | {"seconds": round(time.monotonic() - started, 1)}


def _prepare(job: OptimizeJob, started: float, on_progress: Progress | None) -> _Run:
    device = rendering_device(job.device)
    reconstruction = load_scene(job.scene)
    read_manifest(job.scene)  # refuses what is no finished scene before the work begins
    held_out = choose_held_out(reconstruction.image_names, job.hold_out)
    views = load_views(job.scene, reconstruction, job.long_side or LONG_SIDE[device.type], device, on_progress)
    if min(min(view.size_hw) for view in views) < 16:
        raise InputError("the photos are too small to be fitted", "use a larger --long-side")
    options = FitOptions(
        steps=job.steps or DEFAULT_STEPS[device.type],
        sh_degree=job.sh_degree,
        move_cameras=job.move_cameras,
        adapt_exposure=job.adapt_exposure,
        densify=device.type == "cuda" if job.densify is None else job.densify,
        seed=job.seed,
    )
    deadline = math.inf if job.minutes is None else started + 60 * job.minutes
    return _Run(job, options, reconstruction, views, held_out, device, deadline)


def _signature(run: _Run) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on with."""
    options = dataclasses.asdict(run.options)
    return {"options": options, "held_out": list(run.held_out), "sizes": [list(view.size_hw) for view in run.views]}


def _guard_run(run: _Run, state: FitState | None, started: float, on_progress: Progress | None) -> FitState:
    rest = [view for view in run.views if view.name not in run.held_out]
    guards = [view for view in run.views if view.name in run.held_out]
    if state is None:
        first = Splats.of(gaussians_without(run.reconstruction, run.held_out), run.device)
        state = start_fit(first, len(rest), run.options)
    limit = started + _GUARD_SHARE * (run.deadline - started)
    return fit(
        state,
        rest,
        guards,
        run.options,
        deadline=limit,
        on_step=_keeper(run, "guard", run.options.steps, on_progress),
    )


def _final_run(run: _Run, state: FitState | None, on_progress: Progress | None) -> dict[str, Any]:
    before = Splats.of(scene_gaussians(run.reconstruction), run.device)
    # The run that was measured began from the first Gaussians, so this one does.
    first = Splats.of(gaussians_without(run.reconstruction, ()), run.device)
    if state is None:
        state = start_fit(first, len(run.views), run.options)
    best_step = run.guard["best_step"]
    keeper = _keeper(run, "all", best_step, on_progress)
    fit(state, run.views, (), run.options, stop_at=best_step, deadline=run.deadline, on_step=keeper)
    scores = [mean_psnr(before, run.views), mean_psnr(state.best, run.views)]
    if scores[1] <= scores[0]:
        return {"photos_psnr_db": scores}
    out = {"improved": True, "photos_psnr_db": scores, "gaussians": len(state.best)}
    notes = {"held_out_psnr_db": run.guard["psnr_db"], "photos_psnr_db": scores, "steps": state.step}
    return out | {"files": replace_gaussians(run.job.scene, run.reconstruction, state.best.to_gaussians(), notes)}


def _keeper(run: _Run, phase: str, total: int, on_progress: Progress | None) -> Any:
    """Reports progress and keeps a checkpoint every twenty seconds."""
    last = time.monotonic()

    def keep(state: FitState) -> None:
        nonlocal last
        if on_progress:
            on_progress({"guard": "fitting, photos held out", "all": "fitting all photos"}[phase], state.step, total)
        if time.monotonic() - last > _CHECKPOINT_SECONDS and state.step < total:
            save_checkpoint(run.job.scene / CHECKPOINT_NAME, phase, state, _signature(run), run.guard)
            last = time.monotonic()

    return keep


def replace_gaussians(
    scene: Path, reconstruction: Reconstruction, gaussians: Gaussians, notes: dict[str, Any]
) -> list[str]:
    """Put other Gaussians into a scene: its archive, gaussians.ply, and its .splat, .spz and .sog where it has them.

    Everything is written beside and checked before the first file moves; other files of the scene stay.

    Raises:
        OutputError: the folder can't be written.
        VerificationError: a written file does not read back.
    """
    manifest = read_manifest(scene)
    names = [name for name in GAUSSIAN_FILES if name == "gaussians" or name in manifest.get("exports", {})]
    provenance = dict(reconstruction.provenance) | {"gaussians": "optimised", "optimize": notes}
    updated = dataclasses.replace(reconstruction, gaussians=gaussians, provenance=provenance)
    try:
        staging = Path(tempfile.mkdtemp(prefix=".optimize-", dir=scene))
    except OSError as error:
        raise OutputError(
            f"{scene} can't be written: {error.strerror}", "check the folder, its permissions and its space"
        ) from error
    try:
        written = write_formats(updated, staging, names)
        verify_scene(staging)
        save_scene(updated, staging)
        entries = {entry["path"]: entry for entry in describe_files(staging)}
        rendered = render_back(scene, updated, [staging / GAUSSIAN_FILES[name] for name in names])
        files = {entry["path"]: entry for entry in manifest["files"]} | entries
        manifest["files"] = [files[path] for path in sorted(files)]
        manifest["exports"] |= {name: [path.name for path in paths] for name, paths in written.files.items()}
        manifest["render_back"] = manifest.get("render_back", {}) | rendered
        manifest["counts"]["gaussians"] = len(gaussians)
        manifest["model"] = manifest["model"] | {"gaussians": "optimised", "optimize": notes}
        write_manifest(staging, manifest)
        for path in [*entries, MANIFEST_NAME]:  # the manifest last: until then it tells that files changed
            (staging / path).replace(scene / path)
    except OSError as error:
        raise OutputError(f"{scene} can't be written: {error.strerror or error}", "free some space") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return sorted(entries)
