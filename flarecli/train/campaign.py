"""One phase of a training on a borrowed GPU: check, train for a fixed time, measure, leave everything to go on with."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flarecli.errors import InputError
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.model.shards import AVERAGE, load_shards
from flarecli.runtime import device_name, require, resolve_device
from flarecli.train.captures import capture_shards, read_capture
from flarecli.train.checkpoint import load_state, save_average, take_back
from flarecli.train.config import TrainConfig
from flarecli.train.data import ShardPlan, ShardSource, prerender
from flarecli.train.evaluate import evaluate_synthetic
from flarecli.train.evaluate_rendering import evaluate_rendering
from flarecli.train.generator import Generator
from flarecli.train.loop import run
from flarecli.train.losses import LossWeights
from flarecli.train.phases import PHASES
from flarecli.train.photos import check_photos, evaluate_photos
from flarecli.train.primitives import Draw
from flarecli.train.renderer_check import check_renderer
from flarecli.train.textures import list_textures, load_stack, split_textures, unpack

_RENDERED = 64  # held-out scenes whose novel views are rendered
_PHOTO_COUNTS = (2, 4)  # photos of the subsets that are measured


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """One run.

    Attributes:
        textures: folder of pictures, or the tar file that holds them.
        output: folder for what is to be brought home: report, curve, weights; see :func:`run_phase`.
        minutes: of the training loop, with loading its textures and its validations; checks before it and measurements
            after it take a few more.
        phase: key of ``PHASES``.
        size: row of the network's sizes.
        start: weights file or checkpoint folder to go on from.
        photos: folders of posed photos to measure on, never to train on.
        captures: scenes of real photos with cameras to train on beside the rendered ones, see
            :func:`flarecli.train.captures.read_capture`; a phase that trains the Gaussian head alone takes none.
        work: folder for what need not travel: textures, shards, and the checkpoint that a run cut off goes on from;
            None takes ``output`` with ``-work`` after its name.
        long_side: of the images that are trained on, in pixels.
        texture_size: side of the textures.
        images: images per step; None takes the phase's own number.
        compile: see :class:`flarecli.train.config.TrainConfig`.
        held_out: held-out scenes to measure on.
        device: auto, cpu, cuda.
        seed: of scenes and batches; a new one for every run.
        max_steps: stop after this many steps, phases and decay included.
    """

    textures: Path
    output: Path
    minutes: float
    phase: int = 1
    size: str = "s"
    start: Path | None = None
    photos: tuple[Path, ...] = ()
    captures: tuple[Path, ...] = ()
    work: Path | None = None
    long_side: int = 224
    texture_size: int = 256
    images: int | None = None
    compile: bool = False
    held_out: int = 256
    device: str = "auto"
    seed: int = 0
    max_steps: int | None = None

    @property
    def workshop(self) -> Path:
        """The folder that ``work`` means."""
        return self.work or self.output.with_name(self.output.name + "-work")


def run_phase(campaign: Campaign, on_progress: Callable[[str, int, int], None] | None = None) -> dict[str, Any]:
    """Run one phase.

    ``output`` then holds ``weights`` (the averaged weights as shards, and the state of the run), ``metrics.jsonl`` and
    ``report.json``: of size s seven files below 16 MiB. All but the measurements is there as soon as the training is
    over. A phase that was cut off goes on from the checkpoint in its work folder.

    Returns:
        The report.

    Raises:
        VerificationError: the renderer of this machine does not show the same world from two places.
        InputError: data are missing or not of the right form, or there is no such phase.
        MissingDependency: a package is missing that the run would need at its end.
    """
    if campaign.phase not in PHASES:
        raise InputError(f"there is no phase {campaign.phase}", f"choose one of {', '.join(map(str, PHASES))}")
    if campaign.size not in SIZES:
        raise InputError(f"unknown network size {campaign.size!r}", f"use one of {', '.join(SIZES)}")
    device, began = resolve_device(campaign.device), time.monotonic()
    _check_packages(campaign, device)
    check_photos(campaign.photos, campaign.long_side, SIZES[campaign.size].patch, _PHOTO_COUNTS)
    for folder in (campaign.output, campaign.workshop):
        folder.mkdir(parents=True, exist_ok=True)
    textures = _textures(campaign)
    trained, held_out = split_textures(list_textures(textures))
    generator = Generator(load_stack(trained, campaign.texture_size, device), Draw.seeded(campaign.seed, device))
    images = campaign.images or PHASES[campaign.phase][0].images
    report: dict[str, Any] = {
        "device": device_name(device),
        "phase": campaign.phase,
        "renderer": check_renderer(generator, _canvases(campaign.long_side)[0], images),
    }
    validation = campaign.workshop / "held-out"
    plan = ShardPlan(math.ceil(campaign.held_out / 64), min(64, campaign.held_out), _canvases(campaign.long_side), 99)
    prerender(load_stack(held_out, campaign.texture_size), validation, plan)
    config = _config(campaign, textures, validation, _capture(campaign))
    report["prepared_s"] = round(time.monotonic() - began, 1)
    checkpoint = run(config, on_progress)
    report["state"] = json.loads((checkpoint / "state.json").read_text())
    _leave(checkpoint, campaign.output)
    # The report is written anew after each measurement: what fails later must not take away what is known.
    _write_report(campaign, report)
    for name, found in _measurements(campaign, checkpoint, device):
        report |= {name: found, "total_s": round(time.monotonic() - began, 1)}
        _write_report(campaign, report)
    return report


def _leave(checkpoint: Path, output: Path) -> None:
    """Put what the training made where it is brought home from: averaged weights, state and curve."""
    folder = output / "weights"
    folder.mkdir(exist_ok=True)
    for old in folder.glob(f"{AVERAGE}-*-of-*.safetensors"):
        old.unlink()
    save_average(load_shards(checkpoint, AVERAGE), folder, load_state(checkpoint))
    shutil.copyfile(checkpoint.with_name("metrics.jsonl"), output / "metrics.jsonl")


def _write_report(campaign: Campaign, report: dict[str, Any]) -> None:
    (campaign.output / "report.json").write_text(json.dumps(report, indent=1))


def _measurements(campaign: Campaign, checkpoint: Path, device: torch.device) -> Iterator[tuple[str, dict[Any, Any]]]:
    """What the averaged weights can do, one measurement after the other, each with its name in the report."""
    network = FlareSmall(SIZES[campaign.size])
    network.load_state_dict(load_shards(checkpoint, AVERAGE))
    network.to(device)
    source = ShardSource.open(campaign.workshop / "held-out")
    yield "held_out", {views: evaluate_synthetic(network, source, campaign.held_out, views, device) for views in (2, 4)}
    if any(phase.train_only for phase in PHASES[campaign.phase]):
        scenes = min(campaign.held_out, _RENDERED)
        yield "rendering", evaluate_rendering(network, source, scenes, 2, device)
    if campaign.photos:
        folders = list(campaign.photos)
        yield (
            "photos",
            {count: evaluate_photos(network, folders, campaign.long_side, count) for count in _PHOTO_COUNTS},
        )


def _check_packages(campaign: Campaign, device: torch.device) -> None:
    """Fail for a missing package before the minutes are spent."""
    if device.type == "cuda":
        require("cupy", "Scenes rendered on CUDA")
        if any(phase.train_only for phase in PHASES[campaign.phase]):
            require("gsplat", "Gaussians on CUDA")
    if campaign.photos:
        require("poselib", "Poses of measured photos")


def _textures(campaign: Campaign) -> Path:
    """The folder of pictures; an archive is unpacked as a whole or not at all, so that no part of it is trained on."""
    if campaign.textures.is_dir():
        return campaign.textures
    folder = campaign.workshop / "textures"
    if not folder.exists():
        part = folder.with_name("textures.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        unpack(campaign.textures, part)
        part.rename(folder)
    return folder


def _canvases(long_side: int) -> tuple[tuple[int, int], ...]:
    """Shapes 4:3, 3:2, 16:9 and nearly square, in whole patches of any size of the network."""
    return tuple((max(16, round(long_side * share / 16) * 16), long_side) for share in (0.75, 2 / 3, 0.5625, 0.875))


def _capture(campaign: Campaign) -> Path | None:
    """Shards of the real photos, if this phase takes any; a phase that was cut off has them already."""
    if not campaign.captures or all(phase.train_only for phase in PHASES[campaign.phase]):
        return None
    folder = campaign.workshop / "captures"
    if not folder.exists():
        part, multiple = folder.with_name("captures.part"), SIZES[campaign.size].patch
        scenes = [read_capture(path) for path in campaign.captures]
        capture_shards(scenes, part, campaign.long_side, multiple=multiple, seed=campaign.seed)
        part.rename(folder)
    return folder


def _config(campaign: Campaign, textures: Path, validation: Path, captured: Path | None) -> TrainConfig:
    phases = tuple(
        replace(
            phase,
            canvases=_canvases(campaign.long_side),
            images=campaign.images or phase.images,
            photos=None if captured is None or phase.train_only else str(captured),
        )
        for phase in PHASES[campaign.phase]
    )
    checkpoint = campaign.workshop / "run" / "checkpoint"
    earlier = load_state(checkpoint) if take_back(checkpoint) else None
    return TrainConfig(
        output=str(checkpoint.parent),
        minutes=campaign.minutes,
        phases=phases,
        size=campaign.size,
        start=None if campaign.start is None else str(campaign.start),
        textures=str(textures),
        texture_size=campaign.texture_size,
        validation=str(validation),
        device=campaign.device,
        compile=campaign.compile,
        seed=campaign.seed + (earlier.step if earlier else 0),
        checkpoint_minutes=3.0,
        max_steps=campaign.max_steps,
        weights=LossWeights(pose=0.5, focal=2.0, points=1.0, match=0.4, descriptor=0.8, samples=192),
    )
