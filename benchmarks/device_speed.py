"""Time flare-small on one device: scenes rendered, photos predicted, steps trained; as JSON.

    python benchmarks/device_speed.py --textures textures.tar --device cuda --compile

Times are medians over repetitions after a warm-up, with the device waited for. Steps are those of the campaign's first
phase: 256 images of pairs, the losses and the optimisers of the training, on a batch that is there already.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.runtime import device_name, inference_precision, resolve_device
from flarecli.scene.views import Views
from flarecli.train.cameras import RigRules
from flarecli.train.generator import Batch, Generator
from flarecli.train.losses import LossWeights, compute_losses
from flarecli.train.optimizer import build_optimizers, take_step
from flarecli.train.primitives import Draw
from flarecli.train.renderer import RenderSize
from flarecli.train.targets import make_targets
from flarecli.train.textures import list_textures, load_stack, unpack

VIEWS = (2, 4, 8)


def seconds(work: Callable[[], object], device: torch.device, repeat: int) -> float:
    """Median time of one call."""
    times = []
    for _ in range(repeat + 1):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def predict_ms(network: FlareSmall, batch: Batch, device: torch.device, repeat: int) -> dict[int, float]:
    """Milliseconds of one pass by number of views, the Gaussian head included."""
    network.eval()
    found = {}
    for count in VIEWS:
        rgb, portrait = batch.rgb.flatten(0, 1)[:count], batch.portrait.flatten()[:count]
        views = Views(rgb.clamp(0, 1), portrait)
        with inference_precision(device):
            found[count] = round(1000 * seconds(lambda views=views: network.predict(views), device, repeat), 1)
    return found


def step_seconds(network: FlareSmall, batch: Batch, stages: int, device: torch.device, repeat: int) -> float:
    """Seconds of one training step."""
    network.train()
    optimizers, draw = build_optimizers(network, 8e-4, 0.01, 0.03), Draw.seeded(0, device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            out = network(batch.rgb, batch.portrait, stages)
        terms = compute_losses(out, make_targets(batch), LossWeights(), draw)
        network.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        take_step(network, optimizers, 0.01, 1.0)

    return seconds(step, device, repeat)


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--textures", type=Path, required=True, help="folder of pictures, or the tar file of them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", default="s")
    parser.add_argument("--long-side", type=int, default=224)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--texture-size", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="also time steps with translated blocks")
    options = parser.parse_args()
    device = resolve_device(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if options.textures.is_file() else options.textures
        if options.textures.is_file():
            unpack(options.textures, folder)
        stack = load_stack(list_textures(folder), options.texture_size, device)
    generator = Generator(stack, Draw.seeded(0, device))
    size = RenderSize(options.long_side * 3 // 4 // 16 * 16, options.long_side)
    scenes = options.images // 2
    rendering = seconds(lambda: generator.batch(scenes, RigRules(2), size), device, options.repeat)
    batch = generator.batch(max(scenes, max(VIEWS) // 2), RigRules(2), size)
    network = FlareSmall(SIZES[options.size]).to(device)
    report = {
        "device": device_name(device),
        "size": options.size,
        "images_rendered_per_s": round(2 * scenes / rendering, 1),
        "predict_ms": predict_ms(network, batch, device, options.repeat),
        "pairs_trained_per_s": {},
    }
    for name in ("as written", "translated") if options.compile else ("as written",):
        if name == "translated":
            network.compile_blocks()
        for stages in (1, 3):
            taken = step_seconds(network, batch, stages, device, options.repeat)
            report["pairs_trained_per_s"][f"{name}, stages {stages}"] = round(len(batch.kind) / taken, 1)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
