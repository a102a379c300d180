"""What each part of flare-small's cascade and its correspondence loss give, from short trainings of equal length.

Rows of one kind and seed start from the same weights and see the same pairs of views in the same order:

- the rows about the cascade start with stage 1 of a trained network, stages 2 and 3 at random; all stages are trained;
- the rows about the correspondence loss start at random; stage 1 alone is trained.

Finished trainings in the folder are not repeated, so an interrupted table can be completed.

    python benchmarks/ablation.py ablation --textures textures --start weights/flare-small.safetensors --seeds 0 1
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from safetensors.torch import save_file

from flarecli.model.config_small import SIZES
from flarecli.model.flare_small import FlareSmall
from flarecli.train.checkpoint import load_shards, load_start
from flarecli.train.config import Phase, TrainConfig
from flarecli.train.data import ShardPlan, ShardSource, prerender
from flarecli.train.evaluate import evaluate_synthetic
from flarecli.train.loop import run
from flarecli.train.losses import LossWeights
from flarecli.train.textures import list_textures, load_stack, split_textures

CANVASES = ((48, 64), (40, 64), (48, 64), (56, 56))
LOSSES = LossWeights(pose=0.5, focal=2.0, points=1.0, match=0.4, descriptor=0.8, samples=64)
AFTER_STAGE_1 = ("enter.1.", "enter.2.", "stage2.", "stage3.", "pool.1.", "pose2.", "condition.", "local_points.",
                 "global_points.", "baseline.")  # fmt: skip
"""Parameters that stage 1 does without."""

_STAGE_1 = ("rotation_coarse", "direction_coarse", "auc30_coarse", "pck", "token_pck")
_STAGE_2 = ("rotation", "direction", "absrel")
_STAGE_3 = ("absrel_global", "points", "points_near")


@dataclass(frozen=True, slots=True)
class Variant:
    """One row.

    Attributes:
        columns: errors of what is trained.
        conditioning: suffix of the network's size.
        pose_noise: factor on the noise between the stages.
        weights: of the losses.
        stages: 1 starts at random and trains stage 1, 3 starts with a trained stage 1 and trains everything.
    """

    columns: tuple[str, ...]
    conditioning: str = ""
    pose_noise: float = 1.0
    weights: LossWeights = LOSSES
    stages: int = 3


VARIANTS = {
    "cascade": Variant(_STAGE_1 + _STAGE_2 + _STAGE_3),
    "direct": Variant(_STAGE_1 + _STAGE_3, "-direct", weights=replace(LOSSES, local=0.0)),
    "no-noise": Variant(_STAGE_1 + _STAGE_2 + _STAGE_3, pose_noise=0.0),
    "no-local": Variant(_STAGE_1 + _STAGE_3, "-coarse", weights=replace(LOSSES, local=0.0)),
    "correspondence": Variant(_STAGE_1, stages=1),
    "no-correspondence": Variant(_STAGE_1, weights=replace(LOSSES, match=0.0, descriptor=0.0), stages=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for shards, checkpoints and results")
    parser.add_argument("--textures", type=Path, required=True, help="folder of pictures to render scenes with")
    parser.add_argument("--start", type=Path, required=True, help="weights file or checkpoint with a trained stage 1")
    parser.add_argument("--size", default="xs", help="row of flarecli.model.config_small.SIZES that --start has")
    parser.add_argument("--shards", type=int, default=12, help="of training scenes")
    parser.add_argument("--scenes", type=int, default=256, help="per shard")
    parser.add_argument("--held-out", type=int, default=384, help="scenes to measure on")
    parser.add_argument("--steps", type=int, default=200, help="per training")
    parser.add_argument("--pairs", type=int, default=24, help="per step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    render(options)
    results: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for name in options.only:
            results.setdefault(name, []).append(measure(options, name, seed))
    print(table(results))


def render(options: argparse.Namespace) -> None:
    """Training shards, and held-out ones with textures that training never shows."""
    training, held_out = split_textures(list_textures(options.textures))
    plan = ShardPlan(options.shards, options.scenes, CANVASES, 901)
    prerender(load_stack(training, 128), options.folder / "training", plan)
    plan = ShardPlan(4, -(-options.held_out // 4), CANVASES, 902)
    prerender(load_stack(held_out, 128), options.folder / "held-out", plan)


def measure(options: argparse.Namespace, name: str, seed: int) -> dict[str, float]:
    """Errors on held-out pairs after the training of a row, and its CPU minutes."""
    variant, output = VARIANTS[name], options.folder / f"{name}-{seed}"
    if not (output / "result.json").exists():
        size, began = options.size + variant.conditioning, time.process_time()
        phase = Phase(
            share=1.0, shards=str(options.folder / "training"), stages=variant.stages, images=2 * options.pairs
        )
        start = str(stage_1_of(options, seed)) if variant.stages == 3 else None
        config = TrainConfig(
            output=str(output), minutes=1e6, phases=(phase,), size=size, start=start, device="cpu", seed=seed,
            threads=1, warmup=max(1, options.steps // 8), decay=0.4, ema=0.97, pose_noise=variant.pose_noise,
            checkpoint_minutes=1e6, max_steps=options.steps, weights=variant.weights,
        )  # fmt: skip
        checkpoint = run(config)
        minutes = (time.process_time() - began) / 60
        network = FlareSmall(SIZES[size])
        network.load_state_dict(load_shards(checkpoint, "ema"))
        held_out = ShardSource.open(options.folder / "held-out")
        found = evaluate_synthetic(network, held_out, options.held_out, 2, torch.device("cpu"))
        record = {"variant": asdict(variant), "steps": options.steps, "pairs": options.pairs, "cpu_minutes": minutes}
        (output / "result.json").write_text(json.dumps({**record, "errors": found}, indent=1))
    record = json.loads((output / "result.json").read_text())
    errors = {column: record["errors"][column] for column in variant.columns}
    return {**errors, "cpu_minutes": record["cpu_minutes"]}


def stage_1_of(options: argparse.Namespace, seed: int) -> Path:
    """Weights with stage 1 of the trained network and everything after it at random."""
    path = options.folder / f"stage-1-{seed}.safetensors"
    if not path.exists():
        torch.manual_seed(seed)
        fresh = FlareSmall(SIZES[options.size]).state_dict()
        trained = load_start(options.start)
        kept = {name: trained[name] for name in fresh if name in trained and not name.startswith(AFTER_STAGE_1)}
        save_file({**fresh, **kept}, path)
    return path


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: means over the seeds, and half their range where there are several."""
    columns = (*_STAGE_1, *_STAGE_2, *_STAGE_3, "cpu_minutes")
    lines = ["| row | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, rows in results.items():
        cells = [_cell([row[column] for row in rows if column in row]) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {(max(values) - min(values)) / 2:.2g}" if len(values) > 1 else ""
    return f"{fmean(values):.3g}{spread}"


if __name__ == "__main__":
    main()
