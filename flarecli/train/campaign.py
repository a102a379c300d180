"""One phase of a training on a borrowed GPU: check, train for a fixed time, measure, leave everything to go on with."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flarecli.errors import InputError, VerificationError
from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.runtime import device_name, require, resolve_device
from flarecli.train.cameras import RigRules
from flarecli.train.captures import capture_shards, read_capture
from flarecli.train.checkpoint import load_shards, load_state
from flarecli.train.config import Phase, TrainConfig
from flarecli.train.data import ShardPlan, ShardSource, prerender
from flarecli.train.evaluate import evaluate_synthetic
from flarecli.train.evaluate_rendering import evaluate_rendering
from flarecli.train.generator import Generator
from flarecli.train.loop import run
from flarecli.train.losses import LossWeights
from flarecli.train.photos import evaluate_photos
from flarecli.train.primitives import Draw
from flarecli.train.renderer import RenderSize
from flarecli.train.ship import export_weights
from flarecli.train.targets import find_matches, make_targets
from flarecli.train.textures import list_textures, load_stack, split_textures, unpack

PHASES = {
    1: (
        Phase(share=0.4, stages=1, images=256, views=(2, 3), view_weights=(0.7, 0.3)),
        Phase(share=0.6, stages=3, images=256, views=(2, 3, 4), view_weights=(0.6, 0.2, 0.2)),
    ),
    2: (Phase(share=1.0, images=256, views=(2, 3, 4, 6, 8), view_weights=(0.35, 0.15, 0.25, 0.1, 0.15)),),
    3: (
        Phase(
            share=1.0,
            images=96,
            views=(2, 3, 4),
            view_weights=(0.5, 0.25, 0.25),
            train_only="gaussians",
            targets=2,
            halved=0.5,
        ),
    ),
}
"""What a phase trains: 1 begins with matching and coarse poses, 2 goes on with everything and up to 8 views, 3 teaches
the Gaussian head of a network that stands still."""

_CHECK_SCENES = 16
_COLOUR_LIMIT = 0.1  # of the range: the same point in two photos; random pixels differ about twice as much
_SAMPLES = 200
_RENDERED = 64  # held-out scenes whose novel views are rendered


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """One run.

    Attributes:
        textures: folder of pictures, or the tar file that holds them.
        output: folder for everything that is written.
        minutes: of training alone; checks and measurements take a few more.
        phase: key of ``PHASES``.
        size: row of the network's sizes.
        start: weights file or checkpoint folder to go on from.
        photos: folders of posed photos to measure on, never to train on.
        captures: scenes of real photos with cameras to train on beside the rendered ones, see
            :func:`flarecli.train.captures.read_capture`.
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
    long_side: int = 224
    texture_size: int = 256
    images: int | None = None
    compile: bool = False
    held_out: int = 256
    device: str = "auto"
    seed: int = 0
    max_steps: int | None = None


def run_phase(campaign: Campaign, on_progress: Callable[[str, int, int], None] | None = None) -> dict[str, Any]:
    """Run one phase; ``output`` then holds ``run/checkpoint``, ``run/metrics.jsonl``, the weights and ``report.json``.

    An output that was cut off goes on from its own checkpoint.

    Returns:
        The report.

    Raises:
        VerificationError: the renderer of this machine does not show the same world from two places.
        InputError: data are missing, or there is no such phase.
        MissingDependency: a package is missing that the run would need at its end.
    """
    if campaign.phase not in PHASES:
        raise InputError(f"there is no phase {campaign.phase}", f"choose one of {', '.join(map(str, PHASES))}")
    device, began = resolve_device(campaign.device), time.monotonic()
    _check_packages(campaign, device)
    campaign.output.mkdir(parents=True, exist_ok=True)
    folder = _textures(campaign)
    trained, held_out = split_textures(list_textures(folder))
    generator = Generator(load_stack(trained, campaign.texture_size, device), Draw.seeded(campaign.seed, device))
    report: dict[str, Any] = {
        "device": device_name(device),
        "phase": campaign.phase,
        "renderer": check_renderer(generator, _canvases(campaign.long_side)[0]),
    }
    validation = campaign.output / "held-out"
    plan = ShardPlan(math.ceil(campaign.held_out / 64), min(64, campaign.held_out), _canvases(campaign.long_side), 99)
    prerender(load_stack(held_out, campaign.texture_size), validation, plan)
    report["prepared_s"] = round(time.monotonic() - began, 1)
    captured = _capture(campaign)
    checkpoint = run(_config(campaign, folder, validation, captured), on_progress)
    report["state"] = json.loads((checkpoint / "state.json").read_text())
    network = FlareSmall(SIZES[campaign.size])
    network.load_state_dict(load_shards(checkpoint, "ema"))
    network.to(device)
    source = ShardSource.open(validation)
    report["held_out"] = {
        views: evaluate_synthetic(network, source, campaign.held_out, views, device) for views in (2, 4)
    }
    if any(phase.train_only for phase in PHASES[campaign.phase]):
        scenes = min(campaign.held_out, _RENDERED)
        report["rendering"] = evaluate_rendering(network, source, scenes, 2, device)
    if campaign.photos:
        on_cpu = network.cpu()
        report["photos"] = {
            count: evaluate_photos(on_cpu, list(campaign.photos), campaign.long_side, count) for count in (2, 4)
        }
    report["total_s"] = round(time.monotonic() - began, 1)
    (campaign.output / "report.json").write_text(json.dumps(report, indent=1))
    export_weights(checkpoint, campaign.output / "flare-small.safetensors", {"device": report["device"]})
    return report


def check_renderer(generator: Generator, canvas: tuple[int, int]) -> dict[str, float]:
    """Render a few scenes and look at the same points from two places.

    Returns:
        ``images_per_second``, ``visible`` (share of pixels that the other view sees) and ``colour_difference``
        (median over those, 0 to 1).

    Raises:
        VerificationError: the colours do not agree.
    """
    size = RenderSize(*canvas)
    generator.batch(2, RigRules(2), size)  # compiles the kernel
    began = time.monotonic()
    batch = generator.batch(_CHECK_SCENES, RigRules(4), size)
    rate = batch.depth.shape[0] * batch.depth.shape[1] / (time.monotonic() - began)
    batch = batch.to(torch.device("cpu"))
    targets, (height, width) = make_targets(batch), canvas
    draw = Draw.seeded(0)
    pixels = draw.integers(height * width, len(batch.kind), 1, _SAMPLES)
    source, target = torch.zeros(len(batch.kind), 1, dtype=torch.long), torch.ones(len(batch.kind), 1, dtype=torch.long)
    matches = find_matches(targets, source, target, pixels, stride=8)
    column, row = matches.location.long().unbind(-1)
    there = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1))[:, 0]
    colours = [batch.rgb[:, view].flatten(2).transpose(1, 2) for view in (0, 1)]
    first, second = (
        values.gather(1, index[..., None].expand(-1, -1, 3))
        for values, index in zip(colours, (pixels[:, 0], there), strict=True)
    )
    difference = float((first - second).abs().mean(-1)[matches.visible[:, 0]].median())
    if not difference < _COLOUR_LIMIT:
        raise VerificationError(
            f"rendered views disagree: colours of the same points differ by {difference:.2f}",
            "report it with the name of the device; nothing was trained",
        )
    visible = float(matches.visible.float().mean())
    return {"images_per_second": round(rate, 1), "visible": visible, "colour_difference": difference}


def _check_packages(campaign: Campaign, device: torch.device) -> None:
    """Fail for a missing package before the minutes are spent."""
    if device.type == "cuda":
        require("cupy", "Scenes rendered on CUDA")
        if any(phase.train_only for phase in PHASES[campaign.phase]):
            require("gsplat", "Gaussians on CUDA")
    if campaign.photos:
        require("poselib", "Poses of measured photos")


def _textures(campaign: Campaign) -> Path:
    if campaign.textures.is_dir():
        return campaign.textures
    folder = campaign.output / "textures"
    if not folder.exists():
        unpack(campaign.textures, folder)
    return folder


def _canvases(long_side: int) -> tuple[tuple[int, int], ...]:
    """Shapes 4:3, 3:2, 16:9 and nearly square, in whole patches of any size of the network."""
    return tuple((max(16, round(long_side * share / 16) * 16), long_side) for share in (0.75, 2 / 3, 0.5625, 0.875))


def _capture(campaign: Campaign) -> Path | None:
    """Shards of the real photos; an output that was cut off has them already."""
    if not campaign.captures:
        return None
    folder = campaign.output / "captures"
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
    checkpoint = campaign.output / "run" / "checkpoint"
    earlier = load_state(checkpoint) if checkpoint.exists() else None
    return TrainConfig(
        output=str(campaign.output / "run"),
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
